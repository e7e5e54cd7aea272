"""MELODI: tokens a second of training, reading and writing, against models that keep more or less.

Weights and texts are random: time does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.harness import (
    Cell,
    Context,
    Outcome,
    Table,
    Timings,
    check,
    measure,
    quotient,
    rate,
)
from encoder_jobs.melodi_learner import Learner
from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.ragged import Ragged
from experiments.melodi.arms import (
    BLOCK_RECURRENT,
    MELODI,
    MEMORIZING,
    SMALL,
    TRANSFORMER_XL,
    arms,
    count_weights,
    make_config,
)
from memstore.models.melodi import Melodi, Window
from memstore.models.melodi_config import MelodiConfig
from memstore.models.melodi_memory import memory_floats
from memstore.models.melodi_state import StreamState

_NAMES = (TRANSFORMER_XL, BLOCK_RECURRENT, MEMORIZING, SMALL, MELODI)
_SEGMENT_WINDOWS = 8
_TOLERANCE = 2e-4

_SHAPE = MelodiConfig(
    vocab_size=4096,
    dim=256,
    num_layers=6,
    num_heads=4,
    ffn_dim=1024,
    window=128,
    queue_windows=64,
    dropout=0.0,
)
_QUICK = MelodiConfig(
    vocab_size=64,
    dim=32,
    num_layers=4,
    num_heads=2,
    ffn_dim=64,
    window=32,
    queue_windows=4,
    dropout=0.0,
)


class Reader:
    """One model, its learner, and a text that has filled its memory.

    Args:
        config: of the model.
        batch_size: streams that are trained on together.
        seed: of weights and texts.
    """

    def __init__(self, config: MelodiConfig, batch_size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        num_windows = config.queue_windows + _SEGMENT_WINDOWS
        texts = rng.integers(config.vocab_size, size=(batch_size, num_windows * config.window + 1))
        options = MelodiOptions(
            segment_windows=_SEGMENT_WINDOWS,
            steps=10**6,
            batch_size=batch_size,
            micro_batch=batch_size,
            seed=seed,
        )
        self.learner = Learner(config, options, Ragged.of(list(texts)))
        self.text = torch.from_numpy(texts[:1])
        self.model = Melodi(config).eval()
        self.state = self.read(self.text[:, : config.queue_windows * config.window])
        self._step, self._window = 0, self.model.open_window(self.state)

    @torch.no_grad()
    def read(self, tokens: torch.Tensor, state: StreamState | None = None) -> StreamState:
        """Read whole windows of a text and return the state after them."""
        after: StreamState = self.model(tokens, state).state
        return after

    def learn(self, _: int) -> None:
        """Make one step of training: a segment of every stream."""
        self._step += 1
        self.learner.learn(self._step)

    def read_segment(self, _: int) -> None:
        """Read a segment of one text, its memory being full."""
        length = _SEGMENT_WINDOWS * self.model.config.window
        self.read(self.text[:, :length], self.state)

    @torch.no_grad()
    def write_token(self, turn: int) -> None:
        """Read one token of one text and predict the next; windows fill and memory is written."""
        token = self.text[:, turn : turn + 1]
        self._window = self.model.extend(self._window, token)[1]

    def restart(self) -> Window:
        """Go back to the start of a window."""
        self._window = self.model.open_window(self.state)
        return self._window


def run(context: Context) -> Outcome:
    """Time training, reading and writing of all models in turns."""
    base, batch_size = (_QUICK, 2) if context.quick else (_SHAPE, 4)
    rounds, calls = (2, 2) if context.quick else (7, 3)
    all_arms = arms("language")
    configs = {name: make_config(all_arms[name], base) for name in _NAMES}
    readers = {name: Reader(each, batch_size, context.seed) for name, each in configs.items()}
    gates = check(
        {f"{name}: token by token as a segment": partial(_agrees, readers[name]) for name in _NAMES}
    )
    segment = _SEGMENT_WINDOWS * base.window
    tables = []
    for title, verb, amount, turns in (
        (f"Training, {batch_size} streams, tokens a second", "learn", batch_size * segment, calls),
        ("Reading a segment of one text", "read_segment", segment, 2 * calls),
        ("Writing token by token", "write_token", 1, base.window),
    ):
        functions: dict[str, Callable[[int], object]] = {
            name: getattr(reader, verb) for name, reader in readers.items()
        }
        for reader in readers.values():
            reader.restart()
        timings = measure(functions, rounds=rounds, calls=turns)
        tables.append(_table(title, timings, amount, configs))
    return Outcome(
        gates=gates,
        settings={
            "dim": base.dim,
            "layers": base.num_layers,
            "window": base.window,
            "queue windows": base.queue_windows,
            "vocabulary": base.vocab_size,
            "segment windows": _SEGMENT_WINDOWS,
            "streams": batch_size,
            "threads": torch.get_num_threads(),
        },
        tables=tables,
        notes=(
            "All models have the same number of weights to within 1 %: the width of their "
            "feed-forward layers makes up for mixers and gates.",
            "Reading and writing: one text, memory full. A turn of writing is one token; a "
            "round is a window, at whose end memory is written.",
            f"Times over {MELODI}: above 1, the model is slower.",
        ),
    )


@torch.no_grad()
def _agrees(reader: Reader) -> bool:
    """Say whether the prediction after windows read token by token is that of all read at once."""
    model, length = reader.model, reader.model.config.window + 3
    tokens = reader.text[:, :length]
    window = reader.restart()
    for at in range(length):
        logits, window = model.extend(window, tokens[:, at : at + 1])
    at_once = model(tokens, reader.state).logits[:, -1]
    return torch.allclose(logits, at_once, atol=_TOLERANCE, rtol=_TOLERANCE)


def _table(title: str, timings: Timings, amount: int, configs: dict[str, MelodiConfig]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            count_weights(configs[name]),
            memory_floats(configs[name]).total,
            rate(seconds, amount, "tokens/s"),
            quotient(seconds, timings[MELODI]),
        )
        for name, seconds in timings.items()
    ]
    columns = ("model", "weights", "memory floats", "speed", f"time over {MELODI}")
    return Table(title=title, columns=columns, rows=rows)
