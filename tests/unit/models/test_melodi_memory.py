"""What is kept of a text: every cell of the paper's tables, and what the states really hold."""

from __future__ import annotations

from typing import Any

import pytest

from memstore.models.melodi_config import Architecture, MelodiConfig
from memstore.models.melodi_memory import Convention, memory_floats, mixer_weights
from tests.tiny_melodi import VARIANTS, make_model

TXL, MEMORIZING, RECURRENT = (
    Architecture.TRANSFORMER_XL,
    Architecture.MEMORIZING,
    Architecture.BLOCK_RECURRENT,
)


def config(
    architecture: Architecture = Architecture.MELODI, sizes: tuple[int, int] = (0, 0), **more: Any
) -> MelodiConfig:
    """Return the paper's shape with S and L tokens."""
    short, long = sizes
    return MelodiConfig(
        vocab_size=32_000,
        architecture=architecture,
        num_short_tokens=short,
        num_summary_tokens=short,
        num_long_tokens=long,
        **more,
    )


def millions(floats: int) -> float:
    """Round as the paper does."""
    return round(floats / 1e6, 1)


@pytest.mark.parametrize(
    ("architecture", "sizes", "total", "short", "long"),
    [
        (TXL, (0, 0), 12.6, 12.6, 0),
        (RECURRENT, (0, 0), 12.1, 12.1, 0),
        (Architecture.MELODI, (192, 32), 10.8, 2.4, 8.4),
        (MEMORIZING, (0, 0), 146.8, 12.6, 134.2),
        (Architecture.MELODI, (128, 64), 18.4, 1.6, 16.8),
        (Architecture.MELODI, (192, 96), 27.6, 2.4, 25.2),
    ],
)
def test_the_main_table(
    architecture: Architecture, sizes: tuple[int, int], total: float, short: float, long: float
) -> None:
    """Twelve layers, window 512: the memory column and its two parts."""
    floats = memory_floats(config(architecture, sizes))

    assert (millions(floats.short), millions(floats.long)) == (short, long)
    assert round(short + long, 1) == total  # the table adds its own rounded parts


TABLED = [
    (TXL, (0, 0)),
    (MEMORIZING, (0, 0)),
    (Architecture.MELODI, (128, 64)),
    (Architecture.MELODI, (192, 96)),
]


@pytest.mark.parametrize(
    ("depth", "cells"),
    [
        (12, (12.6, 146.8, 18.4, 27.6)),
        (24, (25.2, 159.4, 20.0, 30.0)),
        (36, (37.8, 172.0, 21.6, 32.4)),
    ],
)
def test_the_scaling_table_by_depth(depth: int, cells: tuple[float, ...]) -> None:
    """The table takes its rounded parts of twelve layers two and three times; so is it rounded."""
    for (architecture, sizes), cell in zip(TABLED, cells, strict=True):
        twelve = memory_floats(config(architecture, sizes))
        deep = memory_floats(config(architecture, sizes, num_layers=depth))

        assert deep.short * 12 == twelve.short * depth
        assert deep.long == twelve.long
        as_tabled = millions(twelve.short) * depth / 12 + millions(deep.long)
        assert round(as_tabled, 1) == cell
        assert deep.total / 1e6 == pytest.approx(cell, abs=0.16)


def test_the_scaling_table_at_width_1536() -> None:
    """Sixteen layers, rounded once."""
    size: dict[str, Any] = {"num_layers": 16, "dim": 1536, "ffn_dim": 6144}

    totals = [memory_floats(config(kind, sizes, **size)).total for kind, sizes in TABLED]

    assert [millions(each) for each in totals] == [25.2, 226.5, 28.3, 42.5]


@pytest.mark.parametrize(("window", "queue_windows"), [(512, 128), (1024, 64), (2048, 32)])
def test_the_history_is_64k_tokens_at_every_window(window: int, queue_windows: int) -> None:
    """With S/W and L/W held: the queue costs the same, the short-term memory grows."""
    grown: dict[str, Any] = {"window": window, "queue_windows": queue_windows}

    melodi = memory_floats(config(sizes=(window // 4, window // 8), **grown))
    memorizing = memory_floats(config(MEMORIZING, **grown))

    assert melodi.long == 2 * 8192 * 1024
    assert memorizing.long == 2 * 65_536 * 1024
    assert melodi.short == window // 4 * 12 * 1024


def test_embeddings_everywhere_still_favour_melodi() -> None:
    """73.4M against 10.0M: 7.4 times, where the paper's convention gives 8.0."""
    melodi, memorizing = config(sizes=(128, 64)), config(MEMORIZING)

    even = [memory_floats(each, Convention.EMBEDDINGS).total for each in (memorizing, melodi)]
    paper = [memory_floats(each).total for each in (memorizing, melodi)]

    assert [millions(each) for each in even] == [73.4, 10.0]
    assert round(even[0] / even[1], 1) == 7.4
    assert round(paper[0] / paper[1], 1) == 8.0


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_states_hold_what_the_formula_says(changes: dict[str, Any]) -> None:
    """Tensor by tensor, the position left out."""
    model = make_model(**changes)
    tensors = model.initial_state(1).to_tensors()

    held = sum(each.numel() for name, each in tensors.items() if name != "position")

    assert held == memory_floats(model.config, Convention.STORED).total


@pytest.mark.parametrize(
    ("depth", "sizes", "branches", "total"),
    [(12, (128, 64), 2.0, 153), (24, (128, 64), 3.9, 306), (24, (192, 96), 6.5, 309)],
)
def test_mixers_add_what_the_paper_reports(
    depth: int, sizes: tuple[int, int], branches: float, total: int
) -> None:
    """2·(W + S)·S for each layer and (W + S)·L, on 151M and 302M parameters."""
    short, long = sizes
    transformer = depth * 12 * 1024**2

    added = mixer_weights(config(sizes=sizes, num_layers=depth))

    of_queue = (512 + short) * long
    assert added - of_queue == 2 * (512 + short) * short * depth
    assert millions(added - of_queue) == branches
    assert round((transformer + added) / 1e6) == total


@pytest.mark.parametrize(
    "name",
    ["melodi", "more summary than short", "no branching", "no queue", "no short-term memory"],
)
def test_mixer_weights_are_those_of_the_model(name: str) -> None:
    """Counted in the module; all else that MELODI adds is small."""
    model = make_model(**VARIANTS[name])

    mixers = [each for key, each in model.named_parameters() if key.endswith("mix.weight")]

    assert sum(each.numel() for each in mixers) == mixer_weights(model.config)
