"""Rankings are scored by hand and by ir-measures; a store is asked what it should be."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import ir_measures
import numpy as np
import pytest

from memstore import Store
from memstore.errors import ConfigError, MissingDependencyError
from memstore.evaluation import evaluate_retrieval, score_ranking
from memstore.types import Passage
from tests.integration.serving.material import DIM, WordEncoder

QRELS = {"1": {"a": 1, "b": 0, "c": 2}, "2": {"d": 1}, "3": {"e": 1}}
RANKING = {"1": {"b": 0.9, "a": 0.8, "x": 0.7, "c": 0.6}, "2": {"d": 0.5}}
TEXTS = {"a": ["red fox", "red hen"], "b": ["blue cat"], "c": ["green owl", "blue cat nap"]}


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    """A store of three documents, whose passages are embedded by their words."""
    encoder = WordEncoder()
    passages = [
        Passage(document_id=name, number=i, text=text, metadata={"length": len(text)})
        for name, texts in TEXTS.items()
        for i, text in enumerate(texts)
    ]
    memories = [encoder.question(passage.text)[1] for passage in passages]
    embeddings = encoder.embed([passage.text for passage in passages])
    store = make_store(encoder=encoder)
    store.write(passages, memories, embeddings=embeddings, encoder_id=encoder.identity.id)
    assert memories[0].shape[1] == DIM
    return store


def test_measures_are_those_worked_out_by_hand() -> None:
    """Query 1 has its two relevant documents at places 2 and 4, query 2 at 1, query 3 nowhere."""
    found = {each.measure: each for each in score_ranking(RANKING, QRELS)}

    log = math.log2
    ndcg = (1 / log(3) + 2 / log(5)) / (2 / log(2) + 1 / log(3))
    assert found["nDCG@10"].values.tolist() == pytest.approx([ndcg, 1, 0])
    assert found["R@100"].values.tolist() == pytest.approx([1, 1, 0])
    assert found["RR@10"].values.tolist() == pytest.approx([1 / 2, 1, 0])
    assert found["AP@100"].values.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2, 1, 0])
    assert found["nDCG@10"].mean == pytest.approx((ndcg + 1) / 3)


def test_measures_are_those_of_ir_measures() -> None:
    """On rankings of 300 documents without ties, judged at random."""
    rng = np.random.default_rng(0)
    documents = [f"d{i}" for i in range(300)]
    queries = [f"q{i}" for i in range(20)]
    run = {name: dict(zip(documents, rng.random(300).tolist(), strict=True)) for name in queries}
    qrels = {
        name: {each: int(rng.integers(0, 4)) for each in rng.choice(documents, 30, replace=False)}
        for name in queries
    }
    cut = {
        name: dict(sorted(scores.items(), key=lambda item: -item[1])[:150])
        for name, scores in run.items()
    }

    found = score_ranking(run, qrels, depth=150)

    assert [each.measure for each in found] == ["nDCG@10", "R@100", "RR@10", "AP@150"]
    for each in found:
        measure = ir_measures.parse_measure(each.measure)
        wanted = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, cut)}
        assert each.values.tolist() == pytest.approx([wanted[name] for name in qrels])


def test_a_judged_query_without_a_hit_counts_as_nothing_found() -> None:
    """Missing or empty, it is in the mean."""
    missing = score_ranking({"2": {"d": 1.0}}, QRELS)
    empty = score_ranking({"1": {}, "2": {"d": 1.0}, "3": {}}, QRELS)
    nothing = score_ranking({}, QRELS)

    assert [each.mean for each in missing] == pytest.approx([1 / 3] * 4)
    assert [each.mean for each in empty] == pytest.approx([1 / 3] * 4)
    assert [each.mean for each in nothing] == [0] * 4


def test_a_measure_is_named_by_how_far_it_looked() -> None:
    """With three results seen, nothing is recalled at 100."""
    found = {each.measure: each.values.tolist() for each in score_ranking(RANKING, QRELS, depth=3)}

    assert list(found) == ["nDCG@3", "R@3", "RR@3", "AP@3"]
    assert found["R@3"] == pytest.approx([1 / 2, 1, 0])


def test_a_grade_below_zero_is_not_relevant() -> None:
    """Cranfield once said -1 for "of no interest"."""
    graded, flat = ({"1": {"a": grade, "b": 1}} for grade in (-1, 0))

    for one, other in zip(
        score_ranking({"1": {"a": 2.0, "b": 1.0}}, graded),
        score_ranking({"1": {"a": 2.0, "b": 1.0}}, flat),
        strict=True,
    ):
        assert one.mean == other.mean


@pytest.mark.parametrize(
    ("ranking", "qrels", "depth", "what"),
    [
        (RANKING, QRELS, 0, "depth is 0"),
        ({}, {}, 10, "no query is judged"),
        ({"9": {"a": 1.0}}, QRELS, 10, "1 unjudged queries: '9'"),
    ],
)
def test_a_ranking_that_cannot_be_scored_is_refused(
    ranking: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]], depth: int, what: str
) -> None:
    """No result to see, no judgement, queries that nobody judged."""
    with pytest.raises(ConfigError, match=what):
        score_ranking(ranking, qrels, depth=depth)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work."""
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(MissingDependencyError, match=r"memstore\[eval\]"):
        score_ranking(RANKING, QRELS)


def test_a_document_has_the_score_of_its_best_passage(store: Store) -> None:
    """Its other passages make no second result."""
    report = evaluate_retrieval(store, {"q": "red hen"}, {"q": {"a": 1}})

    best = store.search("red hen", top_k=1).hits[0]
    assert next(iter(report.ranking["q"])) == "a"
    assert sorted(report.ranking["q"]) == ["a", "b", "c"]
    assert report.ranking["q"]["a"] == best.score == pytest.approx(1, abs=1e-3)
    assert [each.mean for each in report.scores] == [1] * 4


def test_documents_are_found_behind_the_passages_of_others(store: Store) -> None:
    """Two documents take more than two passages: the store is asked for enough of them."""
    assert [hit.document_id for hit in store.search("red fox hen", top_k=2).hits] == ["a", "a"]

    report = evaluate_retrieval(store, {"q": "red fox hen"}, {"q": {"a": 1}}, top_k=2)

    assert len(report.ranking["q"]) == 2


def test_passages_are_ranked_if_they_are_judged(store: Store) -> None:
    """By their own ids."""
    report = evaluate_retrieval(
        store, {"q": "red hen"}, {"q": {"a#1": 1}}, level="passage", top_k=2
    )

    assert list(report.ranking["q"])[:1] == ["a#1"]
    assert len(report.ranking["q"]) == 2
    assert {each.measure: each.mean for each in report.scores}["RR@2"] == 1


def test_reranking_orders_as_the_store_does(store: Store) -> None:
    """With 10 times as many candidates, here all of them."""
    report = evaluate_retrieval(
        store, {"q": "blue hen"}, {"q": {"a#1": 1}}, level="passage", top_k=5, rerank=True
    )

    hits = store.search("blue hen", top_k=5, rerank=50).hits
    assert report.ranking["q"] == {hit.passage_id: hit.score for hit in hits}
    plain = store.search("blue hen", top_k=5).hits
    assert report.ranking["q"] != {hit.passage_id: hit.score for hit in plain}


def test_unjudged_queries_are_left_out_and_counted(store: Store) -> None:
    """Nobody can say what they should have found."""
    asked: list[None] = []

    report = evaluate_retrieval(
        store,
        {"p": "owl", "q": "red hen", "r": "cat"},
        {"q": {"a": 1}},
        progress=lambda: asked.append(None),
    )

    assert (list(report.ranking), report.num_unjudged, len(asked)) == (["q"], 2, 1)


def test_a_filter_that_leaves_nothing_scores_nothing(store: Store) -> None:
    """The judged query still counts."""
    report = evaluate_retrieval(store, {"q": "red hen"}, {"q": {"a": 1}}, where="length > 99")

    assert (report.num_without_hits, report.ranking) == (1, {"q": {}})
    assert [each.mean for each in report.scores] == [0] * 4


def test_all_queries_read_one_version(store: Store) -> None:
    """Though another is committed while they run."""
    report = evaluate_retrieval(
        store,
        {"q": "red hen", "r": "red hen"},
        {"q": {"a": 1}, "r": {"a": 1}},
        progress=lambda: store.delete(document_ids=["a"]),
    )

    assert report.version == 1
    assert report.ranking["r"] == report.ranking["q"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"top_k": 0}, "top_k is 0; wanted 1 to 1000"),
        ({"top_k": 1001}, "top_k is 1001"),
        ({"level": "corpus"}, "level is 'corpus'; wanted document or passage"),
    ],
)
def test_bad_options_are_refused(store: Store, options: dict[str, object], what: str) -> None:
    """Before the first query."""
    with pytest.raises(ConfigError, match=what):
        evaluate_retrieval(store, {"q": "red"}, {"q": {"a": 1}}, **options)  # type: ignore[arg-type]


def test_judgements_of_other_queries_are_refused(store: Store) -> None:
    """None in common, or some that are unknown."""
    with pytest.raises(ConfigError, match=r"no query is judged.*'q'.*'z'.*by position"):
        evaluate_retrieval(store, {"q": "red"}, {"z": {"a": 1}})
    with pytest.raises(ConfigError, match="1 of 2 judged queries are not among the queries: 'z'"):
        evaluate_retrieval(store, {"q": "red"}, {"q": {"a": 1}, "z": {"a": 1}})


def test_judgements_of_another_corpus_are_refused(store: Store) -> None:
    """Every measure would be 0, and the store not to blame."""
    with pytest.raises(ConfigError, match="no judged document is in the collection 'default'"):
        evaluate_retrieval(store, {"q": "red"}, {"q": {"a#1": 1}})
    with pytest.raises(ConfigError, match="right collection and level"):
        evaluate_retrieval(store, {"q": "red"}, {"q": {"a": 1}}, level="passage")


def test_what_is_there_but_not_found_is_no_error(store: Store) -> None:
    """It scores 0."""
    report = evaluate_retrieval(store, {"q": "red hen"}, {"q": {"x": 0, "b": 1}}, top_k=1)

    assert [each.mean for each in report.scores] == [0] * 4
