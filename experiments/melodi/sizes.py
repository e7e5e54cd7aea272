"""How large the models are, how long they learn, what they are asked: one size a machine."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_jobs.melodi_options import MelodiOptions
from experiments.melodi.recall import RecallTask
from experiments.melodi.recalling import Course, RecallTest, Stage
from memstore.models.melodi_config import MelodiConfig

_VOCABULARY = 1024


@dataclass(frozen=True)
class Size:
    """Everything that the cost of the experiment depends on.

    Args:
        language: shape of the language models; an arm says S, L and the architecture. Tokens are
            pairs of bytes merged as the training text suggests; 256 of them: bytes.
        training: of a language model; the seed is an arm's.
        further: how one learns on, with a compressed queue or as long without.
        most_tokens: a held-out document is read so far.
        decay: of the moving averages that move a codebook in training.
        num_entries: of queues that a codec is fitted to, at most.
        recall: shape of the models that are asked; as `language`. Slots that no window has filled
            are masked: softmax over a queue of zeros tells a model that begins too little to learn
            from in minutes.
        task, course, test: what they learn, and what they are asked.
        num_seeds: of weights, order of documents and streams.
    """

    language: MelodiConfig
    training: MelodiOptions
    further: MelodiOptions
    most_tokens: int
    decay: float
    num_entries: int
    recall: MelodiConfig
    task: RecallTask
    course: Course
    test: RecallTest
    num_seeds: int


_RECALL = RecallTask(window=16, pairs=1, questions=5)

SIZES = {
    "cpu": Size(
        language=MelodiConfig(
            vocab_size=_VOCABULARY,
            dim=128,
            num_layers=4,
            num_heads=4,
            ffn_dim=512,
            window=64,
            queue_windows=32,
            dropout=0.0,
        ),
        training=MelodiOptions(steps=880, batch_size=4, learning_rate=3e-3, warmup_steps=80),
        further=MelodiOptions(steps=160, batch_size=4, learning_rate=6e-4, warmup_steps=16),
        most_tokens=128 * 64 + 1,
        decay=0.99,
        num_entries=20_000,
        recall=MelodiConfig(
            vocab_size=_RECALL.vocab_size,
            dim=64,
            num_layers=2,
            num_heads=2,
            ffn_dim=128,
            window=_RECALL.window,
            queue_windows=64,
            masks_empty_slots=True,
            dropout=0.0,
        ),
        task=_RECALL,
        course=Course(
            stages=(
                Stage(200, (1, 4), 8, 1),
                Stage(80, (1, 16), 32, 1),
                Stage(200, (1, 64), 80, 1),
            ),
            num_streams=32,
            segment_windows=8,
            learning_rate=5e-3,
            fast_rate=10.0,
        ),
        test=RecallTest(
            distances=(1, 4, 16, 64),
            num_streams=64,
            num_windows=80,
            num_passkeys=256,
            pair_places=1,
        ),
        num_seeds=3,
    ),
    "gpu": Size(
        language=MelodiConfig(
            vocab_size=_VOCABULARY,
            dim=256,
            num_layers=6,
            num_heads=4,
            ffn_dim=1024,
            window=128,
            queue_windows=64,
        ),
        training=MelodiOptions(
            steps=8000, batch_size=64, micro_batch=64, learning_rate=2e-3, warmup_steps=500
        ),
        further=MelodiOptions(
            steps=1000, batch_size=64, micro_batch=64, learning_rate=4e-4, warmup_steps=100
        ),
        most_tokens=256 * 128 + 1,
        decay=0.99,
        num_entries=100_000,
        recall=MelodiConfig(
            vocab_size=_RECALL.vocab_size,
            dim=128,
            num_layers=4,
            num_heads=4,
            ffn_dim=512,
            window=_RECALL.window,
            queue_windows=64,
            masks_empty_slots=True,
            dropout=0.0,
        ),
        task=_RECALL,
        course=Course(
            stages=(
                Stage(400, (1, 4), 8, 1),
                Stage(200, (1, 7), 8, 2),
                Stage(400, (1, 7), 8, 4),
                Stage(2000, (1, 7), 8, 8),
                Stage(1000, (1, 16), 32, 8),
                Stage(2000, (1, 64), 80, 8),
            ),
            num_streams=128,
            segment_windows=8,
            learning_rate=3e-3,
            fast_rate=10.0,
        ),
        test=RecallTest(
            distances=(1, 4, 16, 64),
            num_streams=128,
            num_windows=80,
            num_passkeys=512,
            pair_places=8,
        ),
        num_seeds=3,
    ),
}
