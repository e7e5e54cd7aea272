"""Codecs and codes from faiss, and back, without loss: a codec trained there can serve here.

What faiss calls a product quantizer is our codebook, and a linear transform before it, such as an
OPQMatrix, our rotation. faiss packs a token's codes bit by bit, the first in the lowest bits; with
8 bits a code those are the bytes of our records but for a pad byte, with 16 bits all of them.

Does not: move vectors that a faiss index holds; take over inverted files, residual or additive
quantizers.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from memstore.codec import arguments
from memstore.codec.product import ProductCodec
from memstore.codec.records import RecordLayout
from memstore.codec.rotation import Rotation
from memstore.errors import ConfigError, CorruptionError, ShapeError

_MAX_BITS = 16
_ORTHOGONAL = 4e-5  # how far R R' may be from the identity; faiss asks for the same


def from_faiss(quantizer: Any, rotation: Any = None) -> ProductCodec:
    """Take over a trained quantizer.

    Args:
        quantizer: a `faiss.ProductQuantizer` or `faiss.IndexPQ` of at most 16 bits a code, or a
            `faiss.IndexPreTransform` of one linear transform and an IndexPQ.
        rotation: a `faiss.LinearTransform` (an OPQMatrix is one) that the quantizer's vectors went
            through, if the quantizer does not hold it itself: orthogonal, without bias.

    Returns:
        A codec of float32 centroids. Its `decode` equals faiss's bit for bit, with a rotation
        within rounding.

    Raises:
        ConfigError: if these are something else, are not trained, or cannot be undone.
        ShapeError: if the centroids are not finite, or of another width than the rotation.
    """
    if isinstance(quantizer, faiss.IndexPreTransform):
        if rotation is not None:
            raise ConfigError("rotation: a faiss.IndexPreTransform holds its own; give none")
        if quantizer.chain.size() != 1:
            raise ConfigError(
                f"the faiss.IndexPreTransform has {quantizer.chain.size()} transforms, wanted one"
            )
        rotation = faiss.downcast_VectorTransform(quantizer.chain.at(0))
        return ProductCodec(
            _centroids(faiss.downcast_index(quantizer.index)), rotation=_rotation(rotation)
        )
    stage = _rotation(rotation) if rotation is not None else None
    return ProductCodec(_centroids(quantizer), rotation=stage)


def to_faiss(codec: ProductCodec) -> Any:
    """Return the codec as an empty, trained faiss index.

    Returns:
        A `faiss.IndexPQ`; with a rotation a `faiss.IndexPreTransform` of a LinearTransform and an
        IndexPQ. Its `sa_encode` and `sa_decode` make codes as `codes_to_faiss` does, and vectors.
        bfloat16 centroids become float32, which is exact.

    Raises:
        ConfigError: if faiss has no such codec: one with a token predictor, or with a number of
            centroids that is not a power of two.
    """
    num_bits = _num_bits(codec)
    index = faiss.IndexPQ(codec.dim, codec.num_subspaces, num_bits)
    faiss.copy_array_to_vector(codec.codebook.astype(np.float32).ravel(), index.pq.centroids)
    index.is_trained = True
    if codec.rotation is None:
        return index
    transform = faiss.LinearTransform(codec.dim, codec.dim, False)
    faiss.copy_array_to_vector(codec.rotation.matrix().ravel(), transform.A)
    transform.is_trained = True
    transform.set_is_orthonormal()
    if not transform.is_orthonormal:
        raise ConfigError("the codec's rotation is not orthogonal: faiss cannot undo it")
    return faiss.IndexPreTransform(transform, index)


def codes_to_faiss(codec: ProductCodec, records: np.ndarray) -> np.ndarray:
    """Turn a codec's records into the codes of `to_faiss(codec)`.

    Args:
        codec: the codec that made the records.
        records: (T, W) uint16, or int16 of the same bits.

    Returns:
        (T, ceil(M bits / 8)) uint8, where K = 2^bits.

    Raises:
        ConfigError: as `to_faiss`.
        ShapeError: if the records are not of this width.
        CorruptionError: if a record names a centroid that does not exist.
    """
    num_bits, layout = _num_bits(codec), _layout(codec)
    records = arguments.as_records(records, layout.num_words)
    layout.check_pad(records)
    codes = layout.codes(records)[:, : codec.num_subspaces]
    bad_rows = np.flatnonzero((codes >= codec.codebook_size).any(axis=1))
    if len(bad_rows):
        raise CorruptionError(
            f"record {bad_rows[0]} names a centroid beyond the codec's {codec.codebook_size}; the "
            "records are damaged or of another codec",
            row=bad_rows[0],
        )
    packed: np.ndarray = faiss.pack_bitstrings(codes.astype(np.int32), num_bits)
    return packed


def codes_from_faiss(codec: ProductCodec, codes: np.ndarray) -> np.ndarray:
    """Turn the codes of a quantizer into the records of the codec that `from_faiss` made of it.

    Args:
        codec: of a number of centroids that is a power of two, K = 2^bits.
        codes: (T, ceil(M bits / 8)) uint8, as `compute_codes` or `sa_encode` returns them.

    Returns:
        (T, W) uint16 records; codes of other than 8 or 16 bits are widened to the next of them.

    Raises:
        ConfigError: as `to_faiss`.
        ShapeError: if the codes are not of this width.
    """
    num_bits, layout = _num_bits(codec), _layout(codec)
    num_bytes = -(-codec.num_subspaces * num_bits // 8)
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != num_bytes:
        raise ShapeError(
            f"codes: got {codes.dtype} {codes.shape}, wanted uint8 (T, {num_bytes}): "
            f"{codec.num_subspaces} codes of {num_bits} bits"
        )
    records = layout.empty(len(codes))
    unpacked = faiss.unpack_bitstrings(np.ascontiguousarray(codes), codec.num_subspaces, num_bits)
    layout.codes(records)[:, : codec.num_subspaces] = unpacked
    return records


def _centroids(quantizer: Any) -> np.ndarray:
    """Return (M, K, D/M) float32, a view of what the quantizer holds or a copy."""
    if isinstance(quantizer, faiss.IndexPQ):
        quantizer = quantizer.pq
    if not isinstance(quantizer, faiss.ProductQuantizer):
        raise ConfigError(
            f"got a {type(quantizer).__name__}, wanted a faiss.ProductQuantizer, IndexPQ, or "
            "IndexPreTransform of an IndexPQ"
        )
    if quantizer.nbits > _MAX_BITS:
        raise ConfigError(f"the quantizer has {quantizer.nbits} bits a code, wanted at most 16")
    centroids: np.ndarray = faiss.vector_to_array(quantizer.centroids)
    if not centroids.any():
        raise ConfigError(
            "the faiss.ProductQuantizer is not trained: all its centroids are zero; train it first"
        )
    return centroids.reshape(quantizer.M, quantizer.ksub, quantizer.dsub)


def _rotation(transform: Any) -> Rotation:
    if not isinstance(transform, faiss.LinearTransform):
        raise ConfigError(
            f"rotation: got a {type(transform).__name__}, wanted a faiss.LinearTransform"
        )
    if transform.have_bias:
        raise ConfigError(
            "rotation: the faiss.LinearTransform has a bias, which no codec has; subtract it from "
            "the vectors instead"
        )
    dim = transform.d_in
    matrix = faiss.vector_to_array(transform.A)
    if transform.d_out != dim or matrix.size != dim * dim:
        raise ConfigError(
            f"rotation: got {transform.d_out} x {dim} with {matrix.size} values, wanted a trained "
            "transform as wide as it is high"
        )
    matrix = matrix.reshape(dim, dim)
    wide = matrix.astype(np.float64)
    if not np.abs(wide @ wide.T - np.eye(dim)).max() <= _ORTHOGONAL:
        raise ConfigError("rotation: the faiss.LinearTransform is not orthogonal")
    return Rotation(matrix[None], np.arange(dim, dtype=np.int32))


def _num_bits(codec: ProductCodec) -> int:
    """Return the bits of a code in faiss, if faiss can have this codec."""
    if codec.predictor is not None:
        raise ConfigError(
            "the codec predicts from token ids, which faiss knows nothing of: it cannot be "
            "exported; train one without a predictor"
        )
    num_bits = codec.codebook_size.bit_length() - 1
    if codec.codebook_size != 1 << num_bits:
        raise ConfigError(
            f"the codec has {codec.codebook_size} centroids a subspace; faiss has powers of two"
        )
    return num_bits


def _layout(codec: ProductCodec) -> RecordLayout:
    return RecordLayout.for_codebook(codec.num_subspaces, codec.codebook_size)
