"""The bottleneck of LUMEN-VQ: a product quantizer between the memory encoder and the live layers.

The model is trained through the quantizer that the store will use, so that memory encoder and
reader adapt to what is lost in it. Forward, memories are replaced by what decoding their codes
would give; backward, the gradient passes as if they were not. The codebook has no gradient: each
centroid follows the mean of the memories that it is chosen for.

The quantizer may stand on residuals of a token predictor and in a rotated basis, as in
`codec.ProductCodec`: this layer starts from a codec, and turns into one.

Source: MEMORY-VQ (arXiv 2308.14903); VQ-VAE, and its moving averages in appendix A.1 (van den Oord
et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from memstore.codec import ProductCodec, arguments
from memstore.codec.kernels.gpu_stages import float32_products
from memstore.codec.predictor import TokenPredictor
from memstore.codec.rotation import Rotation
from memstore.errors import ConfigError, NotFiniteError, ShapeError
from memstore.models import vq_codebook
from memstore.models.vq_stages import Stages

# MEMORY-VQ: the moving averages reach back about 1 / (1 - DECAY) = 1,000 batches.
DECAY = 0.999
# MEMORY-VQ: none; the model diverged with it.
COMMITMENT = 0.0
# A share of the average code's use: a code with less is drawn anew. MEMORY-VQ resets "rarely used"
# codes and gives no threshold; this one is ours.
RESET_BELOW = 0.08
# A share of the average code's use: what a new centroid counts as. Being little, it soon follows
# the memories that it is chosen for; being more than `RESET_BELOW`, it has time to be chosen: about
# ln(NEW_USE / RESET_BELOW) / (1 - DECAY) = 223 batches. Ours too.
NEW_USE = 0.1


@dataclass(frozen=True, slots=True)
class VQOutput:
    """What became of the memories of one batch.

    Attributes:
        quantized: (T, D) in the dtype of the memories: decoded from the codes. Its gradient is the
            gradient of the memories.
        codes: (T, M) int64.
        commitment_loss: () float32, weighted, to be added to the loss.
        perplexity: (M,) float32: codes in use in this batch, in training that of all processes. At
            most T, whatever K is; see `ProductVQ.usage_perplexity`.
        num_resets: codes that were drawn anew after this batch, over all subspaces.
    """

    quantized: torch.Tensor
    codes: torch.Tensor
    commitment_loss: torch.Tensor
    perplexity: torch.Tensor
    num_resets: int


class ProductVQ(nn.Module):
    """A product quantizer with a straight-through gradient, learnt by moving averages.

    In training mode every forward pass moves the codebook, whether gradients are recorded or not;
    in eval mode it only quantizes. There are no parameters. Buffers stay float32
    when the model is cast, and so do search and averages under autocast.

    In a torch.distributed group all processes learn from the memories of all, and their codebooks
    stay equal: each must call this equally often, and none need broadcast its buffers
    (`broadcast_buffers=False`).

    Args:
        dim: D.
        num_subspaces: M, a divisor of D.
        codebook_size: K, 2 to 65,536.
        decay: of the moving averages, a batch.
        commitment: weight of the mean squared distance of memories from what is decoded.
        reset_below: a code with less than this share of the average code's use is drawn anew, from
            the batch and as `initialize` draws, and its averages with it; None: never.
        rotation: of D dimensions: the codebook is of rotated vectors.
        predictor: of D dimensions, in the basis of the codebook: the codebook is of what it leaves.

    Attributes:
        codebook: (M, K, D/M) float32.
        ema_counts, ema_sums: (M, K) and (M, K, D/M) float32: how many memories of a batch have a
            code, and their sum; moving averages over batches.
        num_updates: () int64, batches learnt from; -1 as long as there is no codebook.

    Raises:
        ConfigError, ShapeError: if the options or stages are not such.

    Cost: 2 T K D floating-point operations for T tokens; 8 K D bytes of buffers.
    """

    codebook: torch.Tensor
    ema_counts: torch.Tensor
    ema_sums: torch.Tensor
    num_updates: torch.Tensor

    def __init__(
        self,
        dim: int,
        num_subspaces: int,
        codebook_size: int,
        *,
        decay: float = DECAY,
        commitment: float = COMMITMENT,
        reset_below: float | None = RESET_BELOW,
        rotation: Rotation | None = None,
        predictor: TokenPredictor | None = None,
    ) -> None:
        super().__init__()
        _check_shape(dim, num_subspaces, codebook_size)
        _check_rates(decay, commitment, reset_below)
        self.decay, self.commitment, self.reset_below = decay, commitment, reset_below
        self.stages = Stages(dim, rotation, predictor)
        shape = num_subspaces, codebook_size, dim // num_subspaces
        self.register_buffer("codebook", torch.zeros(shape))
        self.register_buffer("ema_counts", torch.zeros(shape[:2]))
        self.register_buffer("ema_sums", torch.zeros(shape))
        self.register_buffer("num_updates", torch.tensor(-1))

    @classmethod
    def from_codec(
        cls,
        codec: ProductCodec,
        *,
        decay: float = DECAY,
        commitment: float = COMMITMENT,
        reset_below: float | None = RESET_BELOW,
    ) -> ProductVQ:
        """Start from a codec: its codebook and its stages."""
        layer = cls(
            codec.dim,
            codec.num_subspaces,
            codec.codebook_size,
            decay=decay,
            commitment=commitment,
            reset_below=reset_below,
            rotation=codec.rotation,
            predictor=codec.predictor,
        )
        layer._start(torch.from_numpy(codec.codebook.astype(np.float32)))
        return layer

    def to_codec(self, dtype: str = "bfloat16") -> ProductCodec:
        """Return the codec that encodes and decodes as this layer does.

        Args:
            dtype: in which the codebook is kept: "float32" is this layer's to the bit; "bfloat16",
                half as large, is it to rounding.

        Raises:
            ConfigError: if the dtype is neither, or there is no codebook yet.
        """
        stored_dtype = arguments.check_dtype(dtype, arguments.CODEBOOK_DTYPES)
        self._check_started()
        return ProductCodec(
            self.codebook.cpu().numpy().astype(stored_dtype),
            rotation=self.stages.rotation(),
            predictor=self.stages.predictor(),
        )

    @torch.no_grad()
    def initialize(
        self,
        memories: torch.Tensor,
        token_ids: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Learn a codebook from memories: drawn as k-means++ draws, then moved as k-means moves.

        In a torch.distributed group every process calls this, with its share of the memories.

        Args:
            memories: as of `forward`; of all processes together at least K.
            token_ids: as of `forward`.
            offsets: as of `forward`.
            seed: decides what is drawn.

        Raises:
            ShapeError: as `forward`, or if there are fewer than K memories.

        Cost: as a dozen forward passes.
        """
        points, _ = self._enter(memories, token_ids, offsets, together=True)
        codebook_size = self.codebook.shape[1]
        num_memories = torch.tensor(len(points), device=points.device)
        vq_codebook.sum_over_ranks(num_memories)
        if int(num_memories) < codebook_size:
            raise ShapeError(
                f"memories: got {int(num_memories)}, wanted at least {codebook_size}, one a "
                "centroid; lower codebook_size or give more"
            )
        generator = torch.Generator().manual_seed(seed)
        with float32_products(points.device):
            self._start(vq_codebook.learn_codebook(points, codebook_size, generator))

    def forward(
        self,
        memories: torch.Tensor,
        token_ids: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
    ) -> VQOutput:
        """Quantize memories; in training mode, move the codebook afterwards.

        Args:
            memories: (T, D) floating point, finite: passages one after another, without padding.
            token_ids: (T,) int32 or int64, for a predictor.
            offsets: (P + 1,) int64, for a predictor: passage i is rows
                `offsets[i]:offsets[i + 1]`; None: one passage.

        Raises:
            ShapeError: if they are not such tensors. Nothing has changed then.
            NotFiniteError: if a value is not; the first such row is named; in training, all
                processes of a group raise. Nothing has changed then.
            ConfigError: if there is no codebook yet.
        """
        self._check_started()
        with torch.no_grad():
            points, expected = self._enter(memories, token_ids, offsets, together=self.training)
            with float32_products(points.device):
                codes = vq_codebook.nearest(points, self.codebook)
            centroids = vq_codebook.gather(codes, self.codebook).flatten(1)
            decoded = self.stages.leave(centroids, expected)
            counts = vq_codebook.count(codes, self.codebook.shape[1])
            num_resets = 0
            if self.training:
                vq_codebook.sum_over_ranks(counts)
                num_resets = self._learn(points, codes, counts)
        return VQOutput(
            # m + sg(decoded - m), but with the bits that the store will give.
            quantized=decoded.to(memories.dtype) + (memories - memories.detach()),
            codes=codes,
            commitment_loss=self._commitment_loss(memories, decoded),
            perplexity=vq_codebook.perplexity(counts),
            num_resets=num_resets,
        )

    def usage_perplexity(self) -> torch.Tensor:
        """Return (M,) float32: codes in use over the batches that the averages reach back to."""
        return vq_codebook.perplexity(self.ema_counts)

    def extra_repr(self) -> str:
        """Say what the layer is, for `print`."""
        num_subspaces, codebook_size, width = self.codebook.shape
        return (
            f"dim={num_subspaces * width}, num_subspaces={num_subspaces}, "
            f"codebook_size={codebook_size}, decay={self.decay}, commitment={self.commitment}, "
            f"reset_below={self.reset_below}"
        )

    def _enter(
        self,
        memories: torch.Tensor,
        token_ids: torch.Tensor | None,
        offsets: torch.Tensor | None,
        *,
        together: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (T, M, D/M) finite subvectors, and what the predictor took from them."""
        vectors, expected = self.stages.enter(memories, token_ids, offsets)
        is_bad = ~torch.isfinite(vectors).all(dim=1)
        num_bad = is_bad.sum()
        if together:
            vq_codebook.sum_over_ranks(num_bad)
        if int(num_bad):
            rows = torch.nonzero(is_bad)[:, 0].tolist()
            where = f"row {rows[0]} holds" if rows else "those of another process hold"
            raise NotFiniteError(
                f"memories: {where} NaN or infinity; nothing was learnt from them",
                **({"row": rows[0]} if rows else {}),
            )
        num_subspaces, _, width = self.codebook.shape
        return vectors.reshape(len(vectors), num_subspaces, width), expected

    def _learn(self, points: torch.Tensor, codes: torch.Tensor, counts: torch.Tensor) -> int:
        """Move averages and codebook, draw rare codes anew; return how many those were."""
        average = counts[0].mean()
        if not average:
            return 0
        sums = vq_codebook.add_up(points, codes, self.codebook.shape[1])
        vq_codebook.sum_over_ranks(sums)
        if not self.num_updates:
            self.ema_counts.copy_(NEW_USE * average)
            self.ema_sums.copy_(self.ema_counts[..., None] * self.codebook)
        self.ema_counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.ema_sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        # A code without memories keeps its centroid to the bit: their quotient would drift.
        means = self.ema_sums / self.ema_counts[..., None]
        self.codebook.copy_(torch.where(counts[..., None] > 0, means, self.codebook))
        self.num_updates += 1
        return self._reset(points)

    def _reset(self, points: torch.Tensor) -> int:
        """Draw rarely used codes anew, from the memories of all processes."""
        if self.reset_below is None:
            return 0
        is_rare = self.ema_counts < self.reset_below * self.ema_counts.mean()
        use = NEW_USE * self.ema_counts.mean()
        generator = torch.Generator().manual_seed(int(self.num_updates))
        num_resets = 0
        for m in torch.nonzero(is_rare.any(dim=1))[:, 0].tolist():
            rare = torch.nonzero(is_rare[m])[:, 0]
            everyone = vq_codebook.rows_of_ranks(points[:, m].contiguous())
            kept = self.codebook[m, ~is_rare[m]]
            with float32_products(points.device):
                drawn = vq_codebook.draw_centroids(everyone, kept, len(rare), generator)
            changed = rare[: len(drawn)]
            self.codebook[m, changed] = drawn
            self.ema_counts[m, changed] = use
            self.ema_sums[m, changed] = use * drawn
            num_resets += len(drawn)
        return num_resets

    def _commitment_loss(self, memories: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        if not self.commitment or not memories.numel():
            return decoded.new_zeros(())
        return self.commitment * (memories.float() - decoded).square().mean()

    def _start(self, codebook: torch.Tensor) -> None:
        self.codebook.copy_(codebook)
        self.num_updates.zero_()

    def _check_started(self) -> None:
        if int(self.num_updates) < 0:
            raise ConfigError(
                "ProductVQ: there is no codebook yet; call initialize with memories, or start "
                "from a codec"
            )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ProductVQ:
        """Move to devices, but keep dtypes: averages in bfloat16 would not move at all."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self


def _check_shape(dim: int, num_subspaces: int, codebook_size: int) -> None:
    if dim < 1 or num_subspaces < 1 or dim % num_subspaces:
        raise ConfigError(
            f"num_subspaces: got {num_subspaces}, wanted a divisor of the dimension {dim}"
        )
    if not 2 <= codebook_size <= 65_536:
        raise ConfigError(f"codebook_size: got {codebook_size}, wanted 2 to 65,536")


def _check_rates(decay: float, commitment: float, reset_below: float | None) -> None:
    if not 0 < decay < 1:
        raise ConfigError(f"decay: got {decay}, wanted more than 0 and less than 1")
    if not 0 <= commitment < float("inf"):
        raise ConfigError(f"commitment: got {commitment}, wanted 0 or more")
    if reset_below is not None and not 0 < reset_below < NEW_USE:
        raise ConfigError(
            f"reset_below: got {reset_below}, wanted more than 0 and less than {NEW_USE}, what a "
            "new centroid counts as; or None"
        )
