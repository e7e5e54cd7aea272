"""The tables of docs/results/minilm_reader.md."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.minilm_reader.arms import (
    ADAPTED,
    ALIGNMENT,
    ARMS,
    AS_TRAINED,
    CODEBOOK,
    GUESSED,
    JOINT,
    NUM_FOLDS,
    RANKING,
    RAW,
    RAW_BYTES,
    READING,
)
from experiments.results import table

_RESAMPLES = 10_000
_TITLES = {
    AS_TRAINED: "Reader trained on raw memories",
    ADAPTED: "Reader trained on, on memories as decoded",
    CODEBOOK: "Codebook and reader trained on, memory encoder frozen",
    JOINT: "Memory encoder, codebook and reader trained on together",
}
_RANKING_TITLES = {
    AS_TRAINED: "Cranfield, ranked by the live layers",
    JOINT: "Cranfield, memory encoder and codebook trained on together",
}


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What an arm made of all Q questions under S seeds.

    Attributes:
        row: of one of its runs.
        scores: "em" and "f1", (S, Q) each.
        error: of the memories: squared error over variance.
        found: share of answers that come from the passage of the gold answer.
        articles: (Q,), the number of each question's article.
    """

    row: dict[str, Any]
    scores: dict[str, np.ndarray]
    error: float
    found: float
    articles: np.ndarray


def to_text(scores: np.ndarray) -> str:
    """Write (Q,) scores from 0 to 1, in whole percent, as text short enough for a row."""
    percent = np.round(100 * scores).astype(np.uint8)
    return zlib.compress(percent.tobytes(), 9).hex()


def from_text(text: str) -> np.ndarray:
    """Read what `to_text` wrote."""
    return np.frombuffer(zlib.decompress(bytes.fromhex(text)), np.uint8) / 100


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables of what has been run."""
    readings = [row for row in rows if row["task"] == READING]
    found = {
        mode: _by_arm(row for row in readings if row["mode"] == mode)
        for mode in (GUESSED, *_TITLES)
    }
    if RAW in found[ADAPTED]:  # trained as long on the same memories
        found[CODEBOOK] = {RAW: found[ADAPTED][RAW]} | found[CODEBOOK]
    parts = [f"Without a reader:\n\n{_guess_table(found[GUESSED])}"]
    parts += [
        f"{title}:\n\n{_reading_table(found[mode])}"
        for mode, title in _TITLES.items()
        if RAW in found[mode] and len(found[mode]) > 1
    ]
    for mode, title in _RANKING_TITLES.items():
        ranked = [row for row in rows if row["task"] == RANKING and row["mode"] == mode]
        if ranked:
            parts.append(f"{title}:\n\n{_ranking_table(ranked)}")
    losses = [[row["arm"], f"{row['loss']:.2f}"] for row in rows if row["task"] == ALIGNMENT]
    if losses:
        parts.append(f"Loss on made questions:\n\n{table(['alignment', 'loss'], losses)}")
    return "\n\n".join(parts)


def paired_interval(
    values: np.ndarray, baseline: np.ndarray, articles: np.ndarray
) -> tuple[float, float, float]:
    """Return the mean difference of scores and its 95 % bootstrap interval.

    Whole articles and seeds are drawn anew with replacement: questions about one text are no
    independent witnesses.

    Args:
        values: (S, Q), by seed and question.
        baseline: (S, Q), of the same.
        articles: (Q,), which questions belong together; from 0 on.
    """
    differences = values - baseline
    sizes = np.bincount(articles)  # (A,)
    sums = np.stack([np.bincount(articles, each) for each in differences])  # (S, A)
    num_seeds, num_articles = sums.shape
    rng = np.random.default_rng(0)
    by_article = rng.multinomial(num_articles, np.full(num_articles, 1 / num_articles), _RESAMPLES)
    by_seed = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), _RESAMPLES)
    drawn = ((by_seed @ sums) * by_article).sum(1) / (num_seeds * (by_article @ sizes))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _by_arm(rows: Iterable[dict[str, Any]]) -> dict[str, Outcome]:
    """Return every arm of which all folds have been run, under the seeds where they have."""
    runs: dict[str, dict[int, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        runs[row["arm"]][row["seed"]][row["fold"]] = row
    found = {}
    for arm, seeds in sorted(runs.items(), key=_place):
        whole = [
            [folds[fold] for fold in range(NUM_FOLDS)]
            for _, folds in sorted(seeds.items())
            if len(folds) == NUM_FOLDS
        ]
        if whole:
            found[arm] = _outcome(whole)
    return found


def _place(arm: tuple[str, Any]) -> int:
    """Say where an arm stands in a table: codecs in their order, after what is no codec."""
    return list(ARMS).index(arm[0]) if arm[0] in ARMS else -1


def _outcome(whole: list[list[dict[str, Any]]]) -> Outcome:
    scores = {
        name: np.stack(
            [np.concatenate([from_text(row[f"{name}_by_question"]) for row in folds])
             for folds in whole]
        )
        for name in ("em", "f1")
    }  # fmt: skip
    sizes = [size for row in whole[0] for size in row["questions_by_article"]]
    weights = [sum(row["questions_by_article"]) for folds in whole for row in folds]
    found = np.average([row["found"] for folds in whole for row in folds], weights=weights)
    return Outcome(
        row=whole[0][0],
        scores=scores,
        error=float(np.mean([row.get("error", 0) for folds in whole for row in folds])),
        found=float(found),
        articles=np.repeat(np.arange(len(sizes)), sizes),
    )


def _percents(outcome: Outcome) -> list[str]:
    shares = outcome.scores["em"].mean(), outcome.scores["f1"].mean(), outcome.found
    return [f"{100 * share:.1f}" for share in shares]


def _guess_table(found: dict[str, Outcome]) -> str:
    rows = [[name, *_percents(outcome)] for name, outcome in found.items()]
    return table(["guess", "EM", "F1", "passage"], rows)


def _reading_table(found: dict[str, Outcome]) -> str:
    raw = found[RAW]
    lines = []
    for arm, outcome in found.items():
        cells = [arm, *_sizes(outcome.row), f"{outcome.error:.3f}", *_percents(outcome)]
        cells.append(str(len(outcome.scores["em"])))
        for name in ("em", "f1"):
            ours, theirs = outcome.scores[name], raw.scores[name]
            count = min(len(ours), len(theirs))
            interval = paired_interval(ours[:count], theirs[:count], raw.articles)
            value, low, high = (100 * each for each in interval)
            cells.append("" if arm == RAW else f"{value:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append(cells)
    columns = ["memories", "bytes", "ratio", "codec, MB", "error", "EM", "F1"]
    return table([*columns, "passage", "seeds", "EM against raw", "F1 against raw"], lines)


def _ranking_table(rows: Sequence[dict[str, Any]]) -> str:
    by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_arm[row["arm"]].append(row)
    lines = [
        [
            arm,
            *_sizes(some[0]),
            *(f"{np.mean([row[name] for row in some]):.3f}" for name in ("ndcg@10", "top 10 kept")),
        ]
        for arm, some in sorted(by_arm.items(), key=_place)
    ]
    return table(["memories", "bytes", "ratio", "codec, MB", "nDCG@10", "top 10 kept"], lines)


def _sizes(row: dict[str, Any]) -> list[str]:
    ratio = RAW_BYTES / row["bytes_per_token"]
    return [str(row["bytes_per_token"]), f"{ratio:.1f}", f"{row['codec_bytes'] / 1e6:.1f}"]
