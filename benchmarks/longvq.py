"""LongVQ: time and memory by length of the text, against attention that looks at every token.

The rivals are torch's own TransformerEncoder of the same width and depth, its attention fused
(scaled_dot_product_attention) or, as the vanilla Transformer has it, with all weights in memory.
Weights and texts are random: neither time nor memory depends on their values. Training is timed as
any program would do it, and again as this project's commands do: they keep what a step frees.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.harness import (
    Cell,
    Context,
    Outcome,
    Table,
    check,
    measure,
    quotient,
    rate,
)
from encoder_jobs.freed_memory import freed_memory_kept
from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import Attention, KeyGradient, LongVQConfig

VANILLA, FUSED = "vanilla attention", "scaled_dot_product_attention"
SPACE, LONGVQ, CHECKPOINTED = "state space alone", "LongVQ", "LongVQ, checkpointing"
_OURS = (SPACE, LONGVQ, CHECKPOINTED)
NAMES = (VANILLA, FUSED, *_OURS)

_AIMS = {
    (VANILLA, 4096): "5.3 in time, 10 in memory (the paper's)",
    (FUSED, 16_384): "5 in time",
}

Place = tuple[str, int]
"""A model, and a length in tokens."""

_TOLERANCE = 1e-4
_MIB = 1 << 20
_SHORT = 64  # tokens of a step that fills pools and caches before memory is measured
# glibc keeps freed blocks below a threshold that it raises; with these it gives all of them back.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


@dataclass(frozen=True)
class Shape:
    """What is compared.

    Attributes:
        config: of LongVQ; the rivals have its width, depth and vocabulary, heads of 64 and a
            feed-forward layer four times as wide as the model, as Transformers have.
        lengths: of a text, and which models read it: quadratic ones take minutes beyond.
        rounds: of timing.
    """

    config: LongVQConfig
    lengths: dict[int, tuple[str, ...]]
    rounds: int = 4

    def places(self) -> Iterator[Place]:
        """Return every model at every length that it reads."""
        return ((name, length) for length, names in self.lengths.items() for name in names)


_FULL = Shape(
    config=LongVQConfig(vocab_size=256, dim=256, num_layers=4),
    lengths={
        1024: NAMES,
        4096: NAMES,
        8192: _OURS,
        16_384: (FUSED, *_OURS),
        65_536: _OURS,
    },
)
_QUICK = Shape(
    config=LongVQConfig(
        vocab_size=256, dim=64, num_layers=2, num_codes=16, key_dim=16, value_dim=64, window=32
    ),
    lengths={128: NAMES, 256: NAMES},
    rounds=2,
)
_SHAPES = {"full": _FULL, "quick": _QUICK}
_TRAIN, _READ = "train", "read"


class Transformer(nn.Module):
    """A Transformer that looks at every token, in both directions.

    Args:
        config: see `Shape`.
        backends: how attention may be computed, the best first.
    """

    def __init__(self, config: LongVQConfig, *backends: SDPBackend) -> None:
        super().__init__()
        self._backends = list(backends)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        layer = nn.TransformerEncoderLayer(
            config.dim,
            max(1, config.dim // 64),
            4 * config.dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (B, L, D) of (B, L) tokens."""
        with sdpa_kernel(self._backends, set_priority=True):
            hidden: torch.Tensor = self.encoder(self.embedding(tokens))
        return hidden


def build(name: str, config: LongVQConfig) -> nn.Module:
    """Return a model by name, its weights drawn by a fixed seed."""
    torch.manual_seed(0)
    if name == VANILLA:
        return Transformer(config, SDPBackend.MATH)
    if name == FUSED:
        # On a GPU the first is not for float32.
        return Transformer(config, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
    if name == SPACE:
        config = replace(config, attention=Attention.NONE)
    return LongVQ(config, checkpointing=name == CHECKPOINTED)


def train(model: nn.Module, tokens: torch.Tensor) -> None:
    """Run a model forward and backward, all but the optimizer's part of a step."""
    output = model.train()(tokens)
    hidden = output if isinstance(output, torch.Tensor) else output.hidden
    hidden.square().mean().backward()
    for weight in model.parameters():
        weight.grad = None


@torch.no_grad()
def read(model: nn.Module, tokens: torch.Tensor) -> None:
    """Run a model forward."""
    model.eval()(tokens)


def run(context: Context) -> Outcome:
    """Time both passes at every length in turns, then measure memory, a process for each."""
    torch.backends.mha.set_fastpath_enabled(False)  # which has an attention of its own
    shape = _SHAPES["quick" if context.quick else "full"]
    gates = check({"attention through codes gives what its dense form gives": _agrees})
    models = {name: build(name, shape.config) for name in NAMES}
    training, reading = (_time(step, models, shape) for step in (train, read))
    with freed_memory_kept():
        kept = _time(train, models, shape)
    held, held_reading = (
        {
            (name, length): _measure_memory(name, length, mode, quick=context.quick)
            for name, length in shape.places()
            if mode == _TRAIN or name != CHECKPOINTED
        }
        for mode in (_TRAIN, _READ)
    )
    return Outcome(
        gates=gates,
        settings={
            "dim": shape.config.dim,
            "layers": shape.config.num_layers,
            "codes": shape.config.num_codes,
            "window": shape.config.window,
            "texts in a batch": 1,
            "threads": torch.get_num_threads(),
        },
        tables=[
            table("Training step, tokens a second", speeds(training, shape), shape),
            table("The same, freed memory kept", speeds(kept, shape), shape),
            table("Reading, tokens a second", speeds(reading, shape), shape),
            table("Memory of a training step, MiB", held, shape),
            table("Memory of reading, MiB", held_reading, shape),
            ratios(training, kept, held, shape),
        ],
        notes=(
            "A training step is forward and backward, without the optimizer; float32.",
            "The vanilla Transformer keeps all that it computes, as LongVQ without checkpointing "
            "does; over LongVQ with checkpointing, memory is of one that does not compute again "
            "over one that does.",
            "Weights: " + ", ".join(f"{name} {_millions(model)}" for name, model in models.items()),
            "Memory: how far a training step raises the process above what it held before, every "
            "freed block given back; gradients of the weights are in it.",
        ),
    )


def _agrees() -> bool:
    tokens = torch.randint(256, (2, 1024))
    outputs = []
    for gradient in (KeyGradient.MOMENTS, KeyGradient.DENSE):
        model = build(LONGVQ, replace(_FULL.config, key_gradient=gradient)).train()
        with torch.no_grad():
            outputs.append(model(tokens).hidden)
    return torch.allclose(outputs[0], outputs[1], atol=_TOLERANCE, rtol=_TOLERANCE)


def _time(
    step: Callable[[nn.Module, torch.Tensor], None], models: dict[str, nn.Module], shape: Shape
) -> dict[Place, np.ndarray]:
    places = {f"{name}, {length}": (name, length) for name, length in shape.places()}
    functions = {}
    for label, (name, length) in places.items():
        tokens = torch.randint(shape.config.vocab_size, (1, length))
        functions[label] = partial(_ignoring_turn, step, models[name], tokens)
    timings = measure(functions, rounds=shape.rounds)
    return {place: timings[label] for label, place in places.items()}


def _ignoring_turn(
    step: Callable[[nn.Module, torch.Tensor], None],
    model: nn.Module,
    tokens: torch.Tensor,
    _turn: int,
) -> None:
    step(model, tokens)


def _millions(model: nn.Module) -> str:
    return f"{sum(each.numel() for each in model.parameters()) / 1e6:.2f}M"


def _measure_memory(name: str, length: int, mode: str, *, quick: bool) -> int:
    """Return MiB that a pass takes at its height, measured in a process of its own."""
    size = "quick" if quick else "full"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.longvq", name, str(length), mode, size],
        env={**os.environ, **_GIVE_BACK},
        capture_output=True,
        text=True,
        check=True,
    )
    return round(int(done.stdout) / _MIB)


def speeds(timings: Mapping[Place, np.ndarray], shape: Shape) -> dict[Place, Cell]:
    """Return tokens a second of every model at every length."""
    return {place: rate(timings[place], place[1], "tokens/s") for place in shape.places()}


def table(
    title: str, cells: Mapping[Place, Cell], shape: Shape, names: Sequence[str] = NAMES
) -> Table:
    """Return a table with a row for each model and a column for each length."""
    rows: list[tuple[Cell, ...]] = [
        (name, *(cells.get((name, length), "") for length in shape.lengths)) for name in names
    ]
    columns = ("model", *(f"{length:,} tokens" for length in shape.lengths))
    return Table(title=title, columns=columns, rows=rows)


def ratios(
    timings: Mapping[Place, np.ndarray],
    kept: Mapping[Place, np.ndarray],
    memory: Mapping[Place, int],
    shape: Shape,
) -> Table:
    """Return how many times more the rivals need, and how time grows with length.

    Args:
        timings: of training steps.
        kept: the same, freed memory kept.
        memory: of a training step, MiB.
        shape: what was compared.
    """

    def over(needed: Place, place: Place) -> tuple[Cell, ...]:
        if needed not in timings or place not in timings:
            return "", "", ""
        return (
            quotient(timings[needed], timings[place]),
            quotient(kept[needed], kept[place]),
            round(memory[needed] / max(1, memory[place]), 1),
        )

    rows: list[tuple[Cell, ...]] = [
        (
            f"{rival} over {ours}, {length:,} tokens",
            _AIMS.get((rival, length), ""),
            *over((rival, length), (ours, length)),
        )
        for rival in (VANILLA, FUSED)
        for length, names in shape.lengths.items()
        if rival in names
        for ours in (LONGVQ, CHECKPOINTED)
    ]
    longest, shorter = max(shape.lengths), max(shape.lengths) // 8
    if shorter in shape.lengths:
        aim = "at most 9 in time" if longest == 65_536 else ""
        rows += [
            (
                f"{ours}, {longest:,} tokens over {shorter:,}",
                aim,
                *over((ours, longest), (ours, shorter)),
            )
            for ours in (LONGVQ, CHECKPOINTED)
        ]
    columns = ("training step", "aim", "time", "time, freed memory kept", "memory")
    return Table(title="Ratios", columns=columns, rows=rows)


def _print_memory(name: str, length: str, mode: str, size: str) -> None:
    """Print by how many bytes a pass raises this process; what the benchmark runs."""
    config, step = _SHAPES[size].config, train if mode == _TRAIN else read
    torch.backends.mha.set_fastpath_enabled(False)
    model = build(name, config)
    step(model, torch.randint(config.vocab_size, (1, _SHORT)))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    step(model, torch.randint(config.vocab_size, (1, int(length))))
    print(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    _print_memory(*sys.argv[1:])
