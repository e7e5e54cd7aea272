"""The gradient of keys that queries see through their codes alone, without going through all pairs.

Let g_i be the gradient of query i's output, and v_j the value of a far key of code c. The gradient
of their logit is a_ic·(g_i·v_j - d_i), where neither a_ic nor d_i = g_i·output_i depends on j. So
that of the key is

    Σ_i a_ic·(g_i·v_j - d_i)·q_i = M_c·v_j - m_c,   M_c = Σ a_ic·q_i⊗g_i,   m_c = Σ a_ic·d_i·q_i

and it is enough to move a (K, E + 1) moment for each code on from block to block. This is the exact
gradient of attention to every token, at O(L·S·K·E).

Of wide values a random matrix P of ±1 / √width makes narrow ones: P(g)·P(v) is right on average,
and the cost O(L·S·K·width). The gradient g_i·μ_ic of the mean of what query i sees of a code is at
hand, so that only what differs from it need be right on average, in M_c·P(v_j) - m_c:

    M_c = Σ a_ic·q_i⊗P(g_i),   m_c = Σ a_ic·(d_i - g_i·μ_ic + P(g_i)·P(μ_ic))·q_i
"""

from __future__ import annotations

import torch

from memstore.models.longvq_sums import code_slots, due_blocks


class FarKeyGradient:
    """The gradient of far keys, block of queries after block of queries.

    Args:
        into: (R, A', W, K), what it is added to.
        values: (R, A', W, E).
        codes: (R, A', W) int64.
        num_codes: S.
        num_blocks: A.
        is_key: (R, A', W) bool; what is no key gets no gradient.
        width: values that are wider are projected to this.
        is_causal: attention does not look ahead.
    """

    def __init__(
        self,
        into: torch.Tensor,
        values: torch.Tensor,
        codes: torch.Tensor,
        num_codes: int,
        num_blocks: int,
        *,
        is_key: torch.Tensor,
        width: int,
        is_causal: bool,
    ) -> None:
        self.into, self.codes, self.num_blocks, self.is_causal = into, codes, num_blocks, is_causal
        self._is_key = is_key[..., None].to(values.dtype)
        self._projection = draw_projection(values, width)
        self._sides = self._projected(values)
        key_dim, side = into.shape[3], self._sides.shape[3]
        self._moments = into.new_zeros(len(into), num_codes, key_dim * side)
        self._rest = into.new_zeros(len(into), num_codes, key_dim)
        self._block = 0

    def add(
        self,
        slopes: torch.Tensor,
        logits: torch.Tensor,
        queries: torch.Tensor,
        grad: torch.Tensor,
        means: torch.Tensor,
    ) -> None:
        """Take in the next block of queries.

        Args:
            slopes: (R, r, S), how the weight of one key grows with its logit.
            logits: (R, r, S), the gradient of the logit of one key, were its value the mean.
            queries: (R, r, K).
            grad: (R, r, E), of the output.
            means: (R, S, E), of the values that are seen of each code.
        """
        asked = self._projected(grad)
        products = (queries[..., None] * asked[..., None, :]).flatten(2)  # (R, r, K·width)
        self._moments.baddbmm_(slopes.mT, products)
        logits = logits - slopes * torch.bmm(asked, self._projected(means).mT)
        self._rest.baddbmm_(logits.mT, queries)
        for block, sign in due_blocks(self._block, self.num_blocks, is_causal=self.is_causal):
            self._give(block, sign)
        self._block += 1

    def finish(self) -> None:
        """Add what is known when all blocks were seen."""
        for block in range(self.num_blocks - 1):
            self._give(block, 1)

    def _give(self, block: int, sign: int) -> None:
        num_rows, _, size, key_dim = self.into.shape
        slots = code_slots(self.codes[:, block], self._moments.shape[1])
        moments, rest = (
            each.flatten(0, 1).index_select(0, slots) for each in (self._moments, self._rest)
        )
        sides = self._sides[:, block].flatten(0, 1)
        given = torch.baddbmm(
            rest[..., None], moments.view(len(sides), key_dim, -1), sides[..., None]
        )
        given = given.view(num_rows, size, key_dim) * self._is_key[:, block]
        self.into[:, block].add_(given, alpha=sign)

    def _projected(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self._projection is None else tensor @ self._projection


def draw_projection(values: torch.Tensor, width: int) -> torch.Tensor | None:
    """Return a random (E, width) matrix of ±1 / √width for (…, E) values; None: they fit."""
    if values.shape[-1] <= width:
        return None
    signs = torch.randint(2, (values.shape[-1], width), device=values.device)
    projection: torch.Tensor = (2 * signs - 1).to(values.dtype) / width**0.5
    return projection
