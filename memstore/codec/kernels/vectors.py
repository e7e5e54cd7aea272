"""Vectors of the CPU as values in LLVM's language, for the inner loops that kernels write in it.

Does not: choose instructions. LLVM splits a vector that the machine has no registers for.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

BYTE = ir.IntType(8)
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)


def constant(value: int) -> Any:
    """Return a 64-bit integer."""
    return ir.Constant(INT64, value)


def unwrap(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Return the arguments of an intrinsic, each array as the pointer to its data."""
    return [
        context.make_array(kind)(context, builder, value).data
        if isinstance(kind, types.Array)
        else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


class Vectors:
    """The few instructions on vectors of `lanes` float32 or int32 that kernels are made of."""

    def __init__(self, builder: Any, element: Any, lanes: int) -> None:
        self.builder = builder
        self.type = ir.VectorType(element, lanes)
        self._lanes = lanes
        self._is_float = isinstance(element, ir.FloatType)

    def load(self, base: Any, offset: Any) -> Any:
        """Load from `base + offset`, in what `base` points to; aligned as its elements are."""
        load = self.builder.load(self._at(base, offset))
        load.align = 4
        return load

    def store(self, value: Any, base: Any, offset: Any) -> None:
        """Store where `load` would load."""
        self.builder.store(value, self._at(base, offset)).align = 4

    def fill(self, value: float) -> Any:
        """Return a vector of one constant."""
        return ir.Constant(self.type, [value] * self._lanes)

    def splat(self, scalar: Any) -> Any:
        """Return a vector of one value."""
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
        zeros = ir.Constant(ir.VectorType(INT32, self._lanes), [0] * self._lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c, of float32, rounded once where the machine can."""
        return self._call(f"llvm.fmuladd.v{self._lanes}f32", a, b, c)

    def add_dot(self, total: Any, unsigned: Any, signed: Any) -> Any:
        """Add to each lane the product of its four uint8 and four int8 (an x86 instruction)."""
        # LLVM 21 and older want these types; newer ones read them as vectors of bytes themselves.
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self._lanes}"
        return self._call(name, total, unsigned, signed)

    def larger(self, a: Any, b: Any) -> Any:
        """Return the larger of each lane, b if it is not a."""
        return self.builder.select(self._compare(">", a, b), a, b)

    def mask(self, comparison: str, a: Any, b: Any) -> Any:
        """Return one bit a lane."""
        return self.builder.bitcast(self._compare(comparison, a, b), ir.IntType(self._lanes))

    def largest(self, vector: Any) -> Any:
        """Reduce to one number by halves."""
        lanes = ir.VectorType(INT32, self._lanes)
        half = self._lanes // 2
        while half:
            upper = [(lane + half) % self._lanes for lane in range(self._lanes)]
            moved = self.builder.shuffle_vector(vector, vector, ir.Constant(lanes, upper))
            vector = self.larger(vector, moved)
            half //= 2
        return self.builder.extract_element(vector, ir.Constant(INT32, 0))

    def _compare(self, comparison: str, a: Any, b: Any) -> Any:
        builder = self.builder
        compare = builder.fcmp_ordered if self._is_float else builder.icmp_signed
        return compare(comparison, a, b)

    def _call(self, name: str, *arguments: Any) -> Any:
        signature = ir.FunctionType(self.type, [self.type] * len(arguments))
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(function, arguments)

    def _at(self, base: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [offset]), self.type.as_pointer())
