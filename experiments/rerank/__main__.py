"""`python -m experiments.rerank --data DIR`: the tables of docs/results/rerank.md."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.rerank.material import Material, read
from memstore.codec import ProductCodec
from memstore.codec.similarity import max_similarity

WEIGHTS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the retrieval score
CODECS: dict[str, dict[str, Any]] = {
    "PQ": {},
    "rotated PQ": {"rotation": "pca"},
    "token predictor, rotated PQ": {"rotation": "pca", "predictor": "token"},
    "context predictor, rotated PQ": {"rotation": "pca", "predictor": "context"},
}
VOCABULARY = 30_522
TIMED_PASSAGES, QUESTION_TOKENS, ROUNDS = 100, 32, 11

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
Scores = dict[str, np.ndarray]
Encoded = dict[str, tuple[ProductCodec, np.ndarray]]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.rerank")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cranfield/")
    report(read(parser.parse_args().data))


def report(material: Material) -> None:
    """Print the tables for material that is there already."""
    truth = print_similarities(material)
    print_times(material, print_codecs(material, truth))


def print_similarities(material: Material) -> Scores:
    """Print nDCG@10 by similarity and weight; return the scores of the one that is used."""
    mean = material.memories.mean(axis=0)
    ways = {
        "inner product (used)": on_vectors(material),
        "inner product, no special tokens": on_vectors(material, special=False),
        "cosine": on_vectors(material, cosine=True),
        "cosine, no special tokens": on_vectors(material, cosine=True, special=False),
        "cosine of centred memories": on_vectors(material, cosine=True, centre=mean),
    }
    columns = ("0, MaxSim alone", *map(str, WEIGHTS[1:]), "1, retrieval alone")
    print("| float32 memories, weight of retrieval: | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    found = {name: score_all(material, way) for name, way in ways.items()}
    for name, scores in found.items():
        cells = [ranked(material, scores, weight)[0] for weight in (*WEIGHTS, 1.0)]
        print(f"| {name} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |")
    return found["inner product (used)"]


def print_codecs(material: Material, truth: Scores) -> Encoded:
    """Print what is left of the ranking on 48 codes, trained on the first 1,000 passages.

    Returns:
        Each codec with the records of all passages.
    """
    encoded: Encoded = {}
    print("\n| codes, 48 x 8 bits | relative MSE | MaxSim alone | kept | mean of both | kept |")
    print("|---|---:|---:|---:|---:|---:|")
    references = {weight: ranked(material, truth, weight) for weight in (0.0, 0.5)}
    cells = " | ".join(f"{ndcg:.4f} | 1" for ndcg, _ in references.values())
    print(f"| float32 | 0 | {cells} |")
    offsets = material.offsets[:1001]
    sample = slice(0, offsets[-1])
    for name, stages in CODECS.items():
        codec = ProductCodec.train(
            material.memories[sample],
            num_subspaces=48,
            codebook_size=256,
            token_ids=material.token_ids[sample],
            offsets=offsets,
            vocabulary=VOCABULARY if "predictor" in stages else None,
            **stages,
        )
        records = codec.encode(material.memories, material.token_ids, material.offsets)
        encoded[name] = codec, records
        scores = score_all(material, on_codes(material, codec, records))
        cells = ""
        for weight, (_, reference) in references.items():
            ndcg, ranking = ranked(material, scores, weight)
            cells += f" | {ndcg:.4f} | {kept(ranking, reference):.3f}"
        print(f"| {name} | {relative_error(material, codec, records):.3f}{cells} |", flush=True)
    return encoded


def print_times(material: Material, encoded: Encoded) -> None:
    """Print processor time of scoring on codes, and of decoding first, taken in turns."""
    offsets = material.offsets[: TIMED_PASSAGES + 1]
    memories = [memory for _, memory in material.questions.values()]
    question = np.concatenate(memories)[:QUESTION_TOKENS]
    print(f"\n| {offsets[-1]:,} tokens, ms | on codes | decoded, in the rotated basis | decoded |")
    print("|---|---:|---:|---:|")
    for name, (codec, records) in encoded.items():
        part = records[: offsets[-1]]

        ways: list[Callable[[], object]] = [
            partial(max_similarity, codec, question, part, offsets),
            partial(decoded_first, codec, question, part, offsets, rotated=True),
            partial(decoded_first, codec, question, part, offsets, rotated=False),
        ]
        times = np.empty((ROUNDS + 1, len(ways)))
        for turn in times:
            for i, way in enumerate(ways):
                start = time.process_time()
                way()
                turn[i] = 1e3 * (time.process_time() - start)
        cells = " | ".join(f"{middle:.1f}" for middle in np.median(times[1:], axis=0))
        print(f"| {name} | {cells} |", flush=True)


def decoded_first(
    codec: ProductCodec,
    question: np.ndarray,
    records: np.ndarray,
    offsets: np.ndarray,
    *,
    rotated: bool,
) -> np.ndarray:
    """Return what `max_similarity` does; `rotated` asks the question in the codebook's basis."""
    if rotated and codec.rotation is not None:
        question = codec.rotation.apply(question)
    vectors = codec.decode(records, offsets, rotated=rotated)
    scores: np.ndarray = np.maximum.reduceat(vectors @ question.T, offsets[:-1], axis=0).sum(axis=1)
    return scores


def on_vectors(
    material: Material,
    *,
    cosine: bool = False,
    special: bool = True,
    centre: np.ndarray | None = None,
) -> Score:
    """Return MaxSim on uncompressed memories, as a share of the question's own."""
    shift = np.float32(0) if centre is None else centre

    def prepared(vectors: np.ndarray) -> np.ndarray:
        vectors = (vectors if special else vectors[1:-1]) - shift
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if cosine else vectors

    def score(question: np.ndarray, rows: np.ndarray) -> np.ndarray:
        asked = prepared(question)
        bounds = zip(material.offsets[rows], material.offsets[rows + 1], strict=True)
        passages = [prepared(material.memories[start:stop]) for start, stop in bounds]
        found = [(passage @ asked.T).max(axis=0).sum() for passage in passages]
        shares: np.ndarray = np.array(found) / np.square(asked).sum()
        return shares

    return score


def on_codes(material: Material, codec: ProductCodec, records: np.ndarray) -> Score:
    """Return what `View.rerank` computes."""

    def score(question: np.ndarray, rows: np.ndarray) -> np.ndarray:
        bounds = zip(material.offsets[rows], material.offsets[rows + 1], strict=True)
        parts = [records[start:stop] for start, stop in bounds]
        offsets = np.cumsum([0, *map(len, parts)])
        found = max_similarity(codec, question, np.concatenate(parts), offsets)
        shares: np.ndarray = found / np.square(question).sum()
        return shares

    return score


def score_all(material: Material, score: Score) -> Scores:
    """Return each question's scores of its candidates."""
    return {
        name: score(material.questions[name][1], rows)
        for name, (rows, _) in material.candidates().items()
    }


def ranked(
    material: Material, scores: Scores, weight: float
) -> tuple[float, dict[str, dict[str, float]]]:
    """Return nDCG@10 and the ranking by `weight` of retrieval and the rest of MaxSim."""
    ranking = {
        name: material.best(rows, weight * retrieval + (1 - weight) * scores[name])
        for name, (rows, retrieval) in material.candidates().items()
    }
    return material.ndcg(ranking), ranking


def kept(ranking: dict[str, dict[str, float]], reference: dict[str, dict[str, float]]) -> float:
    """Return the mean share of the first 10 documents that two rankings have in common."""
    shares = []
    for name in reference:
        firsts = [
            set(sorted(scores, key=scores.__getitem__, reverse=True)[:10])
            for scores in (ranking[name], reference[name])
        ]
        shares.append(len(firsts[0] & firsts[1]) / 10)
    return float(np.mean(shares))


def relative_error(material: Material, codec: ProductCodec, records: np.ndarray) -> float:
    """Return the centred relative squared error of passages beyond those trained on."""
    first, last = material.offsets[[1000, 2000]].tolist()
    memories = material.memories[first:last]
    decoded = codec.decode(records[first:last], material.offsets[1000:2001] - first)
    error = np.square(memories - decoded, dtype=np.float64).sum()
    return float(error / np.square(memories - memories.mean(axis=0), dtype=np.float64).sum())


if __name__ == "__main__":
    main()
