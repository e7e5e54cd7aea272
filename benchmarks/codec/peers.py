"""What faiss, torch and NumPy offer for nearest centroids and for putting them side by side.

Each is given its best shape: subvectors and centroids contiguous and prepared, scores in chunks
that suit the caches, a second core where it can use one.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
import torch

from memstore.codec import ProductCodec
from memstore.codec.interchange import to_faiss

Search = Callable[[np.ndarray], np.ndarray]
"""(N, width) float32 subvectors → (N,) codes of one subspace."""

Decode = Callable[[np.ndarray, np.ndarray], object]
"""(N, M) uint16 codes, or faiss codes, and (N, D) to fill."""

_CHUNKS = 64, 256, 1_024
HNSW_NEIGHBOURS = 16


def flat_search(centroids: np.ndarray) -> Search:
    """Search (K, width) centroids by a faiss flat index."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    return lambda vectors: index.search(vectors, 1)[1][:, 0]


def graph_index(centroids: np.ndarray) -> faiss.IndexHNSWFlat:
    """Return a faiss HNSW graph over (K, width) centroids."""
    index = faiss.IndexHNSWFlat(centroids.shape[1], HNSW_NEIGHBOURS)
    index.add(centroids)
    return index


def graph_search(index: faiss.IndexHNSWFlat, ef_search: int) -> Search:
    """Search a graph that keeps `ef_search` candidates."""
    params = faiss.SearchParametersHNSW(efSearch=ef_search)
    return lambda vectors: index.search(vectors, 1, params=params)[1][:, 0]


def quantizer(centroids: np.ndarray) -> faiss.ProductQuantizer:
    """Return a `faiss.ProductQuantizer` of (m, K, width) float32 centroids."""
    num_subspaces, codebook_size, width = centroids.shape
    num_bits = codebook_size.bit_length() - 1
    found = faiss.ProductQuantizer(num_subspaces * width, num_subspaces, num_bits)
    faiss.copy_array_to_vector(centroids.ravel(), found.centroids)
    return found


def torch_search(centroids: np.ndarray, sample: np.ndarray) -> Search:
    """Search by product and argmax in torch, in the chunks that suit `sample` best."""
    transposed = torch.from_numpy(centroids).t().contiguous()
    bias = -0.5 * transposed.square().sum(dim=0)

    def search(chunk: int, vectors: np.ndarray) -> np.ndarray:
        parts = torch.split(torch.from_numpy(vectors), chunk)
        codes = [torch.addmm(bias, part, transposed).argmax(dim=1) for part in parts]
        found: np.ndarray = torch.cat(codes).numpy()
        return found

    return _best_chunk(search, sample)


def numpy_search(centroids: np.ndarray, sample: np.ndarray) -> Search:
    """Search by product and argmax in NumPy, in the chunks that suit `sample` best."""
    norms = -0.5 * np.square(centroids).sum(axis=1, keepdims=True)
    # The norms as one more dimension: the product adds them.
    transposed = np.ascontiguousarray(np.concatenate([centroids, norms], axis=1).T)
    scores = np.empty((_CHUNKS[-1], len(centroids)), np.float32)

    def search(chunk: int, vectors: np.ndarray) -> np.ndarray:
        ones = np.ones((len(vectors), 1), np.float32)
        vectors = np.concatenate([vectors, ones], axis=1)
        codes = np.empty(len(vectors), np.int64)
        for start in range(0, len(vectors), chunk):
            part = vectors[start : start + chunk]
            out = np.matmul(part, transposed, out=scores[: len(part)])
            out.argmax(axis=1, out=codes[start : start + chunk])
        return codes

    return _best_chunk(search, sample)


def _best_chunk(search: Callable[[int, np.ndarray], np.ndarray], sample: np.ndarray) -> Search:
    def seconds(chunk: int) -> float:
        search(chunk, sample[:chunk])
        began = time.perf_counter()
        search(chunk, sample)
        return time.perf_counter() - began

    return partial(search, min(_CHUNKS, key=seconds))


def faiss_decode(codec: ProductCodec) -> Decode:
    """Decode faiss codes by `ProductQuantizer.decode`, which writes float32."""
    index = to_faiss(codec)  # the quantizer is a part of it

    def decode(codes: np.ndarray, out: np.ndarray) -> None:
        index.pq.decode_c(faiss.swig_ptr(codes), faiss.swig_ptr(out), len(codes))

    return decode


def torch_decode(codec: ProductCodec) -> Decode:
    """Decode by `torch.index_select`, bfloat16; codes become int64 indices on the way."""
    num_subspaces, codebook_size, width = codec.codebook.shape
    bits = codec.codebook.view(np.int16)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor written to
        table = torch.from_numpy(bits).view(torch.bfloat16).view(-1, width)
    first = torch.arange(num_subspaces) * codebook_size

    def decode(codes: np.ndarray, out: np.ndarray) -> None:
        index = torch.from_numpy(codes).to(torch.int64).add_(first).view(-1)
        filled = torch.from_numpy(out.view(np.int16)).view(torch.bfloat16).view(-1, width)
        torch.index_select(table, 0, index, out=filled)

    return decode


def numpy_decode(codec: ProductCodec) -> Decode:
    """Decode by `numpy.take` of whole centroids, bfloat16 as it lies, on one core."""
    num_subspaces, codebook_size, width = codec.codebook.shape
    centroid = np.dtype((np.void, width * codec.codebook.itemsize))
    table = codec.codebook.view(np.uint16).view(centroid).reshape(-1)
    first = np.arange(num_subspaces) * codebook_size

    def decode(codes: np.ndarray, out: np.ndarray) -> None:
        filled = out.view(np.uint16).view(centroid)
        np.take(table, codes + first, out=filled, mode="clip")

    return decode
