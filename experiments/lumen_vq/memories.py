"""Memories as a store keeps them: packed without padding, and compressed by one rule or another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from experiments.lumen_vq.language import PAD
from memstore.codec import ProductCodec
from memstore.codec.comparison.families import FAMILIES
from memstore.codec.comparison.quantizers import Codes, Quantizer
from memstore.codec.sample import Sample
from memstore.models.vq import COMMITMENT, RESET_BELOW, ProductVQ

_TOKEN_ID_BITS = 16


@dataclass(frozen=True, slots=True)
class ProductCodes:
    """A product codec, and how it learns on while the reader does.

    Args:
        rate: bits of a memory in bfloat16 over those of its codes and token id, or a little more.
        codebook_size: K, a power of two; each code counts log2 K bits.
        has_predictor: codes are of what the token id does not tell, in PCA's basis; the id counts.
        commitment: weight of the commitment loss.
        resets: whether rarely used codes are drawn anew.
    """

    rate: int
    codebook_size: int = 256
    has_predictor: bool = False
    commitment: float = COMMITMENT
    resets: bool = True

    def num_subspaces(self, dim: int) -> int:
        """Return M, the largest divisor of D with which the codes fit the rate."""
        bits = 16 * dim // self.rate - _TOKEN_ID_BITS * self.has_predictor
        most = bits // self._code_bits
        fitting = [m for m in range(1, most + 1) if dim % m == 0]
        if not fitting:
            raise ValueError(f"rate: got {self.rate}, too high for {dim} dimensions")
        return fitting[-1]

    def fit(self, sample: Sample, seed: int) -> ProductCodec:
        """Train the codec post hoc."""
        stages = {"rotation": "pca", "predictor": "token"} if self.has_predictor else {}
        return ProductCodec.train(
            sample.vectors,
            num_subspaces=self.num_subspaces(sample.vectors.shape[1]),
            codebook_size=self.codebook_size,
            token_ids=sample.token_ids,
            offsets=sample.offsets,
            vocabulary=sample.vocabulary,
            seed=seed,
            **stages,  # type: ignore[arg-type]
        )

    def bottleneck(self, codec: ProductCodec, decay: float) -> ProductVQ:
        """Return the layer that starts as the codec and learns with the reader."""
        return ProductVQ.from_codec(
            codec,
            decay=decay,
            commitment=self.commitment,
            reset_below=RESET_BELOW if self.resets else None,
        )

    def bytes_per_token(self, dim: int) -> float:
        """Return what is kept of a token, the token id included."""
        bits = self.num_subspaces(dim) * self._code_bits
        return (bits + _TOKEN_ID_BITS * self.has_predictor) / 8

    @property
    def _code_bits(self) -> int:
        return int(math.log2(self.codebook_size))


@dataclass(frozen=True, slots=True)
class OtherFamily:
    """A quantizer that `memstore codec compare` knows: integers, or the loudest principal axes.

    Args:
        name: of the family.
        rate: of a family that has several.
    """

    name: str
    rate: int = 0

    def fit(self, sample: Sample, seed: int) -> Quantizer:
        """Train it."""
        return FAMILIES[self.name].fit(sample, self.rate, seed)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What a store gives back.

    Attributes:
        memories: (N, P, D) float32, zeros where there is no token.
        bytes_per_token: of the codes.
        table_bytes: of everything that a reader needs once, such as the codebook.
        error: squared error over the variance.
    """

    memories: torch.Tensor
    bytes_per_token: float
    table_bytes: int
    error: float


def pack(memories: torch.Tensor, ids: np.ndarray, vocabulary: int) -> Sample:
    """Return memories (N, P, D) of passages (N, P) as a sample of tokens, padding left out."""
    is_token = ids != PAD
    return Sample(
        vectors=memories[torch.from_numpy(is_token)].cpu().float().numpy(),
        token_ids=ids[is_token].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(is_token.sum(axis=1))]),
        vocabulary=vocabulary,
    )


def keep(
    rule: ProductCodes | OtherFamily,
    quantizer: ProductCodec | Quantizer,
    memories: torch.Tensor,
    ids: np.ndarray,
) -> Kept:
    """Return what is left of memories (N, P, D) of passages (N, P) after encoding and decoding."""
    sample = pack(memories, ids, 0)
    stored = Codes(quantizer) if isinstance(quantizer, ProductCodec) else quantizer
    encoded = stored.encode(sample)
    vectors = stored.decode(encoded, sample.offsets)
    num_bytes = sum(array.nbytes for array in encoded) / len(vectors)
    if isinstance(rule, ProductCodes):  # codes of 12 bits stand in words of 16
        num_bytes = rule.bytes_per_token(vectors.shape[1])
    found = torch.zeros_like(memories)
    found[torch.from_numpy(ids != PAD)] = torch.from_numpy(vectors).to(memories)
    variance = sample.vectors.var(axis=0, dtype=np.float64).sum()
    error = np.square(sample.vectors - vectors).sum(axis=1, dtype=np.float64).mean() / variance
    return Kept(found, num_bytes, stored.tensor_bytes, float(error))


def quantize(
    layer: ProductVQ, memories: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Send memories (N, P, D) of passages (N, P) through the bottleneck.

    Returns:
        (N, P, D), zeros where there is no token; and the commitment loss.
    """
    is_token = ids != PAD
    offsets = _offsets(is_token.sum(dim=1).cumsum(0))
    output = layer(memories[is_token], ids[is_token], offsets)
    found = torch.zeros_like(memories)
    found[is_token] = output.quantized
    return found, output.commitment_loss


def _offsets(ends: torch.Tensor) -> torch.Tensor:
    """Return (P + 1,) offsets from the ends (P,) of passages."""
    return torch.cat([ends.new_zeros(1), ends])
