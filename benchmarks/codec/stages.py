"""Decoding with a token predictor and a rotation, over decoding without.

The stages are made up: what they cost does not depend on what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import ml_dtypes
import numpy as np

from benchmarks.codec import peers
from benchmarks.codec.decode import PLOTTED, Decoder, make_buffer
from benchmarks.codec.parts import Bar, Part, least, time_each
from benchmarks.codec.sizes import Sizes
from benchmarks.harness import Figure, Table, check, quotient, rate
from memstore.codec import ProductCodec
from memstore.codec.kernels import reference
from memstore.codec.predictor import TokenPredictor
from memstore.codec.rotation import Rotation

_BLOCK = 64
_CONTEXT_WIDTH = 64
_PREDICTED = "token predictor, rotation folded"
_CONTEXT = "context predictor, rotation folded"
_UNDONE = f"token predictor, rotation of blocks of {_BLOCK} undone"
_DENSE = "token predictor, dense rotation undone"
_PLAIN = "no stages"
_FOLDED = _PREDICTED, _CONTEXT
_DTYPE = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True)
class _Speed:
    """How fast a way is on some data, and in how much of the time of decoding without stages."""

    data: str
    batch: int
    way: str
    tokens_per_s: Figure
    over_plain: Figure


def with_stages(
    codec: ProductCodec, records: Mapping[str, np.ndarray], token_ids: np.ndarray, sizes: Sizes
) -> Part:
    """Check the sums, then time the ways to decode to bfloat16, by batch.

    Args:
        codec: without stages.
        records: data → (T, M) uint16 codes.
        token_ids: (T,) of a text, for the records "activations"; for others they are drawn.
        sizes: batches and shapes.
    """
    rng = np.random.default_rng(0)
    num_tokens = sizes.decode_batches[-1]
    drawn = rng.integers(0, sizes.vocabulary_size, num_tokens)
    ids = {data: token_ids if data == "activations" else drawn for data in records}
    with_ids = {
        data: np.column_stack([codes, np.resize(ids[data], num_tokens).astype(np.uint16)])
        for data, codes in records.items()
    }
    gates: list[str] = []
    speeds: list[_Speed] = []
    for ways, block, context_width in (
        ((_PREDICTED, _UNDONE), _BLOCK, 0),
        ((_CONTEXT,), _BLOCK, _CONTEXT_WIDTH),
        ((_DENSE,), codec.dim, 0),
    ):
        staged = _with_stages(codec, block, context_width, sizes, rng)
        for data, codes in with_ids.items():
            gate = f"{data}, {' and '.join(ways)}: what the stages give one by one"
            gates += check({gate: partial(_is_sum, codec, staged, codes, sizes)})
            speeds += _time(codec, staged, data, codes, ways, sizes)
    return Part(
        gates=gates,
        tables=[_table(data, speeds) for data in records],
        targets={
            "stages": {
                data: least(s.over_plain for s in speeds if (s.data, s.way) == (data, _PREDICTED))
                for data in records
            }
        },
        bars=[
            Bar("decode", f"ours, {speed.way}", speed.data, speed.tokens_per_s)
            for speed in speeds
            if speed.batch == PLOTTED
        ],
        notes=[
            f"Stages: V = {sizes.vocabulary_size:,}, passages of {sizes.passage_tokens} tokens. "
            "Folded: the vectors stay in the basis of the codebook, for a reader whose weights "
            "have taken up the rotation."
        ],
    )


def _time(
    codec: ProductCodec,
    staged: ProductCodec,
    data: str,
    codes: np.ndarray,
    ways: tuple[str, ...],
    sizes: Sizes,
) -> Iterator[_Speed]:
    buffer = make_buffer(sizes.decode_batches[-1], codec.dim)
    bare = np.ascontiguousarray(codes[:, : codec.record_words])
    decoders = {_PLAIN: Decoder(_decode(codec, _PLAIN, sizes), bare, codec.dim, _DTYPE)}
    for way in ways:
        decoders[way] = Decoder(_decode(staged, way, sizes), codes, codec.dim, _DTYPE)
    most = sizes.dense_tokens if _DENSE in ways else sizes.decode_batches[-1]
    for batch in sizes.decode_batches:
        if not sizes.passage_tokens <= batch <= most:
            continue
        subjects = {name: each.subject(batch, buffer) for name, each in decoders.items()}
        seconds = time_each(subjects, rounds=sizes.rounds, pause_s=sizes.pause_s)
        for way in ways:
            speed = rate(seconds[way], 1, "tokens/s")
            yield _Speed(data, batch, way, speed, quotient(seconds[_PLAIN], seconds[way]))


def _decode(codec: ProductCodec, way: str, sizes: Sizes) -> peers.Decode:
    def decode(records: np.ndarray, out: np.ndarray) -> None:
        offsets = np.arange(0, len(records) + 1, sizes.passage_tokens)
        codec.decode(records, offsets, dtype="bfloat16", out=out, rotated=way in _FOLDED)

    return decode


def _with_stages(
    codec: ProductCodec, block: int, context_width: int, sizes: Sizes, rng: np.random.Generator
) -> ProductCodec:
    """Return the codec behind a random rotation and random tables."""
    dim, size = codec.dim, sizes.vocabulary_size
    tokens = np.empty((size, dim), _DTYPE)
    for start in range(0, size, 4_096):
        part = tokens[start : start + 4_096]
        part[...] = rng.standard_normal(part.shape, np.float32)
    blocks = np.linalg.qr(rng.standard_normal((dim // block, block, block), np.float32))[0]
    return ProductCodec(
        codec.codebook,
        rotation=Rotation(blocks, rng.permutation(dim).astype(np.int32)),
        predictor=TokenPredictor(
            tokens,
            rng.standard_normal((sizes.passage_tokens, dim), np.float32),
            rng.standard_normal((size, context_width), np.float32),
            rng.standard_normal((5 * context_width, dim), np.float32),
        ),
    )


def _is_sum(codec: ProductCodec, staged: ProductCodec, records: np.ndarray, sizes: Sizes) -> bool:
    """Compare a few passages with centroid + token + place, and with that rotated back."""
    predictor, rotation = staged.predictor, staged.rotation
    assert predictor is not None
    assert rotation is not None
    part = records[: 2 * sizes.passage_tokens]
    offsets = np.arange(0, len(part) + 1, sizes.passage_tokens)
    ids = part[:, -1].astype(np.int64)
    centroids = reference.gather(part[:, : codec.record_words], codec.codebook).astype(np.float32)
    total = centroids + predictor.predict(ids, offsets)
    folded = staged.decode(part, offsets, rotated=True)
    undone = staged.decode(part, offsets)
    size = float(np.abs(total).max())
    return bool(
        np.allclose(folded, total, rtol=0, atol=1e-5 * size)
        and np.allclose(undone, rotation.undo(total), rtol=0, atol=1e-5 * size)
    )


def _table(data: str, speeds: list[_Speed]) -> Table:
    return Table(
        title=f"Decode to bfloat16 with stages, {data}",
        columns=("way", "tokens in a call", "tokens/s", "of decoding without stages"),
        rows=[
            (speed.way, f"{speed.batch:,}", speed.tokens_per_s, speed.over_plain)
            for speed in speeds
            if speed.data == data
        ],
    )
