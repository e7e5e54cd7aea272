"""Codecs, codes and records for the tests of the GPU."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import torch

from memstore.codec import ProductCodec

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# M, K, width: two codes a word, the same with a pad byte, one a word with tiles that are not full,
# a width that is no power of two, as many centroids as two codes a word allow, and one more.
SHAPES = [(4, 16, 4), (3, 256, 8), (2, 2100, 16), (3, 300, 5), (2, 2, 32), (5, 257, 16)]
DTYPES = ["bfloat16", "float16", "float32"]


def array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).cpu().numpy().view(ml_dtypes.bfloat16)
    return tensor.cpu().numpy()


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def random_codes(codec: ProductCodec, num_rows: int, seed: int = 0) -> np.ndarray:
    """Return (num_rows, M) codes."""
    shape = num_rows, codec.num_subspaces
    return np.random.default_rng(seed).integers(0, codec.codebook_size, shape)


def packed(codec: ProductCodec, codes: np.ndarray) -> np.ndarray:
    """Return codes as uint16 records, by arithmetic."""
    if codec.codebook_size > 256:
        return codes.astype(np.uint16)
    pairs = np.zeros((len(codes), 2 * codec.record_words), np.uint16)
    pairs[:, : codec.num_subspaces] = codes
    return pairs[:, 0::2] | pairs[:, 1::2] << 8


def bfloat16_codec(shape: tuple[int, int, int], seed: int = 1) -> ProductCodec:
    """Return a codec of random centroids."""
    return ProductCodec(gaussian(seed, *shape).astype(ml_dtypes.bfloat16))
