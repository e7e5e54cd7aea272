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

from memstore.models.longvq_sums import FarGradient


class FarKeyGradient:
    """The gradient of far keys, block of queries after block of queries.

    Args:
        into: (R, A', W, K), what it is added to.
        values: (R, A', W, E), zeros where there is no key.
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
        self._projection = draw_projection(values, width)
        sides = torch.cat([self._projected(values), is_key[..., None].to(values.dtype)], dim=3)
        self._given = FarGradient(into, codes, sides, num_codes, num_blocks, is_causal=is_causal)
        table = self._given.table  # (R, S, width + 1, K): M_c, and m_c as its last row
        self._moments, self._rest = table[:, :, :-1].view(len(into), num_codes, -1), table[:, :, -1]

    def add(
        self,
        slopes: torch.Tensor,
        logits: torch.Tensor,
        queries: torch.Tensor,
        grad: torch.Tensor,
        means: torch.Tensor,
    ) -> None:
        """Take in the next blocks of queries.

        Args:
            slopes: (R, g, r, S), how the weight of one key grows with its logit.
            logits: (R, g, r, S), the gradient of the logit of one key, were its value the mean.
            queries: (R, g, r, K).
            grad: (R, g, r, E), of the output.
            means: (R, g, S, E), of the values that are seen of each code.
        """
        asked = self._projected(grad)
        rest = logits - slopes * (asked @ self._projected(means).mT)
        for block in range(queries.shape[1]):
            here = queries[:, block]
            products = (asked[:, block, :, :, None] * here[:, :, None]).flatten(2)
            self._moments.baddbmm_(slopes[:, block].mT, products)
            self._rest.baddbmm_(rest[:, block].mT, here)
            self._given.advance()

    def finish(self) -> None:
        """Add what is known when all blocks were seen."""
        self._given.finish()

    def _projected(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self._projection is None else tensor @ self._projection


def draw_projection(values: torch.Tensor, width: int) -> torch.Tensor | None:
    """Return a random (E, width) matrix of ±1 / √width for (…, E) values; None: they fit."""
    if values.shape[-1] <= width:
        return None
    signs = torch.randint(2, (values.shape[-1], width), device=values.device)
    projection: torch.Tensor = (2 * signs - 1).to(values.dtype) / width**0.5
    return projection
