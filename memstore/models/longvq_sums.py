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

# Of a key block that is near for the last time, to the one that is near next, looking ahead.
_AHEAD = 3


class FarSums:
    """Values added up by code.

    Args:
        values: (R, A', W, E), zeros where there is no token; A' = A + 1, or A + 2 looking ahead.
        codes: (R, A', W) int64.
        past: (R, S, E), sums that all blocks of queries see.
        is_causal: attention does not look ahead.

    Attributes:
        sums: (R, S, E), what query block 0 sees; after n calls of `advance`, block n.
    """

    def __init__(
        self, values: torch.Tensor, codes: torch.Tensor, past: torch.Tensor, *, is_causal: bool
    ) -> None:
        self.values, self.codes, self.is_causal = values, codes, is_causal
        self.sums = past.clone()
        self._block = 0
        if not is_causal:
            for block in range(_AHEAD, values.shape[1]):
                self._add(self.values[:, block], block)

    def advance(self) -> None:
        """Move on to the next block of queries."""
        self._add(self.values[:, self._block], self._block)
        leaving = self._block + _AHEAD
        if not self.is_causal and leaving < self.values.shape[1]:
            self._add(-self.values[:, leaving], leaving)
        self._block += 1

    def _add(self, values: torch.Tensor, block: int) -> None:
        if not self.sums.shape[1]:
            return
        slots = code_slots(self.codes[:, block], self.sums.shape[1])
        index = slots[:, None].expand(-1, values.shape[2])
        self.sums.flatten(0, 1).scatter_add_(0, index, values.flatten(0, 1))


class FarGradient:
    """The gradient of `FarSums.values`, from the gradients of the sums, block after block.

    Args:
        into: (R, A', W, E), what it is added to.
        codes: (R, A', W) int64.
        num_codes: S.
        num_blocks: A.
        is_causal: as of the sums.
    """

    def __init__(
        self,
        into: torch.Tensor,
        codes: torch.Tensor,
        num_codes: int,
        num_blocks: int,
        *,
        is_causal: bool,
    ) -> None:
        self.into, self.codes, self.num_blocks, self.is_causal = into, codes, num_blocks, is_causal
        self._sums = into.new_zeros(len(into), num_codes, into.shape[3])
        self._block = 0

    def add(self, grad: torch.Tensor, shares: torch.Tensor) -> None:
        """Take in what the next block of queries saw.

        Args:
            grad: (R, S, E), of the means.
            shares: (R, S, 1), of one value in a mean.
        """
        self._sums.addcmul_(grad, shares)
        for block, sign in due_blocks(self._block, self.num_blocks, is_causal=self.is_causal):
            self._give(block, sign)
        self._block += 1

    def finish(self) -> None:
        """Add what is known when all blocks were seen."""
        for block in range(self.num_blocks - 1):
            self._give(block, 1)

    def _give(self, block: int, sign: int) -> None:
        slots = code_slots(self.codes[:, block], self._sums.shape[1])
        rows = self._sums.view(-1, self._sums.shape[2]).index_select(0, slots)
        self.into[:, block].add_(rows.view_as(self.into[:, block]), alpha=sign)


def due_blocks(block: int, num_blocks: int, *, is_causal: bool) -> list[tuple[int, int]]:
    """Return the key blocks to which running sums over query blocks up to this one are given.

    A key block is in the sums of the query blocks after it: those of all, given at the end to each,
    less those so far; and if attention looks ahead, in those before it.

    Returns:
        Block and sign.
    """
    if block >= num_blocks - 1:
        return []
    return [(block, -1)] if is_causal else [(block, -1), (block + _AHEAD, 1)]


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


def code_slots(codes: torch.Tensor, num_codes: int) -> torch.Tensor:
    """Number the codes of (R, W) through over all rows: (R·W,)."""
    first = num_codes * torch.arange(len(codes), device=codes.device)
    return (codes + first[:, None]).flatten()
