"""Inner products looked up instead of computed: what a question's vectors find best in a passage.

The inner product of a question's vector with a token is a sum of parts, one for each code of the
token's record, and each part depends on the code alone. So the parts of all centroids are computed
once a question, for LANES of its vectors side by side; a token then costs a load and an addition a
code for all of them. Other terms of the sum, such as a token predictor's, are rows of a second
table.

The sum is written as LLVM vectors because Numba's loops do not keep it in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from memstore.codec.kernels.compiler import compiled, read_only
from memstore.codec.kernels.threads import run_chunks
from memstore.codec.kernels.vectors import INT64, Vectors, constant, unwrap

LANES = 16  # vectors of a question that are looked up at once
_CHAINS = 4  # independent sums: an addition waits four cycles for the one before it
_MIN_CHUNK_LOOKUPS = 50_000  # about 0.1 ms: less is not worth waking another thread for


def max_similarity(
    codes: np.ndarray,
    tables: np.ndarray,
    offsets: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    row_tables: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Find each passage's largest inner product with each vector of a question.

    Args:
        codes: (T, at least M) uint8 or uint16, C-contiguous; the first M columns are read.
        tables: (B, M, K, LANES) float32: of B * LANES vectors, the inner products of their M parts
            with the K centroids.
        offsets: (P + 1,) int64: passage i is tokens `offsets[i]:offsets[i + 1]`, one or more.
        rows: (T, E) int32: rows of `row_tables` to add to a token's sum, in range.
        row_tables: (B, R, LANES) float32.

    Returns:
        (P, B * LANES) float32; and -1, or the first token with a code of K or more: then the array
        is not to be used.

    Cost: T (M + E) B additions of LANES values; the codes are read B times.
    """
    num_blocks, num_subspaces, _, lanes = tables.shape
    if rows is None or row_tables is None:
        rows = np.empty((len(codes), 0), np.int32)
        row_tables = np.empty((num_blocks, 0, lanes), np.float32)
    best = np.full((len(offsets) - 1, num_blocks, lanes), -np.inf, np.float32)
    tokens, parts, bounds = read_only(codes), read_only(tables), read_only(offsets)
    terms, term_parts = read_only(rows), read_only(row_tables)
    num_lookups = len(codes) * (num_subspaces + rows.shape[1]) * num_blocks
    bad_tokens = run_chunks(
        lambda start, stop: _raise_passages(
            tokens, parts, bounds, terms, term_parts, best, start, stop
        ),
        len(best),
        min_items=1 + len(best) * _MIN_CHUNK_LOOKUPS // max(num_lookups, 1),
    )
    bad_token = min((token for token in bad_tokens if token >= 0), default=-1)
    return best.reshape(len(best), num_blocks * lanes), bad_token


def _raise_best(
    _context: Any,
    codes: Any,
    code_at: Any,
    num_codes: Any,
    codebook_size: Any,
    table: Any,
    table_at: Any,
    rows: Any,
    row_at: Any,
    num_rows: Any,
    row_table: Any,
    row_table_at: Any,
    best: Any,
    best_at: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Raise LANES maxima to a token's inner products; return whether its codes are in range.

    Arrays are flat; an argument `..._at` says where in one to start.
    """
    signature = types.boolean(
        codes, types.intp, types.intp, types.intp, table, types.intp,
        rows, types.intp, types.intp, row_table, types.intp, best, types.intp,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (
            codes, code_at, num_codes, codebook_size, table, table_at,
            rows, row_at, num_rows, row_table, row_table_at, best, best_at,
        ) = unwrap(context, builder, signature, arguments)  # fmt: skip
        vectors = Vectors(builder, ir.FloatType(), LANES)
        first_code, first_row = builder.gep(codes, [code_at]), builder.gep(rows, [row_at])
        sums = [cgutils.alloca_once(builder, vectors.type) for _ in range(_CHAINS)]
        for total in sums:
            builder.store(vectors.fill(0.0), total)
        in_range = cgutils.alloca_once_value(builder, cgutils.true_bit)

        def add(total: Any, base: Any, start: Any, index: Any) -> None:
            place = builder.add(start, builder.mul(index, constant(LANES)))
            builder.store(builder.fadd(builder.load(total), vectors.load(base, place)), total)

        def add_code(total: Any, m: Any) -> None:
            code = builder.zext(builder.load(builder.gep(first_code, [m])), INT64)
            fits = builder.icmp_unsigned("<", code, codebook_size)
            builder.store(builder.and_(builder.load(in_range), fits), in_range)
            code = builder.select(fits, code, constant(0))
            add(total, table, table_at, builder.add(builder.mul(m, codebook_size), code))

        whole = builder.and_(num_codes, constant(-_CHAINS))
        with cgutils.for_range_slice(builder, constant(0), whole, constant(_CHAINS), INT64) as (
            m,
            _,
        ):
            for chain, total in enumerate(sums):
                add_code(total, builder.add(m, constant(chain)))
        with cgutils.for_range(builder, num_codes, whole) as rest:
            add_code(sums[0], rest.index)
        with cgutils.for_range(builder, num_rows) as term:
            row = builder.load(builder.gep(first_row, [term.index]))
            add(sums[1], row_table, row_table_at, builder.sext(row, INT64))
        total = builder.load(sums[0])
        for other in sums[1:]:
            total = builder.fadd(total, builder.load(other))
        vectors.store(vectors.larger(total, vectors.load(best, best_at)), best, best_at)
        return builder.load(in_range)

    return signature, generate


raise_best = intrinsic(_raise_best)


@compiled
def _raise_passages(
    codes: np.ndarray,
    tables: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    row_tables: np.ndarray,
    best: np.ndarray,
    start: int,
    stop: int,
) -> int:
    """Fill `best` of passages [start, stop); return -1 or the first token with a bad code."""
    num_blocks, num_subspaces, codebook_size, lanes = tables.shape
    _, num_columns = codes.shape
    _, num_terms = rows.shape
    _, num_rows, _ = row_tables.shape
    flat_codes, flat_tables = codes.reshape(codes.size), tables.reshape(tables.size)
    flat_rows, flat_row_tables = rows.reshape(rows.size), row_tables.reshape(row_tables.size)
    flat_best = best.reshape(best.size)
    for block in range(num_blocks):
        table_at = block * num_subspaces * codebook_size * lanes
        row_table_at = block * num_rows * lanes
        for passage in range(start, stop):
            best_at = (passage * num_blocks + block) * lanes
            for token in range(offsets[passage], offsets[passage + 1]):
                if not raise_best(
                    flat_codes, token * num_columns, num_subspaces, codebook_size,
                    flat_tables, table_at, flat_rows, token * num_terms, num_terms,
                    flat_row_tables, row_table_at, flat_best, best_at,
                ):  # fmt: skip
                    return token
    return -1
