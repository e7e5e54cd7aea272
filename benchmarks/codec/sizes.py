"""How large everything is: as asked of the codec, or just enough to run the code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the figures depend on.

    Attributes:
        num_subspaces, codebook_size, width: M, K and D/M.
        encode_batches: tokens in a call of `encode`; the last is timed apart.
        peer_subspaces: on so many one-subspace searches of others are timed, in turns.
        table_subspaces: on so many faiss `compute_codes` is timed at once: its scratch, 4 K bytes a
            token and subspace, is then beyond the caches, as it is with all of them.
        decode_batches: tokens in a call of `decode`; the last also is the number of records.
        dense_tokens: the largest batch at which a dense rotation is undone.
        vocabulary_size: V of the token predictor.
        passage_tokens: of the token predictor.
        training_points, training_iterations: of the k-means of one subspace.
        tokens, held_out_tokens: of the activations.
        quality_tokens, quality_dim, quality_subspaces, quality_centroids: of the comparison at
            equal bytes.
        matrix: side of the square sgemm.
        copy_bytes: of the copy.
        pause_s: before every timed call.
        rounds, long_rounds: over which the spread is taken; of the largest `encode_batches`.
    """

    num_subspaces: int
    codebook_size: int
    width: int
    encode_batches: tuple[int, ...]
    peer_subspaces: int
    table_subspaces: int
    decode_batches: tuple[int, ...]
    dense_tokens: int
    vocabulary_size: int
    passage_tokens: int
    training_points: int
    training_iterations: int
    tokens: int
    held_out_tokens: int
    quality_tokens: int
    quality_dim: int
    quality_subspaces: int
    quality_centroids: int
    matrix: int
    copy_bytes: int
    pause_s: float
    rounds: int
    long_rounds: int


FULL = Sizes(
    num_subspaces=256,
    codebook_size=65_536,
    width=16,
    encode_batches=(64, 1_024, 16_384),
    peer_subspaces=4,
    table_subspaces=16,
    decode_batches=(128, 1_024, 4_096, 65_536),
    dense_tokens=4_096,
    vocabulary_size=32_128,
    passage_tokens=128,
    training_points=1_000_000,
    training_iterations=5,
    tokens=300_000,
    held_out_tokens=20_000,
    quality_tokens=32_768,
    quality_dim=384,
    quality_subspaces=48,
    quality_centroids=256,
    matrix=2_048,
    copy_bytes=256 << 20,
    pause_s=0.05,
    rounds=5,
    long_rounds=2,
)

QUICK = Sizes(
    num_subspaces=8,
    codebook_size=4_096,
    width=16,
    encode_batches=(64, 128, 256),
    peer_subspaces=2,
    table_subspaces=2,
    decode_batches=(32, 128),
    dense_tokens=128,
    vocabulary_size=30_522,
    passage_tokens=16,
    training_points=12_000,
    training_iterations=2,
    tokens=6_000,
    held_out_tokens=600,
    quality_tokens=1_000,
    quality_dim=32,
    quality_subspaces=4,
    quality_centroids=16,
    matrix=128,
    copy_bytes=1 << 20,
    pause_s=0.0,
    rounds=2,
    long_rounds=2,
)
