"""`python -m experiments.melodi.searching --data DIR`: does a session find what it is asked for?

Held-out documents become sessions. Each window that a queue holds at the end is asked for by words
out of its middle, and windows are ranked as `memstore session search` ranks them. Models are those
of the language task; one that nobody trained is trained. A row for each seed in
results/searching.jsonl; then the table of docs/results/melodi.md is printed.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from experiments.melodi.arms import MELODI
from experiments.melodi.queues import fit_codec
from experiments.melodi.report import percentage
from experiments.melodi.runs import Workshop, open_workshop
from experiments.results import ResultLog, run_missing, table
from experiments.statistics import mean
from memstore.models.melodi import Melodi
from memstore.sessions import SessionModel, SessionStore, SessionWindow
from memstore.sessions.search import score_windows
from memstore.storage import PosixStore

_RESULTS = Path(__file__).parent / "results" / "searching.jsonl"
_CACHE = Path(tempfile.gettempdir()) / "memstore-melodi"
_SIZE, _RATE = "cpu", 8
_AT_MOST = (1, 5)
_WORD = re.compile(r"\w+")

_SHIPPED, _CODES = "session search", f"session search, queue in codes {_RATE}x"
_CENTRED, _WORDS = "the same, entries less their mean", "shared words, by how rare they are"
_WAYS = (_SHIPPED, _CODES, _CENTRED, _WORDS)


def rank_windows(workshop: Workshop, seed: int) -> dict[str, Any]:
    """Return by way of ranking the rank of each window that was asked for, by document."""
    folder = workshop.learnt("language", MELODI, seed) / "model"
    tokenizer_file = workshop.cache / "tokenizer.json"
    plain = Melodi.from_pretrained(folder)
    codec = fit_codec(workshop.entries(plain, "language", seed), _RATE, seed)
    model = SessionModel(plain, tokenizer_file)
    documents, decode = workshop.documents[1], Tokenizer.from_file(str(tokenizer_file)).decode
    ranks: dict[str, list[list[int]]] = {each: [] for each in _WAYS}
    with tempfile.TemporaryDirectory() as root:
        sessions = SessionStore(PosixStore(f"{root}/plain"), model)
        coded = SessionStore(PosixStore(f"{root}/codes"), model, codec=codec)
        for row in range(len(documents)):
            ids = documents[row]
            if len(ids) <= model.config.window * model.config.queue_windows:
                continue  # its queue is not full
            name, text = str(row), decode(ids.tolist())
            for store in (sessions, coded):
                store.create(name)
                store.append(name, text)
            found = _rank(sessions, coded, name)
            for way, of_document in found.items():
                ranks[way].append(of_document)
    return {"ranks": ranks}


def _rank(sessions: SessionStore, coded: SessionStore, name: str) -> dict[str, list[int]]:
    *windows, _ = sessions.windows(name)
    model = sessions.model
    state = sessions.state(name)
    entries = state.queue[0].numpy().reshape(len(windows), -1, model.config.dim)
    centre = entries.mean(axis=(0, 1))
    found: dict[str, list[int]] = {each: [] for each in _WAYS}
    for place, window in enumerate(windows):
        question = _middle(window)
        for way, store in ((_SHIPPED, sessions), (_CODES, coded)):
            hits = store.search(name, question, top_k=len(windows))
            numbers = [hit.number for hit in hits]
            found[way].append(1 + numbers.index(window.number))
        asked = model.question(question) - centre
        found[_CENTRED].append(_place(score_windows(asked, entries - centre), place))
        found[_WORDS].append(_place(_shared_words(question, windows), place))
    return found


def _middle(window: SessionWindow) -> str:
    """Return the middle quarter of a window's text, in whole words where there are spaces."""
    text = window.text
    start, end = len(text) * 3 // 8, len(text) * 5 // 8
    return text[start:end].partition(" ")[2].rpartition(" ")[0] or text[start:end]


def _shared_words(question: str, windows: Sequence[SessionWindow]) -> np.ndarray:
    """Score windows by the words of a question that they have, each by how few others have it."""
    words = [set(_WORD.findall(window.text.lower())) for window in windows]
    num_with = Counter(word for each in words for word in each)
    asked = set(_WORD.findall(question.lower()))
    return np.array(
        [sum(math.log(len(words) / num_with[word]) for word in asked & each) for each in words]
    )


def _place(scores: np.ndarray, wanted: int) -> int:
    """Return the rank of one window, counted from 1; of equals the earlier one is first."""
    better = (scores > scores[wanted]).sum() + (scores[:wanted] == scores[wanted]).sum()
    return 1 + int(better)


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: shares of windows among the first, over seeds and documents."""
    lines = []
    for way in rows[0]["ranks"] if rows else ():
        ranks = np.array([row["ranks"][way] for row in rows])  # (S, documents, windows)
        counts = np.full(ranks.shape[:2], ranks.shape[2])
        cells = [mean((ranks <= most).sum(axis=2).astype(float), counts) for most in _AT_MOST]
        lines.append([way, *map(percentage, cells), f"{np.median(ranks):.0f}"])
    columns = ["ranked by", *(f"among the first {most}" for most in _AT_MOST), "median rank"]
    return table(columns, lines)


def main() -> int:
    """Run what is missing, and print the table; return 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.melodi.searching")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds text/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--cache", type=Path, default=_CACHE, help="keeps models between runs")
    options = parser.parse_args()
    log = ResultLog(options.results)
    workshop = open_workshop(_SIZE, options.cache, options.data / "text")
    keys = [{"arm": MELODI, "seed": seed} for seed in range(options.seeds)]
    num_failed = run_missing(log, keys, lambda key: rank_windows(workshop, int(key["seed"])))
    print(report(log.rows()))
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
