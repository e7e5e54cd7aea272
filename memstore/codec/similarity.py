"""Late interaction on codes: what a passage says to each token of a question, without decoding.

A decoded vector is `x = undo(rotation, centroids + prediction)`, and a rotation keeps inner
products, so `q.x = (rotated q).centroids + (rotated q).prediction`. Both are sums over few distinct
things: the centroids of a small codebook, and the ids, neighbours, places and passages of a
predictor. Each is multiplied with the question once and then looked up; no rotation is undone and
no prediction is made.

Source: late interaction is ColBERT's (Khattab and Zaharia 2020), lookup by codes the asymmetric
distance of Jégou et al. 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from memstore.codec import arguments
from memstore.codec.buffers import aligned_empty
from memstore.codec.passages import places_in_passages
from memstore.codec.predictor import NEIGHBOURS, TokenPredictor
from memstore.codec.records import RecordLayout
from memstore.errors import CorruptionError, ShapeError

if TYPE_CHECKING:
    from memstore.codec.product import ProductCodec

# Tables of LANES vectors that are larger than an L2 cache, or serve few tokens, lose to a product.
_MAX_TABLE_BYTES = 2 << 20
_MIN_TOKENS_PER_CENTROID = 4
_ROWS = 2048  # tokens whose centroids are multiplied at a time


def max_similarity(
    codec: ProductCodec, queries: np.ndarray, records: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Score passages: the sum over a question's vectors of the largest inner product with a token.

    Equal, within float32 rounding, to the same sum over `codec.decode(records, offsets)`.

    Args:
        codec: made the records.
        queries: (Q, D) floats, finite: the question's vectors.
        records: (T, W) uint16, or int16 of the same bits: the passages' records.
        offsets: (P + 1,): passage i is rows `offsets[i]:offsets[i + 1]`, one or more.

    Returns:
        (P,) float32.

    Raises:
        ShapeError: if an array is not such, or a passage is empty.
        CorruptionError: if a record names a centroid or a token that does not exist.

    Cost: 2 K D Q floating-point operations for tables and T M Q additions; or, where tables would
    cost more than they save, a gather of T D values and 2 T D Q operations.
    """
    queries = _as_queries(queries, codec.dim)
    records = arguments.as_records(records, codec.record_words)
    offsets = arguments.as_offsets(offsets, len(records))
    lengths = np.diff(offsets)
    if not lengths.all():
        passage = int(lengths.argmin())
        raise ShapeError(f"passage {passage} has no token; wanted one or more", passage=passage)
    if not len(lengths):
        return np.empty(0, np.float32)
    predictor = codec.predictor
    layout = RecordLayout.for_codebook(
        codec.num_subspaces,
        codec.codebook_size,
        predictor.vocabulary_size if predictor is not None else 0,
    )
    layout.check_pad(records)
    if codec.rotation is not None:
        queries = codec.rotation.apply(queries)
    terms = None
    if predictor is not None:
        terms = _terms(predictor, queries, layout.token_ids(records), offsets)
    codes = layout.codes(records)
    score = _look_up if _is_worth_tables(codec.codebook, len(codes)) else _multiply
    best, bad_row = score(codec.codebook, queries, codes, offsets, terms)
    if bad_row >= 0:
        raise CorruptionError(
            f"record {bad_row} names a centroid beyond the codec's {codec.codebook_size}; the "
            "records are damaged or of another codec",
            row=bad_row,
        )
    scores: np.ndarray = best[:, : len(queries)].sum(axis=1)
    return scores


@dataclass(frozen=True, slots=True, eq=False)
class _Terms:
    """What a predictor adds to inner products: `tables[rows].sum(axis=1)`.

    Attributes:
        tables: (R, Q) float32.
        rows: (T, E) int32 below R.
    """

    tables: np.ndarray
    rows: np.ndarray


def _as_queries(queries: np.ndarray, dim: int) -> np.ndarray:
    arguments.check_vectors(queries, dim)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if not len(queries) or not np.isfinite(queries).all():
        raise ShapeError("queries: wanted one vector or more, of finite values")
    return queries


def _is_worth_tables(codebook: np.ndarray, num_tokens: int) -> bool:
    """Whether looking up is faster than multiplying each token's centroids."""
    from memstore.codec.kernels.lookup import LANES

    num_subspaces, codebook_size, _ = codebook.shape
    table_bytes = 4 * num_subspaces * codebook_size * LANES
    if table_bytes > _MAX_TABLE_BYTES:
        return False
    return num_tokens >= _MIN_TOKENS_PER_CENTROID * int(codebook_size)


def _look_up(
    codebook: np.ndarray,
    queries: np.ndarray,
    codes: np.ndarray,
    offsets: np.ndarray,
    terms: _Terms | None,
) -> tuple[np.ndarray, int]:
    """Return each passage's maxima, (P, at least Q), and -1 or a row with a bad code."""
    from memstore.codec.kernels import lookup

    num_subspaces, codebook_size, width = codebook.shape
    parts = _in_blocks(queries, lookup.LANES)  # (B, D, LANES)
    tables = np.empty((len(parts), num_subspaces, codebook_size, lookup.LANES), np.float32)
    centroids = codebook.astype(np.float32)
    for block, table in zip(parts, tables, strict=True):
        np.matmul(centroids, block.reshape(num_subspaces, width, -1), out=table)
    if terms is None:
        return lookup.max_similarity(codes, tables, offsets)
    return lookup.max_similarity(
        codes,
        tables,
        offsets,
        rows=terms.rows,
        row_tables=_in_blocks(terms.tables.T, lookup.LANES),
    )


def _in_blocks(vectors: np.ndarray, lanes: int) -> np.ndarray:
    """Turn (Q, N) into (B, N, lanes), padded with zeros."""
    num_vectors, num_values = vectors.shape
    num_blocks = -(-num_vectors // lanes)
    padded = np.zeros((num_blocks * lanes, num_values), np.float32)
    padded[:num_vectors] = vectors
    blocks = padded.reshape(num_blocks, lanes, num_values).transpose(0, 2, 1)
    return np.ascontiguousarray(blocks)


def _multiply(
    codebook: np.ndarray,
    queries: np.ndarray,
    codes: np.ndarray,
    offsets: np.ndarray,
    terms: _Terms | None,
) -> tuple[np.ndarray, int]:
    """As `_look_up`, by products with gathered centroids."""
    from memstore.codec.kernels import gather

    num_tokens, num_queries = len(codes), len(queries)
    products = np.empty((num_tokens, num_queries), np.float32)
    source = codebook.view(np.uint16 if codebook.itemsize == 2 else np.uint32)
    centroids = aligned_empty((min(_ROWS, num_tokens), queries.shape[1]), np.float32)
    for start in range(0, num_tokens, _ROWS):
        stop = min(start + _ROWS, num_tokens)
        block = centroids[: stop - start]
        bad_row = gather.gather(codes[start:stop], source, block.view(np.uint32))
        if bad_row >= 0:
            return products, start + bad_row
        np.matmul(block, queries.T, out=products[start:stop])
        if terms is not None:
            for rows in terms.rows[start:stop].T:
                products[start:stop] += terms.tables[rows]
    best: np.ndarray = np.maximum.reduceat(products, offsets[:-1], axis=0)
    return best, -1


def _terms(
    predictor: TokenPredictor, queries: np.ndarray, token_ids: np.ndarray, offsets: np.ndarray
) -> _Terms:
    """Multiply all that a prediction is made of with the question.

    Raises:
        CorruptionError: if an id is beyond the vocabulary.
    """
    bad_rows = np.flatnonzero(token_ids >= predictor.vocabulary_size)
    if len(bad_rows):
        row = int(bad_rows[0])
        raise CorruptionError(
            f"record {row} names a token beyond the codec's {predictor.vocabulary_size}; the "
            "records are damaged or of another codec",
            row=row,
        )
    distinct, numbers = _numbered(token_ids, predictor.vocabulary_size)
    places = places_in_passages(offsets)
    num_places = min(int(places.max()) + 1, len(predictor.positions))
    tables = [predictor.positions[:num_places], predictor.tokens[distinct].astype(np.float32)]
    products = [table @ queries.T for table in tables]
    rows = [np.minimum(places, num_places - 1), num_places + numbers]
    if predictor.context.size:
        first = num_places + len(distinct)
        products += _context_products(predictor, queries, distinct, numbers, offsets)
        rows += _context_rows(len(distinct), numbers, places, offsets, first)
    return _Terms(np.concatenate(products), np.stack(rows, axis=1).astype(np.int32))


def _numbered(token_ids: np.ndarray, vocabulary_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct ids, and (T,) the number of each id among them."""
    numbers = np.zeros(vocabulary_size, np.int64)
    numbers[token_ids] = 1
    distinct = np.flatnonzero(numbers)
    numbers[distinct] = np.arange(len(distinct))
    return distinct, numbers[token_ids]


def _context_products(
    predictor: TokenPredictor,
    queries: np.ndarray,
    distinct: np.ndarray,
    numbers: np.ndarray,
    offsets: np.ndarray,
) -> list[np.ndarray]:
    """Multiply with the question: each id as each neighbour, each passage's mean, and nothing."""
    width = predictor.features.shape[1]
    context = (predictor.context @ queries.T).reshape(len(NEIGHBOURS) + 1, width, -1)
    features = predictor.features[distinct]
    bounds = pairwise(offsets.tolist())
    means = np.stack([features[numbers[start:stop]].mean(axis=0) for start, stop in bounds])
    nothing = np.zeros((1, len(queries)), np.float32)
    return [*(features @ part for part in context[:-1]), means @ context[-1], nothing]


def _context_rows(
    num_distinct: int, numbers: np.ndarray, places: np.ndarray, offsets: np.ndarray, first: int
) -> list[np.ndarray]:
    """Return where each token's neighbours and passage are in `_context_products`."""
    lengths = np.diff(offsets)
    passages = np.repeat(np.arange(len(lengths)), lengths)
    of_passages = first + len(NEIGHBOURS) * num_distinct
    of_nothing = of_passages + len(lengths)
    rows = []
    for slot, step in enumerate(NEIGHBOURS):
        neighbours = np.roll(numbers, -step) + (first + slot * num_distinct)
        inside = (places + step >= 0) & (places + step < lengths[passages])
        rows.append(np.where(inside, neighbours, of_nothing))
    return [*rows, of_passages + passages]
