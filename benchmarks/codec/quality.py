"""Error on held-out activations against faiss's quantizers: equal bytes, the same sample."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.codec.activations import Activations
from benchmarks.codec.parts import Part, once
from benchmarks.codec.sizes import Sizes
from benchmarks.harness import Cell, Table
from memstore.codec import ProductCodec


def against_faiss(activations: Activations, sizes: Sizes, seed: int) -> Part:
    """Train plain and rotated quantizers on a sample, and measure them on other documents."""
    step = max(1, len(activations.vectors) // sizes.quality_tokens)
    columns = slice(0, sizes.quality_dim)
    sample = activations.vectors[::step][: sizes.quality_tokens, columns].astype(np.float32)
    held_out = np.ascontiguousarray(activations.held_out[:, columns])
    spread = float(np.square(held_out - held_out.mean(axis=0), dtype=np.float64).sum())

    def error(decoded: np.ndarray) -> float:
        return float(np.square(held_out - decoded, dtype=np.float64).sum()) / spread

    def ours(rotation: str | None) -> float:
        codec = ProductCodec.train(
            sample,
            num_subspaces=sizes.quality_subspaces,
            codebook_size=sizes.quality_centroids,
            rotation=rotation,
            seed=seed,
        )
        return error(codec.decode(codec.encode(held_out)))

    plain = error(_reconstructed(_faiss_plain(sample, sizes), sample, held_out))
    rotated = error(_reconstructed(_faiss_rotated(sample, sizes), sample, held_out))
    found = {name: ours(name) for name in (None, "pca", "opq")}
    rows: list[tuple[Cell, ...]] = [
        ("faiss ProductQuantizer", plain, once(1)),
        ("ours, plain", found[None], once(found[None] / plain)),
        ("faiss OPQMatrix + ProductQuantizer", rotated, once(1)),
        ("ours, rotation pca", found["pca"], once(found["pca"] / rotated)),
        ("ours, rotation opq", found["opq"], once(found["opq"] / rotated)),
    ]
    num_bits = (sizes.quality_centroids - 1).bit_length()
    return Part(
        gates=[],
        tables=[
            Table(
                title=f"Held-out error on activations, {sizes.quality_subspaces} codes of "
                f"{num_bits} bits",
                columns=("by", "relative squared error", "over faiss's of the same kind"),
                rows=rows,
            )
        ],
        targets={
            "plain error": {"activations": once(found[None] / plain)},
            "rotated error": {"activations": once(found["opq"] / rotated)},
        },
        notes=[
            f"Error: {len(sample):,} tokens to train on, all of them, {len(held_out):,} of other "
            "documents to measure on; relative to the spread around their mean; codebooks of ours "
            "in bfloat16, of faiss in float32.",
        ],
    )


def _faiss_plain(sample: np.ndarray, sizes: Sizes) -> faiss.IndexPQ:
    """Return an untrained product quantizer that trains on all of the sample."""
    num_bits = (sizes.quality_centroids - 1).bit_length()
    index = faiss.IndexPQ(sample.shape[1], sizes.quality_subspaces, num_bits)
    index.pq.cp.max_points_per_centroid = len(sample)
    index.pq.cp.min_points_per_centroid = 1
    return index


def _faiss_rotated(sample: np.ndarray, sizes: Sizes) -> faiss.IndexPreTransform:
    """Return the same behind an OPQMatrix, which trains on all of the sample too."""
    matrix = faiss.OPQMatrix(sample.shape[1], sizes.quality_subspaces)
    matrix.max_train_points = len(sample)
    quantizer = _faiss_plain(sample, sizes)
    matrix.pq = quantizer.pq
    return faiss.IndexPreTransform(matrix, quantizer)


def _reconstructed(index: faiss.Index, sample: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    index.train(sample)
    decoded: np.ndarray = index.sa_decode(index.sa_encode(vectors))
    return decoded
