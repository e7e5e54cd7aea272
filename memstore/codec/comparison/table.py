"""Train every family on one part of a sample, measure it on the other, several times over."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from memstore.codec.comparison.families import FAMILIES, Family, what_it_lacks
from memstore.codec.comparison.quantizers import Quantizer
from memstore.codec.quality import ReconstructionError, measure
from memstore.codec.sample import Sample
from memstore.errors import ConfigError, InvalidInputError

_ROWS = 1 << 13  # encoded and decoded at a time
_WARM_UP_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One family at one rate; means over the seeds, of speeds the median.

    Attributes:
        rate: the compression that was asked for, of the codes; None: the family has but its own.
        bytes_per_token: all that is kept of a token: codes, token id, length, scales.
        relative_mse, spread: on held-out memories, and its standard deviation over the seeds.
        layer_norm_mse, rms_norm_mse, cosine: see `ReconstructionError`.
        encode_tokens_per_s, decode_tokens_per_s: on this machine, with all its cores.
        codec_bytes: tables that a reader must have.
    """

    family: str
    rate: int | None
    bytes_per_token: float
    relative_mse: float
    spread: float
    layer_norm_mse: float
    rms_norm_mse: float
    cosine: float
    encode_tokens_per_s: int
    decode_tokens_per_s: int
    codec_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was measured.

    Attributes:
        rows: family by family.
        left_out: "family" or "family at rate" to why it was not measured.
        dim: D; compressions are against 2 D bytes a token.
        num_vectors: in the sample.
        held_out: share of it that errors were measured on.
        num_seeds: times that all was done.
    """

    rows: tuple[Row, ...]
    left_out: dict[str, str]
    dim: int
    num_vectors: int
    held_out: float
    num_seeds: int

    @property
    def best(self) -> dict[int, Row]:
        """The family with the least error at each rate that was asked for."""
        best: dict[int, Row] = {}
        for row in sorted(self.rows, key=lambda row: row.relative_mse, reverse=True):
            if row.rate is not None:
                best[row.rate] = row
        return dict(sorted(best.items()))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, `best` by the names of families."""
        return {**asdict(self), "best": {str(k): row.family for k, row in self.best.items()}}


class Step(NamedTuple):
    """Progress: `done` of `total` measurements; `what` is the next, and `left_s` the time for all
    that are left, as far as it can be told.
    """

    done: int
    total: int
    what: str
    left_s: float | None


@dataclass(frozen=True, slots=True)
class _Measured:
    error: ReconstructionError
    bytes_per_token: float
    encode_s: float
    decode_s: float
    num_tokens: int
    codec_bytes: int


Cell = tuple[str, int | None]


def compare(
    sample: Sample,
    *,
    families: Sequence[str] | None = None,
    rates: Sequence[int] | None = None,
    held_out: float = 0.1,
    num_seeds: int = 1,
    progress: Callable[[Step], None] | None = None,
) -> Comparison:
    """Train and measure families of quantizers on a sample.

    Each seed holds out other documents, trains all anew on the rest, and measures on what was held
    out.

    Args:
        sample: memories, of documents where they are known.
        families: names in `FAMILIES`; None: all that the sample suits.
        rates: compressions of the codes; None: those of each family.
        held_out: share of the rows.
        num_seeds: times that all is done.
        progress: called before each measurement, and at the end.

    Raises:
        ConfigError: if an argument is not such, or no family suits the sample.
        ShapeError: if nothing can be held out.
    """
    _check(families, rates, held_out, num_seeds)
    chosen, left_out = _choose(sample, families)
    cells = [cell for family in chosen for cell in _cells(family, rates)]
    measured: dict[Cell, list[_Measured]] = {cell: [] for cell in cells}
    clock = _Clock(cells, num_seeds, progress)
    for seed in range(num_seeds):
        training, rest = sample.split(held_out, seed)
        for cell in list(measured):
            clock.begin(cell, seed)
            try:
                quantizer = FAMILIES[cell[0]].fit(training, cell[1] or 0, seed)
            except InvalidInputError as err:
                left_out[_name(cell)] = str(err)
                del measured[cell]
                clock.drop(cell)
                continue
            measured[cell].append(_measure(quantizer, rest))
            clock.end(cell)
    clock.finish()
    if not measured:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ConfigError(f"no family could be measured on this sample: {reasons}")
    return Comparison(
        rows=tuple(_row(cell, found) for cell, found in measured.items()),
        left_out=left_out,
        dim=sample.vectors.shape[1],
        num_vectors=len(sample.vectors),
        held_out=held_out,
        num_seeds=num_seeds,
    )


def _check(
    families: Sequence[str] | None, rates: Sequence[int] | None, held_out: float, num_seeds: int
) -> None:
    unknown = sorted(set(families or ()) - set(FAMILIES))
    if unknown:
        raise ConfigError(
            f"families: got unknown {', '.join(unknown)}; wanted some of {', '.join(FAMILIES)}"
        )
    if any(rate < 2 for rate in rates or ()):
        raise ConfigError(f"rates: got {min(rates or ())}, wanted 2 or more, such as 8, 16, 32")
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out: got {held_out}, wanted a share between 0 and 1")
    if num_seeds < 1:
        raise ConfigError(f"seeds: got {num_seeds}, wanted 1 or more")


def _choose(sample: Sample, names: Sequence[str] | None) -> tuple[list[Family], dict[str, str]]:
    """Return the families to measure, and why others are left out."""
    chosen, left_out = [], {}
    for family in FAMILIES.values():
        if names is not None and family.name not in names:
            continue
        lacking = what_it_lacks(family, sample, by_name=names is not None)
        if lacking:
            left_out[family.name] = lacking
        else:
            chosen.append(family)
    return chosen, left_out


def _cells(family: Family, rates: Sequence[int] | None) -> list[Cell]:
    if not family.rates:
        return [(family.name, None)]
    return [(family.name, rate) for rate in sorted(set(rates or family.rates))]


def _name(cell: Cell) -> str:
    return cell[0] if cell[1] is None else f"{cell[0]} at {cell[1]}x"


def _measure(quantizer: Quantizer, sample: Sample) -> _Measured:
    """Encode and decode; the first, short call, which lays tables out, is not timed."""
    few = next(sample.blocks(_WARM_UP_ROWS))
    quantizer.decode(quantizer.encode(few), few.offsets)
    parts = list(sample.blocks(_ROWS))
    began = time.perf_counter()
    encoded = [quantizer.encode(part) for part in parts]
    encode_s = time.perf_counter() - began
    began = time.perf_counter()
    for part, kept in zip(parts, encoded, strict=True):
        quantizer.decode(kept, part.offsets)
    decode_s = time.perf_counter() - began

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part, kept in zip(parts, encoded, strict=True):
            yield part.vectors, quantizer.decode(kept, part.offsets)

    kept_bytes = sum(array.nbytes for kept in encoded for array in kept)
    num_tokens = len(sample.vectors)
    return _Measured(
        error=measure(pairs()),
        bytes_per_token=kept_bytes / num_tokens,
        encode_s=encode_s,
        decode_s=decode_s,
        num_tokens=num_tokens,
        codec_bytes=quantizer.tensor_bytes,
    )


def _row(cell: Cell, found: Sequence[_Measured]) -> Row:
    errors = [each.error for each in found]
    relative = [error.relative_mse for error in errors]
    return Row(
        family=cell[0],
        rate=cell[1],
        bytes_per_token=found[0].bytes_per_token,
        relative_mse=statistics.fmean(relative),
        spread=statistics.stdev(relative) if len(relative) > 1 else 0.0,
        layer_norm_mse=statistics.fmean(error.layer_norm_mse for error in errors),
        rms_norm_mse=statistics.fmean(error.rms_norm_mse for error in errors),
        cosine=statistics.fmean(error.cosine for error in errors),
        encode_tokens_per_s=round(statistics.median(x.num_tokens / x.encode_s for x in found)),
        decode_tokens_per_s=round(statistics.median(x.num_tokens / x.decode_s for x in found)),
        codec_bytes=found[0].codec_bytes,
    )


class _Clock:
    """Tells what is being measured, and how long the rest will take: what a measurement took
    before, or what those of other families took, by their effort.
    """

    def __init__(
        self, cells: Sequence[Cell], num_seeds: int, progress: Callable[[Step], None] | None
    ) -> None:
        self._left = [cell for _ in range(num_seeds) for cell in cells]
        self._total = len(self._left)
        self._progress = progress
        self._took: dict[Cell, float] = {}
        self._began = 0.0

    def begin(self, cell: Cell, seed: int) -> None:
        """Report what comes next."""
        self._began = time.monotonic()
        self._report(f"{_name(cell)}, seed {seed}")

    def end(self, cell: Cell) -> None:
        """Note how long it took."""
        self._took[cell] = time.monotonic() - self._began
        self._left.remove(cell)

    def drop(self, cell: Cell) -> None:
        """Forget what will not be measured."""
        self._left = [each for each in self._left if each != cell]

    def finish(self) -> None:
        """Report the end."""
        self._left = []
        self._report("done")

    def _report(self, what: str) -> None:
        if self._progress is not None:
            done = self._total - len(self._left)
            self._progress(Step(done, self._total, what, self._time_left()))

    def _time_left(self) -> float | None:
        if not self._took:
            return None if self._left else 0.0
        effort = sum(FAMILIES[name].effort for name, _ in self._took)
        per_effort = sum(self._took.values()) / effort
        return sum(
            self._took.get(cell, per_effort * FAMILIES[cell[0]].effort) for cell in self._left
        )
