"""Decoding without stages: centroids side by side, against others and against a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import ml_dtypes
import numpy as np

from benchmarks.codec import peers
from benchmarks.codec.ceilings import COPY, copy
from benchmarks.codec.parts import CEILING, Bar, Part, Subject, least, time_each
from benchmarks.codec.sizes import Sizes
from benchmarks.harness import Cell, Figure, Table, Timings, check, quotient, rate
from memstore.codec import ProductCodec
from memstore.codec.buffers import aligned_empty
from memstore.codec.interchange import codes_to_faiss
from memstore.codec.kernels import reference

PLOTTED = 4_096  # tokens in a call
_OURS = "ours, bfloat16"
_WIDE = "ours, float32"
_FAISS = "faiss decode, float32"
# At least: neither what the last call left in the caches may decide, nor how a paused core wakes.
_TOKENS_A_CALL = 16_384
_CHECKED_ROWS = 32


@dataclass(frozen=True, slots=True)
class Decoder:
    """A way to decode.

    Attributes:
        decode: fills its second argument from codes.
        codes: (T, bytes or words) of T tokens, as it wants them.
        dim: D.
        dtype: what it writes.
    """

    decode: peers.Decode
    codes: np.ndarray
    dim: int
    dtype: np.dtype[np.generic]

    def subject(self, batch: int, buffer: np.ndarray) -> Subject:
        """Decode `batch` tokens at a time, others each time, to the start of a buffer of bytes."""
        num_bytes = batch * self.dim * self.dtype.itemsize
        out = buffer[:num_bytes].view(self.dtype).reshape(batch, self.dim)
        repeats = max(1, min(_TOKENS_A_CALL, len(self.codes)) // batch)
        num_chunks = len(self.codes) // batch

        def call(turn: int) -> None:
            for i in range(repeats * turn, repeats * (turn + 1)):
                start = i % num_chunks * batch
                self.decode(self.codes[start : start + batch], out)

        return Subject(call, repeats * batch)


def make_buffer(num_tokens: int, dim: int) -> np.ndarray:
    """Return bytes for as many float32 vectors, on a cache line and written to."""
    buffer = aligned_empty((4 * num_tokens * dim,), np.uint8)
    buffer[:] = 1
    return buffer


def plain(codec: ProductCodec, records: Mapping[str, np.ndarray], sizes: Sizes) -> Part:
    """Check every decoder, then time them by batch, on each kind of records.

    Args:
        codec: without stages.
        records: data → (T, M) uint16 codes.
        sizes: the batches.
    """
    buffer = make_buffer(sizes.decode_batches[-1], codec.dim)
    gates: list[str] = []
    tables: list[Table] = []
    over_faiss: dict[str, Figure] = {}
    bars: list[Bar] = []
    peer_decoders = _peers(codec)
    for data, codes in records.items():
        decoders = _decoders(codec, codes, peer_decoders)
        gates += check(
            {
                f"{data}: {name} gives the bits of the codebook": partial(
                    _is_equal, codec, codes, decoder
                )
                for name, decoder in decoders.items()
            }
        )
        timed = {
            batch: time_each(
                {name: each.subject(batch, buffer) for name, each in decoders.items()}
                | copy(sizes),
                rounds=sizes.rounds,
                pause_s=sizes.pause_s,
                warmups=2,
            )
            for batch in sizes.decode_batches
        }
        tables.append(_table(data, timed, codec))
        over_faiss[data] = least(quotient(taken[_FAISS], taken[_OURS]) for taken in timed.values())
        bars += _bars(data, timed, codec)
    return Part(gates=gates, tables=tables, targets={"decode": over_faiss}, bars=bars)


def _peers(codec: ProductCodec) -> dict[str, peers.Decode]:
    return {
        _FAISS: peers.faiss_decode(codec),
        "torch index_select, bfloat16": peers.torch_decode(codec),
        "NumPy take, bfloat16": peers.numpy_decode(codec),
    }


def _decoders(
    codec: ProductCodec, codes: np.ndarray, others: Mapping[str, peers.Decode]
) -> dict[str, Decoder]:
    def ours(dtype: str) -> peers.Decode:
        return lambda records, out: codec.decode(records, dtype=dtype, out=out)

    narrow, wide = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
    found = {
        _OURS: Decoder(ours("bfloat16"), codes, codec.dim, narrow),
        _WIDE: Decoder(ours("float32"), codes, codec.dim, wide),
    }
    for name, decode in others.items():
        is_faiss = name == _FAISS
        packed = codes_to_faiss(codec, codes) if is_faiss else codes
        found[name] = Decoder(decode, packed, codec.dim, wide if is_faiss else narrow)
    return found


def _is_equal(codec: ProductCodec, codes: np.ndarray, decoder: Decoder) -> bool:
    rows = slice(0, _CHECKED_ROWS)
    wanted = reference.gather(codes[rows], codec.codebook).astype(decoder.dtype)
    out = np.zeros_like(wanted)
    decoder.decode(decoder.codes[rows], out)
    return out.tobytes() == wanted.tobytes()


def _table(data: str, timed: Mapping[int, Timings], codec: ProductCodec) -> Table:
    names = [name for name in next(iter(timed.values())) if name != COPY]
    rows: list[tuple[Cell, ...]] = [
        (
            f"{batch:,}",
            *(rate(seconds[name], 1e-3, "k/s") for name in names),
            quotient(seconds[_FAISS], seconds[_OURS]),
            quotient(_bytes_a_token(codec) * seconds[COPY], seconds[_OURS]),
        )
        for batch, seconds in timed.items()
    ]
    return Table(
        title=f"Decode, {data}, thousands of tokens a second",
        columns=("tokens in a call", *names, "bfloat16 times faiss", "bfloat16 of a copy's bytes"),
        rows=rows,
    )


def _bytes_a_token(codec: ProductCodec) -> int:
    """Return what decoding to bfloat16 has to move: codes and centroids in, vectors out."""
    return 2 * codec.record_words + 4 * codec.dim


def _bars(data: str, timed: Mapping[int, Timings], codec: ProductCodec) -> Iterator[Bar]:
    batch = PLOTTED if PLOTTED in timed else max(timed)
    for name, taken in timed[batch].items():
        if name != COPY:
            yield Bar("decode", name, data, rate(taken, 1, ""))
    tokens = 1 / _bytes_a_token(codec)
    yield Bar("decode", f"{CEILING}copy", data, rate(timed[batch][COPY], tokens, ""))
