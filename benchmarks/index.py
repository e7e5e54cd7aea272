"""Exact search against an inverted file, by number of passages: chooses `IVF_ROWS` and `nprobe`.

Vectors: Docstring passages embedded by the default encoder, then copied and jittered up to N: a
copy is its original plus Gaussian noise of 0.6 times its length, scaled to unit length (cosine 0.86
to the original). Questions are embeddings of other passages, which are not among the originals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import faiss
import numpy as np

from benchmarks.harness import Cell, Context, Figure, Outcome, Table, check, measure, percentile
from encoder_jobs.stages import use_all_cores
from examples.docstrings import docstrings
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.index import vectors
from memstore.types import Document, TokenizedPassage

_SHARES = (64, 32, 16)
_TOP_K = 10
_NOISE = 0.6
_ALL_THREADS = len(os.sched_getaffinity(0))
Find = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Vectors (N, E) float16, offered as a snapshot offers them."""

    rows: np.ndarray

    def embeddings(self, start: int = 0) -> np.ndarray:
        """Return the rows from `start` on."""
        return self.rows[start:]


def run(context: Context) -> Outcome:
    """Build both indexes at each size and ask them the same questions in turns."""
    use_all_cores()
    sizes = (2_000, 4_000) if context.quick else (50_000, 100_000, 200_000, 400_000)
    num_passages, num_questions = (150, 50) if context.quick else (4_000, 1_000)
    rounds = 2 if context.quick else 5
    embeddings = _embeddings(num_passages + num_questions)
    rng = np.random.default_rng(context.seed)
    embeddings = embeddings[rng.permutation(len(embeddings))]
    questions, originals = embeddings[:num_questions], embeddings[num_questions:]
    tables: list[Table] = []
    gates: list[str] = []
    for size in sizes:
        rows = _jittered(originals, size, rng)
        exact = vectors.VectorIndex(_Rows(rows))  # type: ignore[arg-type]
        gate = f"{size:,} rows: exact search finds what a matrix product finds"
        gates += check({gate: partial(_is_exact, exact, rows, questions[:20])})
        began = time.perf_counter()
        inverted = vectors.build_inverted(rows)
        built = time.perf_counter() - began
        tables.append(_compare(exact, inverted, built, questions, rounds))
    return Outcome(
        gates=gates,
        settings={
            "dim": embeddings.shape[1],
            "originals": len(originals),
            "noise": _NOISE,
            "questions": num_questions,
            "rounds": rounds,
        },
        tables=tables,
        notes=[
            (__doc__ or "").split("Vectors: ")[1].replace("\n", " ").strip(),
            "Both hold float16 vectors. The inverted file is that of memstore.index: 4·√N lists, "
            "trained on 40 vectors a list; the share is of the lists that a question looks into.",
            "Recall@10 is against exact search.",
        ],
    )


def _embeddings(count: int) -> np.ndarray:
    """Return the retrieval vectors of the first passages of the docstrings: (count, E) float32."""
    splitter = load_splitter(EncoderOptions())
    documents = (Document(each["id"], each["text"], each["title"]) for each in docstrings())
    passages = (passage for document in documents for passage in splitter.split(document))
    chosen: list[TokenizedPassage] = list(islice(passages, count))
    encoder = load_encoder(EncoderOptions())
    found = np.empty((len(chosen), encoder.identity.embedding_dim), np.float32)
    for batch in encoder.encode(chosen):
        found[batch.rows] = batch.embeddings
    return found


def _jittered(originals: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    rows = np.empty((size, originals.shape[1]), np.float16)
    for start in range(0, size, 65_536):
        block = originals[np.arange(start, min(start + 65_536, size)) % len(originals)]
        noise = rng.standard_normal(block.shape, np.float32) / np.float32(block.shape[1] ** 0.5)
        block = block + np.float32(_NOISE) * noise
        rows[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def _is_exact(index: vectors.VectorIndex, rows: np.ndarray, questions: np.ndarray) -> bool:
    """Compare scores, not rows: rows of equal score may change places with the order of sums."""
    products = questions @ rows.astype(np.float32).T
    wanted = -np.sort(-products, axis=1)[:, :_TOP_K]
    found = [index.search(question, _TOP_K)[1] for question in questions]
    return bool(np.allclose(found, wanted, atol=1e-5))


def _compare(
    exact: vectors.VectorIndex,
    inverted: Any,
    build_s: float,
    questions: np.ndarray,
    rounds: int,
) -> Table:
    size, num_lists = inverted.ntotal, inverted.nlist
    ways: dict[str, Find] = {"exact": lambda question: exact.search(question, _TOP_K)[0]}
    for share in _SHARES:
        params = faiss.SearchParametersIVF(nprobe=max(1, num_lists // share))
        ways[f"inverted file, 1/{share} of {num_lists:,} lists"] = partial(
            _search_inverted, inverted, params
        )
    truth = [set(ways["exact"](question)) for question in questions]
    exact_bytes = size * questions.shape[1] * 2
    sizes = {name: len(faiss.serialize_index(inverted)) for name in ways} | {"exact": exact_bytes}
    latencies = [_latencies(ways, questions, rounds, threads) for threads in (1, _ALL_THREADS)]
    rows: list[tuple[Cell, ...]] = []
    for name, find in ways.items():
        shared = [len(best & set(find(q))) for q, best in zip(questions, truth, strict=True)]
        build = Figure(build_s, build_s, build_s, "s", 1)
        rows.append(
            (
                name,
                *(each[name] for each in latencies),
                sum(shared) / (_TOP_K * len(questions)),
                "" if name == "exact" else build,
                f"{sizes[name] / 2**20:,.0f} MiB",
            )
        )
    columns = (
        "search", "p50, 1 thread", f"p50, {_ALL_THREADS} threads", "recall@10", "build", "size",
    )  # fmt: skip
    return Table(title=f"{size:,} passages", columns=columns, rows=rows)


def _search_inverted(inverted: Any, params: Any, question: np.ndarray) -> np.ndarray:
    found: np.ndarray = inverted.search(question[None], _TOP_K, params=params)[1][0]
    return found


def _latencies(
    ways: dict[str, Find], questions: np.ndarray, rounds: int, num_threads: int
) -> dict[str, Figure]:
    """Time each way with a number of faiss threads, in turns, every question once."""
    faiss.omp_set_num_threads(num_threads)
    seconds = measure(
        {name: partial(_ask, find, questions) for name, find in ways.items()},
        rounds=rounds,
        calls=len(questions) // rounds,
    )
    faiss.omp_set_num_threads(_ALL_THREADS)
    return {name: percentile(taken, 50) for name, taken in seconds.items()}


def _ask(find: Find, questions: np.ndarray, turn: int) -> None:
    find(questions[turn % len(questions)])
