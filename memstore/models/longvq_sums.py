"""Sums by code of what lies beyond the near blocks, moved on from block to block of queries.

Query block n sees key blocks n and n + 1 token by token, and n + 2 as well if attention looks
ahead (the keys begin one block before the queries). Moving on, key block n joins the sums and key
block n + 3 leaves them. A table of sums for all blocks would be S / W times as large as the values;
to get its memory alone took longer than all else.

What is taken away again stays among the near keys with the same logit, so that the digits that are
lost do not count beside it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Of a key block that is near for the last time, to the one that is near next, looking ahead.
_AHEAD = 3


class FarSums:
    """Values added up by code.

    Args:
        values: (R, A', W, E), zeros where there is no token; A' = A + 1, or A + 2 looking ahead.
        codes: (R, A', W) int64.
        past: (R, S, E), sums that all blocks of queries see.
        is_causal: attention does not look ahead.
    """

    def __init__(
        self, values: torch.Tensor, codes: torch.Tensor, past: torch.Tensor, *, is_causal: bool
    ) -> None:
        self.values, self.codes, self.is_causal = values, codes, is_causal
        self._sums = past.clone()[:, None]  # what the next block of queries sees
        self._block = 0
        if not is_causal:
            ahead = slice(_AHEAD, None)
            self._add(self._sums, 0, ahead, values[:, ahead])

    def take(self, count: int) -> torch.Tensor:
        """Return (R, count, S, E), what the next blocks of queries see, and move on."""
        first = self._block
        table = self._sums.new_zeros(len(self._sums), count + 1, *self._sums.shape[2:])
        slots = 1 + torch.arange(count, device=self.codes.device)[:, None]
        joining = slice(first, first + count)
        self._add(table, slots, joining, self.values[:, joining])
        if not self.is_causal:
            leaving = slice(first + _AHEAD, first + _AHEAD + count)
            values = self.values[:, leaving]
            self._add(table, slots[: values.shape[1]], leaving, -values)
        table[:, :1] = self._sums
        for slot in range(count):
            table[:, slot + 1].add_(table[:, slot])
        self._sums = table[:, count:]
        self._block += count
        return table[:, :count]

    def _add(
        self, table: torch.Tensor, slots: torch.Tensor | int, blocks: slice, values: torch.Tensor
    ) -> None:
        """Add the values of some blocks to the slot of each in a table (R, slots, S, E)."""
        num_slots, num_codes, width = table.shape[1:]
        if not num_codes:
            return
        places = number_codes(self.codes[:, blocks] + num_codes * slots, num_slots * num_codes)
        index = places.flatten()[:, None].expand(-1, width)
        table.view(-1, width).scatter_add_(0, index, values.flatten(0, 2))


class FarGradient:
    """What far keys get from queries through their codes, block of queries after block.

    Queries add rows to a table, some for each code. A key gets those of its code, from all blocks
    of queries that it is far from, each times a number of its own: its side.

    Args:
        into: (R, A', W, n), what it is added to.
        codes: (R, A', W) int64.
        sides: (R, A', W, m); zeros where there is no key.
        num_codes: S.
        num_blocks: A.
        is_causal: as of the sums.

    Attributes:
        table: (R, S, m, n), to which queries add.
    """

    def __init__(
        self,
        into: torch.Tensor,
        codes: torch.Tensor,
        sides: torch.Tensor,
        num_codes: int,
        num_blocks: int,
        *,
        is_causal: bool,
    ) -> None:
        self.into, self.sides, self.num_blocks, self.is_causal = into, sides, num_blocks, is_causal
        num_sides = sides.shape[3]
        self.table = into.new_zeros(len(into), num_codes, num_sides, into.shape[3])
        rows = num_sides * number_codes(codes, num_codes)[..., None]
        self._rows = rows + torch.arange(num_sides, device=codes.device)
        self._block = 0

    def advance(self) -> None:
        """Go on: the next block of queries has been added to the table.

        A key block is far from the query blocks after it, all of them less those so far, and if
        attention looks ahead from those before it.
        """
        if self._block < self.num_blocks - 1:
            self._give(slice(self._block, self._block + 1), -1)
            if not self.is_causal:
                self._give(slice(self._block + _AHEAD, self._block + _AHEAD + 1), 1)
        self._block += 1

    def finish(self) -> None:
        """Add what is known when all blocks were seen."""
        self._give(slice(0, self.num_blocks - 1), 1)

    def _give(self, blocks: slice, sign: int) -> None:
        into = self.into[:, blocks]
        given = F.embedding_bag(
            self._rows[:, blocks].flatten(0, 2),
            self.table.flatten(0, 2),
            per_sample_weights=self.sides[:, blocks].flatten(0, 2),
            mode="sum",
        )
        into.add_(given.view_as(into), alpha=sign)


def far_counts(
    is_key: torch.Tensor,
    codes: torch.Tensor,
    past: torch.Tensor,
    num_blocks: int,
    *,
    is_causal: bool,
) -> torch.Tensor:
    """Count the keys of each code that a block of queries sees in sums.

    Args:
        is_key: (R, A', W) bool.
        codes: (R, A', W) int64.
        past: (R, S), keys that all blocks see.
        num_blocks: A.
        is_causal: as of the sums.

    Returns:
        (R, A, S) in the dtype of `past`.
    """
    counts = past.new_zeros(*codes.shape[:2], past.shape[1])
    if past.shape[1]:
        counts.scatter_add_(2, codes, is_key.to(past.dtype))
    joined = counts.cumsum(1)
    far = past[:, None].repeat(1, num_blocks, 1)
    far[:, 1:] += joined[:, : num_blocks - 1]
    if not is_causal:
        far += joined[:, -1:] - joined[:, 2:]
    return far


def number_codes(codes: torch.Tensor, count: int) -> torch.Tensor:
    """Number codes of (R, …), each below `count`, through over all rows."""
    first = count * torch.arange(len(codes), device=codes.device)
    return codes + first.view(-1, *[1] * (codes.ndim - 1))
