"""How a call of factored attention is cut up for a GPU, and the sums by code that its parts see.

Sums are kept for the blocks of queries at hand: those of each key block by themselves first, all at
once, then added up from block to block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
import triton.language as tl

from memstore.codec.kernels.gpu_compiler import next_power_of_two
from memstore.models.longvq_config import Weighting
from memstore.models.longvq_groups import BlockTensors, Layout
from memstore.models.longvq_sums import far_counts
from memstore.models.longvq_triton_forward import run_on, sum_by_code

_TABLE = 1 << 27  # numbers of a table by block and code: 512 MiB
_MIN_SIDE = 16  # of a matrix product
_SLOTS = 128  # parts of a text that are summed up at once


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some blocks of queries of some rows, and the sums that they see.

    Attributes:
        rows: of R.
        blocks: of A.
        sums: (rows, blocks + 1, S, E) float32; the last is for the block after these.
    """

    rows: slice
    blocks: slice
    sums: torch.Tensor

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return int(self.rows.stop - self.rows.start)

    @property
    def span(self) -> int:
        """How many blocks."""
        return int(self.blocks.stop - self.blocks.start)


@dataclass(frozen=True, eq=False)
class Call:
    """The tensors of a call, contiguous, and how they are cut up.

    Attributes:
        tensors: inputs.
        layout: of the keys.
        counts: (R, A, S) float32, of the far keys.
    """

    tensors: BlockTensors
    layout: Layout
    counts: torch.Tensor

    @classmethod
    def of(cls, tensors: BlockTensors, layout: Layout) -> Call:
        """Count the far keys."""
        counts = far_counts(
            layout.is_key,
            layout.codes,
            layout.past_counts,
            tensors.queries.shape[1],
            is_causal=layout.is_causal,
        )
        return cls(BlockTensors(*(each.contiguous() for each in tensors)), layout, counts)

    @property
    def is_key(self) -> torch.Tensor:
        """`Layout.is_key` as uint8, which Triton reads."""
        return self.layout.is_key.view(torch.uint8)

    @property
    def num_blocks(self) -> int:
        """Blocks of queries: A."""
        return self.tensors.queries.shape[1]

    @property
    def num_key_blocks(self) -> int:
        """Blocks of keys: A'."""
        return self.tensors.values.shape[1]

    @property
    def height(self) -> int:
        """Queries of a block: r."""
        return self.tensors.queries.shape[2]

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """What kernels are compiled for. A kernel takes those that it names."""
        queries, _, values, codebook, _ = self.tensors
        depth = max(_MIN_SIDE, next_power_of_two(queries.shape[3]))
        width = max(_MIN_SIDE, next_power_of_two(values.shape[3]))
        is_exact = torch.get_float32_matmul_precision() == "highest"
        return {
            "HEADS": len(codebook),
            "WINDOW": values.shape[2],
            "NEAR": self.layout.num_near,
            "NUM_CODES": codebook.shape[1],
            "KEY_DIM": queries.shape[3],
            "VALUE_DIM": values.shape[3],
            "DEPTH": depth,
            "WIDTH": width,
            "SLICE": min(32, width),
            # A float32 is two TF32 in registers: larger tiles do not fit there.
            "ROWS": 32,
            "COLUMNS": 32,
            "CODES": 32,
            # The interpreter has no bfloat16 products.
            "PIECE": tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16,
            "IS_SOFTMAX": self.layout.weighting is Weighting.SOFTMAX,
            "PRECISION": "tf32x3" if is_exact else "tf32",
        }

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: object, **own: object) -> None:
        """Run a kernel with the sizes that it names and `own` ones."""
        named = {name: self.sizes[name] for name in kernel.arg_names if name in self.sizes}
        kernel[grid](*arguments, **{**named, **own}, enable_fp_fusion=True)

    def launch_queries(self, kernel: Any, part: Part, *arguments: object) -> None:
        """Run a kernel whose programs take a tile of the queries of a block each."""
        grid = part.num_rows * part.span, triton.cdiv(self.height, self.sizes["ROWS"])
        place = part.rows.start, part.blocks.start, part.span, self.num_blocks, self.height
        self.launch(kernel, grid, *arguments, *place, num_warps=8)

    def parts(self, size: int) -> Iterator[Part]:
        """Yield parts that cover all blocks, those of a row one after the other.

        Args:
            size: numbers that the largest table holds for a block.
        """
        step = max(1, _TABLE // max(1, size))
        row_step = max(1, step // self.num_blocks)
        for first in range(0, len(self.tensors.queries), row_step):
            rows = slice(first, min(first + row_step, len(self.tensors.queries)))
            seen = self._seen_first(rows)
            for start in range(0, self.num_blocks, step):
                blocks = slice(start, min(start + step, self.num_blocks))
                sums = self._sums(rows.start, blocks, seen)
                yield Part(rows, blocks, sums)
                seen = sums[:, -1].clone()

    def _seen_first(self, rows: slice) -> torch.Tensor:
        """Return (rows, S, E), the sums that the first block of queries sees."""
        past = self.layout.past_sums[rows]
        num_far = self.num_key_blocks - 3
        if self.layout.is_causal or num_far < 1 or not past.shape[1]:
            return past
        num_slots = max(1, min(num_far, _SLOTS, _TABLE // past.numel()))
        step = triton.cdiv(num_far, num_slots)
        num_slots = triton.cdiv(num_far, step)
        table = past.new_empty(len(past), num_slots, *past.shape[1:])
        self._sum_by_code(table, rows.start, 3, num_slots, step, parts=1)
        return past + table.sum(1)

    def _sums(self, first_row: int, blocks: slice, seen: torch.Tensor) -> torch.Tensor:
        """Return (rows, blocks + 1, S, E), the sums of blocks of which the first sees `seen`."""
        span = blocks.stop - blocks.start
        table = seen.new_empty(len(seen), span + 1, *seen.shape[1:])
        table[:, 0] = seen
        if table.numel():
            parts = 1 if self.layout.is_causal else 2
            self._sum_by_code(table[:, 1:], first_row, blocks.start, span, 1, parts=parts)
            self.run(table)
        return table

    def _sum_by_code(
        self,
        table: torch.Tensor,
        first_row: int,
        first_block: int,
        num_slots: int,
        step: int,
        *,
        parts: int,
    ) -> None:
        last_block = min(first_block + num_slots * step, self.num_key_blocks)
        columns, tokens = min(64, self.sizes["WIDTH"]), 32
        codes = min(64, max(_MIN_SIDE, next_power_of_two(table.shape[2])))
        grid = (
            len(table) * num_slots,
            triton.cdiv(table.shape[2], codes),
            triton.cdiv(table.shape[3], columns),
        )
        where = first_row, first_block, last_block, self.num_key_blocks, num_slots, step
        self.launch(
            sum_by_code,
            grid,
            self.tensors.values,
            self.layout.codes,
            table,
            table.stride(0),
            *where,
            PARTS=parts,
            CODES=codes,
            TOKENS=tokens,
            COLUMNS=columns,
        )

    def run(self, table: torch.Tensor) -> None:
        """Replace each slot of (rows, slots, …) by the sum of it and all before it."""
        size, columns = table[0, 0].numel(), 64
        grid = len(table), triton.cdiv(size, columns)
        self.launch(run_on, grid, table, table.shape[1], size, SLOTS=16, COLUMNS=columns)
