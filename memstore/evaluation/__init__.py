"""Measures of retrieval and of reading, and the files that test collections come in.

`evaluate_retrieval` asks a store or a server every judged query and scores the ranking through
ir-measures; `evaluate_reader` asks a reader every question and scores its answers. Each mean has a
bootstrap interval over queries.

Does not: fetch data, print, or know a concrete store or reader.
"""

from __future__ import annotations

from memstore.evaluation.files import check_run_file, read_qrels, read_queries, write_run
from memstore.evaluation.questions import (
    Prediction,
    Question,
    read_predictions,
    read_questions,
    write_predictions,
)
from memstore.evaluation.reading import (
    Answer,
    Reader,
    ReadingReport,
    ask_reader,
    evaluate_reader,
    exact_match,
    f1,
    normalize_answer,
    r_precision,
    score_answers,
)
from memstore.evaluation.retrieval import (
    Qrels,
    Ranking,
    RetrievalReport,
    Searcher,
    evaluate_retrieval,
    score_ranking,
)
from memstore.evaluation.scores import Score, bootstrap_interval

__all__ = [
    "Answer",
    "Prediction",
    "Qrels",
    "Question",
    "Ranking",
    "Reader",
    "ReadingReport",
    "RetrievalReport",
    "Score",
    "Searcher",
    "ask_reader",
    "bootstrap_interval",
    "check_run_file",
    "evaluate_reader",
    "evaluate_retrieval",
    "exact_match",
    "f1",
    "normalize_answer",
    "r_precision",
    "read_predictions",
    "read_qrels",
    "read_queries",
    "read_questions",
    "score_answers",
    "score_ranking",
    "write_predictions",
    "write_run",
]
