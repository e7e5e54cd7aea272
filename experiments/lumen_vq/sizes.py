"""How large a model, how long it learns, how many questions it answers: one size a machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from experiments.lumen_vq.world import TaskOptions


@dataclass(frozen=True)
class Shape:
    """A T5 with tied embeddings, ReLU and RMSNorm, without dropout: no text is read twice.

    Args:
        dim: D, of the model and of a memory.
        ffn_dim: of the feed-forward layers.
        num_heads: small ones, so that several look at neighbours.
        head_dim: of each; together they may be narrower than `dim`.
        num_layers: of the encoder.
        num_decoder_layers: of the decoder.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    head_dim: int
    num_layers: int
    num_decoder_layers: int


@dataclass(frozen=True)
class Stage:
    """One run of the optimizer.

    Args:
        num_steps: after a warm-up over the first 100, the learning rate falls to a twentieth.
        tokens: of passages in a step, padding included.
        learning_rate: at its height, of AdamW.
        num_passages: K, of one part of the steps after the other.
        position_rate: the learning rate of the position biases, times `learning_rate`. They start
            near 0 and must grow to several units, which the rate of matrices does not allow.
    """

    num_steps: int
    tokens: int
    learning_rate: float
    num_passages: tuple[int, ...]
    position_rate: float


@dataclass(frozen=True)
class Size:
    """Everything that the cost of the experiment depends on.

    Args:
        shape: of the model.
        recite: how the model learns to read at all, before it is asked anything.
        ask: how FiD learns to answer.
        adapt: how a FiD that was cut learns to read memories.
        joint: how a reader learns on, through a bottleneck or as long without one.
        decay: of the bottleneck's moving averages; MEMORY-VQ's 0.999 is for far longer stages.
        live_fractions: of LUMEN.
        num_passages: K, of a question of the test.
        num_test: questions of the test, the same under every seed.
        num_seeds: of weights and training questions.
        task: how hard the questions are.
    """

    shape: Shape
    recite: Stage
    ask: Stage
    adapt: Stage
    joint: Stage
    decay: float
    live_fractions: tuple[str, ...]
    num_passages: int
    num_test: int
    num_seeds: int
    task: TaskOptions = field(default_factory=TaskOptions)


SIZES = {
    "cpu": Size(
        shape=Shape(
            dim=96, ffn_dim=192, num_heads=8, head_dim=12, num_layers=3, num_decoder_layers=2
        ),
        recite=Stage(1000, 3500, 4e-3, (1, 2, 4, 8), 25),
        ask=Stage(500, 5000, 2e-3, (2, 2, 4, 8, 8), 5),
        adapt=Stage(300, 5000, 2e-3, (8,), 5),
        joint=Stage(600, 5000, 2e-3, (8,), 5),
        decay=0.99,
        live_fractions=("0", "1/3", "2/3"),
        num_passages=8,
        num_test=20_000,
        num_seeds=3,
    ),
    "gpu": Size(
        shape=Shape(
            dim=768, ffn_dim=1536, num_heads=48, head_dim=16, num_layers=6, num_decoder_layers=3
        ),
        recite=Stage(4000, 40_000, 1e-3, (1, 2, 4, 8), 25),
        ask=Stage(4000, 40_000, 5e-4, (2, 2, 4, 8, 8), 5),
        adapt=Stage(2000, 40_000, 5e-4, (8,), 5),
        joint=Stage(2000, 40_000, 2.5e-4, (8,), 5),
        decay=0.999,
        live_fractions=("0", "1/6", "1/3", "1/2"),
        num_passages=8,
        num_test=40_000,
        num_seeds=5,
    ),
}
