"""Keys to centroids: a codebook for every head, which follows the keys by moving averages.

`forward` moves nothing: it gives what the batch has to say of each code (`CodeUse`), and `learn`
takes it in. So a block may run twice on one batch, as it does when activations are not kept.

Source: Transformer-VQ (arXiv 2309.16354) for sums and counts, and their constants.
Differs: the first batch gives the centroids, and one that is hardly used is put where a key is;
there, they are drawn at random and never moved so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import distributed, nn

from memstore.errors import NotFiniteError
from memstore.models import vq_codebook
from memstore.models.longvq_config import KeyGradient

# Of the average code's use: a code with less is put where a key is, and starts with the second.
# Being chosen never, it stays ln(0.1 / 0.05) / (1 - decay) = 69 batches.
_RESET_BELOW, _NEW_USE = 0.05, 0.1
# What a centroid is at least divided by. With Transformer-VQ's 0.01 those that stand for less than
# that of a key a batch would shrink, and in a batch of fewer keys than codes many do.
_LEAST = 1e-6
# Of codes: a codebook in use like this many equally used ones, or fewer, has collapsed.
COLLAPSED_BELOW = 1.5
_USE_DECAY = 0.9  # of the average that says so, a batch
_EVERY = 7919  # a prime: which keys stand by as centroids changes from batch to batch


@dataclass(frozen=True, slots=True, eq=False)
class CodeUse:
    """What one batch has to say of the codes of a layer. No gradient passes.

    Attributes:
        counts: (H, S) float32, keys of each code.
        sums: (H, S, K) float32, of those keys.
        samples: (H, S, K) float32, keys that could be centroids.
        is_sample: (S,) bool; False: it is none, there was no token.
    """

    counts: torch.Tensor
    sums: torch.Tensor
    samples: torch.Tensor
    is_sample: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedKeys:
    """Keys of one batch and their centroids.

    Attributes:
        keys: (B, H, L, K), the centroids; their gradient is the gradient of the keys.
        codes: (B, H, L) int64.
        centroids: (H, S, K), for what is seen through codes alone, with the gradient that
            `KeyGradient` says.
        loss: () weighted: commitment, and for a learned codebook its distance from the keys.
        use: for `KeyQuantizer.learn`.
    """

    keys: torch.Tensor
    codes: torch.Tensor
    centroids: torch.Tensor
    loss: torch.Tensor
    use: CodeUse


class KeyQuantizer(nn.Module):
    """The codebooks of one layer. Buffers stay float32 when the model is cast to fewer bits.

    Args:
        num_heads: H.
        num_codes: S.
        key_dim: K.
        decay: of the moving averages, a batch.
        commitment: weight of the mean squared distance of keys from their centroids.
        gradient: how keys learn from far queries.
        learns: centroids follow the keys; else they stay random.

    Attributes:
        codebook: (H, S, K), a parameter if it learns by gradient.
        sums, counts: (H, S, K) and (H, S), moving averages of the keys of each code.
        in_use: (H,), moving average of how many codes a batch uses (perplexity).
        num_updates: () int64, batches learnt from.
    """

    codebook: torch.Tensor
    sums: torch.Tensor
    counts: torch.Tensor
    in_use: torch.Tensor
    num_updates: torch.Tensor

    def __init__(
        self,
        num_heads: int,
        num_codes: int,
        key_dim: int,
        *,
        decay: float,
        commitment: float,
        gradient: KeyGradient,
        learns: bool,
    ) -> None:
        super().__init__()
        self.decay, self.commitment, self.gradient = decay, commitment, gradient
        self.learns = learns
        # As long as keys are: a key has mean 0 and deviation K^(-1/4) over its width.
        drawn = F.layer_norm(torch.randn(num_heads, num_codes, key_dim), (key_dim,))
        drawn = drawn * key_dim**-0.25
        self.has_gradient = gradient is KeyGradient.LEARNED and learns
        if self.has_gradient:
            self.codebook = nn.Parameter(drawn)
        else:
            self.register_buffer("codebook", drawn)
        self.register_buffer("sums", drawn.clone())
        self.register_buffer("counts", torch.ones(num_heads, num_codes))
        self.register_buffer("in_use", torch.full((num_heads,), float(num_codes)))
        self.register_buffer("num_updates", torch.tensor(0))

    def centroids(self) -> torch.Tensor:
        """Return (H, S, K), a copy that `learn` does not change."""
        return self.codebook.clone()

    def forward(
        self, keys: torch.Tensor, mask: torch.Tensor | None, centroids: torch.Tensor
    ) -> QuantizedKeys:
        """Quantize keys.

        Args:
            keys: (B, H, L, K) floating point.
            mask: (B, L) bool, there is a token; others have codes too, but teach nothing. None:
                everywhere.
            centroids: (H, S, K), of `centroids`.
        """
        batch_size, _, length, key_dim = keys.shape
        fixed = centroids.detach()
        if mask is None:
            mask = torch.ones(batch_size, length, dtype=torch.bool, device=keys.device)
        with torch.no_grad():
            points = keys.transpose(1, 2).reshape(batch_size * length, -1, key_dim).to(fixed.dtype)
            codes = vq_codebook.nearest(points, fixed)  # (B·L, H)
            use = self._use(points, codes, mask.flatten())
            chosen = vq_codebook.gather(codes, fixed).to(keys.dtype)
            chosen = chosen.view(batch_size, length, -1, key_dim).transpose(1, 2)
        if self.gradient is KeyGradient.MEANS and torch.is_grad_enabled():
            means = _means(keys, codes, mask, use.counts)
            centroids = fixed + (means - means.detach())
        elif not self.has_gradient:
            centroids = fixed
        return QuantizedKeys(
            keys=chosen + (keys - keys.detach()),
            codes=codes.view(batch_size, length, -1).transpose(1, 2),
            centroids=centroids.to(keys.dtype),
            loss=self._loss(points, keys, chosen, codes, mask),
            use=use,
        )

    @torch.no_grad()
    def learn(self, use: CodeUse) -> None:
        """Move the centroids to where the keys of a batch are; all processes call it alike."""
        counts, sums, samples = use.counts.clone(), use.sums.clone(), use.samples.clone()
        is_sample = use.is_sample.clone()
        for each in (counts, sums):
            vq_codebook.sum_over_ranks(each)
        if vq_codebook.num_ranks() > 1:
            for chosen in (samples, is_sample):
                distributed.broadcast(chosen, 0)
        if not self.num_updates:
            self._place(samples, is_sample.expand_as(counts), torch.ones_like(counts))
        else:
            self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
            self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
            if self.learns and not self.has_gradient:
                self.codebook.copy_(self.sums / self.counts.clamp(min=_LEAST)[..., None])
            average = self.counts.mean(1, keepdim=True).expand_as(counts)
            is_rare = (self.counts < _RESET_BELOW * average) & is_sample
            self._place(samples, is_rare, _NEW_USE * average)
            # Not from the averages: a code that was placed counts there as if it had been used.
            used = vq_codebook.perplexity(counts)
            self.in_use.lerp_(used, 1 - _USE_DECAY if self.num_updates > 1 else 1.0)
        self.num_updates += 1

    def usage_perplexity(self) -> torch.Tensor:
        """Return (H,) float32: codes in use in a batch, the mean over the last ten or so."""
        return self.in_use

    def _place(self, samples: torch.Tensor, is_placed: torch.Tensor, use: torch.Tensor) -> None:
        """Put some centroids where samples are, as if used so often."""
        if not self.learns:
            return
        self.counts.copy_(torch.where(is_placed, use, self.counts))
        is_placed = is_placed[..., None]
        self.sums.copy_(torch.where(is_placed, samples * use[..., None], self.sums))
        self.codebook.copy_(torch.where(is_placed, samples, self.codebook))

    def _use(self, points: torch.Tensor, codes: torch.Tensor, is_token: torch.Tensor) -> CodeUse:
        num_codes = self.counts.shape[1]
        weight = is_token[:, None, None].to(points.dtype)
        # A column of ones beside the keys: one pass counts and adds up.
        tokens = torch.cat([points * weight, weight.expand(-1, points.shape[1], 1)], dim=2)
        totals = vq_codebook.add_up(tokens, codes, num_codes)
        places = torch.arange(num_codes, device=points.device) * max(1, len(points) // num_codes)
        places = (places + _EVERY * self.num_updates) % len(points)
        samples = points[places].transpose(0, 1)
        return CodeUse(totals[..., -1], totals[..., :-1], samples, is_token[places])

    def _loss(
        self,
        points: torch.Tensor,
        keys: torch.Tensor,
        chosen: torch.Tensor,
        codes: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        is_token = mask[:, None, :, None]
        num_values = (is_token.sum() * keys.shape[1] * keys.shape[3]).clamp(min=1)
        loss = (is_token * (keys - chosen)).square().sum() * (self.commitment / num_values)
        if not self.has_gradient:
            return loss
        errors = (points - vq_codebook.gather(codes, self.codebook)).square()
        return loss + (errors * mask.flatten()[:, None, None]).sum() / num_values

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> KeyQuantizer:
        """Move to devices, but keep dtypes: averages in bfloat16 would not move at all."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            changed = fn(tensor)
            return changed if changed.dtype.itemsize >= 4 else tensor.to(changed.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self


def check_finite(uses: list[CodeUse]) -> None:
    """Refuse a batch of which some keys are NaN or infinite.

    Raises:
        NotFiniteError: naming the first layer, in all processes alike.
    """
    if not uses:
        return
    is_bad = torch.stack([(~torch.isfinite(each.sums)).any() for each in uses]).long()
    vq_codebook.sum_over_ranks(is_bad)
    if bool(is_bad.any()):
        raise NotFiniteError(
            f"keys of layer {int(is_bad.argmax())}: NaN or infinity; nothing was learnt from this "
            "batch; lower the learning rate or clip gradients, and go on from a checkpoint"
        )


def _means(
    keys: torch.Tensor, codes: torch.Tensor, mask: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return (H, S, K): the mean key of each code in this batch, with its gradient."""
    batch_size, _, length, key_dim = keys.shape
    points = (
        (keys * mask[:, None, :, None]).transpose(1, 2).reshape(batch_size * length, -1, key_dim)
    )
    sums = vq_codebook.add_up(points, codes, counts.shape[1])
    return sums / counts.clamp(min=1)[..., None].to(sums.dtype)
