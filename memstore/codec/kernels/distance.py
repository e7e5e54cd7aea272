"""The true distance of a vector to a stored centroid, for a kernel that has found a few to look at.

The differences and squares are float64 and added in an order of their own, whatever the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from memstore.codec.kernels.vectors import BYTE, INT32, constant, unwrap

_LANES = 8
_LINE_BYTES = 64
_DOUBLE = ir.DoubleType()

_Intrinsic = tuple[Any, Callable[..., Any]]


def as_records(bits: np.ndarray) -> np.ndarray:
    """View (..., width) values as (...) records, whose type says how many and what they are.

    Args:
        bits: float32, or uint16 that are the bits of bfloat16; C-contiguous.
    """
    return bits.view(np.dtype([("row", bits.dtype, (bits.shape[-1],))]))[..., 0]


def _emit_centroid(builder: Any, row: Any, element: Any, start: int, count: int) -> Any:
    """Load `count` values of a centroid as float64."""
    wide = ir.VectorType(ir.FloatType(), count)
    if element == types.float32:
        source = builder.gep(builder.bitcast(row, ir.FloatType().as_pointer()), [constant(start)])
        values = builder.load(builder.bitcast(source, wide.as_pointer()))
        values.align = 4
    else:  # a bfloat16 is the high half of a float32
        half, word = ir.IntType(16), ir.VectorType(INT32, count)
        source = builder.gep(builder.bitcast(row, half.as_pointer()), [constant(start)])
        bits = builder.load(builder.bitcast(source, ir.VectorType(half, count).as_pointer()))
        bits.align = 2
        shifted = builder.shl(builder.zext(bits, word), ir.Constant(word, [16] * count))
        values = builder.bitcast(shifted, wide)
    return builder.fpext(values, ir.VectorType(_DOUBLE, count))


def _square_distance(
    _context: Any, values: Any, vector: Any, codebook: Any, centroid: Any
) -> _Intrinsic:
    """Return |x - c|^2 of `values[vector]`, (n, width) float64, and the record `centroid`."""
    signature = types.float64(values, types.intp, codebook, types.intp)
    row_type = codebook.dtype.typeof("row")
    size, (width,) = codebook.dtype.size, row_type.shape

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, vector, codebook, centroid = unwrap(context, builder, signature, arguments)
        left = builder.gep(values, [builder.mul(vector, constant(width))])
        right = builder.gep(
            builder.bitcast(codebook, BYTE.as_pointer()),
            [builder.mul(centroid, constant(size))],
        )
        total = ir.Constant(_DOUBLE, 0.0)
        for start in range(0, width, _LANES):
            count = min(_LANES, width - start)
            kind = ir.VectorType(_DOUBLE, count)
            x = builder.load(
                builder.bitcast(builder.gep(left, [constant(start)]), kind.as_pointer())
            )
            x.align = 8
            difference = builder.fsub(
                x, _emit_centroid(builder, right, row_type.dtype, start, count)
            )
            add = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(_DOUBLE, [_DOUBLE, kind]),
                f"llvm.vector.reduce.fadd.v{count}f64",
            )
            total = builder.call(add, [total, builder.fmul(difference, difference)])
        return total

    return signature, generate


def _prefetch(_context: Any, codebook: Any, centroid: Any) -> _Intrinsic:
    """Ask for a record's cache lines, to be there when its distance is computed."""
    signature = types.void(codebook, types.intp)
    size = codebook.dtype.size

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codebook, centroid = unwrap(context, builder, signature, arguments)
        row = builder.gep(
            builder.bitcast(codebook, BYTE.as_pointer()), [builder.mul(centroid, constant(size))]
        )
        kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), INT32, INT32, INT32])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, data = (ir.Constant(INT32, number) for number in (0, 3, 1))
        for offset in {*range(0, size, _LINE_BYTES), size - 1}:
            builder.call(ask, [builder.gep(row, [constant(offset)]), read, near, data])
        return context.get_dummy_value()

    return signature, generate


square_distance = intrinsic(_square_distance)
prefetch = intrinsic(_prefetch)
