"""`memstore eval` on a small encoded store, embedded and served, and on the shared test sets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ir_measures
import pytest

from memstore import open_store
from memstore.evaluation import read_qrels
from tests.integration.conftest import Done
from tests.integration.serving.conftest import Running
from tests.tiny import write_jsonl

TEXTS = {
    "d1": "storm over the cold sea",
    "d2": "lamp and rope in harbour",
    "d3": "whale and ice in north water",
    "d4": "bell and fog on night deck",
    "d5": "salt shore tide",
}
QUERIES = {"q1": TEXTS["d1"], "q2": TEXTS["d3"], "q3": "star anchor mast"}
QRELS = "q1 0 d1 1\nq1 0 d4 1\nq2 0 d3 2\nq2 0 d1 0\nq3 0 d5 1\n"
Command = Callable[..., Done]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Queries in BEIR's layout, with one that nobody judged, and judgements in TREC's."""
    records = [{"_id": name, "text": text} for name, text in {**QUERIES, "q4": "ship"}.items()]
    (tmp_path / "qrels.txt").write_text(QRELS)
    return write_jsonl(tmp_path / "queries.jsonl", records), tmp_path / "qrels.txt"


@pytest.fixture
def encoded(encode: Command, store: Path, tmp_path: Path) -> Path:
    """A store of the five texts."""
    records = [{"id": name, "text": text} for name, text in TEXTS.items()]
    assert encode(write_jsonl(tmp_path / "five.jsonl", records)).code == 0
    return store


@pytest.fixture
def address(encoded: Path) -> Iterator[str]:
    """Where that store is served."""
    running = Running(open_store(encoded), {})
    yield running.grpc
    running.stop()


@pytest.fixture(scope="session")
def data() -> Path:
    """The shared evaluation data."""
    beside = Path(__file__).parents[3] / "shared/data"
    folder = Path(os.environ.get("DATA") or beside)
    if not (folder / "cranfield").is_dir():
        pytest.skip(f"no Cranfield in {folder}; name the data's folder in DATA")
    return folder


def test_a_store_is_scored_as_its_run_file_is(
    cli: Command, encoded: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """What ir-measures says of the file is what the command says."""
    run = tmp_path / "out.trec"

    done = cli(
        *("eval", "retrieval", *files, "--store", encoded),
        *("--run-file", run, "--output", "json"),
    )

    assert done.code == 0
    report = done.json()
    assert list(report["measures"]) == ["nDCG@10", "R@100", "RR@10", "AP@100"]
    ranking = list(ir_measures.read_trec_run(str(run)))  # type: ignore[no-untyped-call]
    judged = list(ir_measures.read_trec_qrels(str(files[1])))  # type: ignore[no-untyped-call]
    measures = [ir_measures.parse_measure(name) for name in report["measures"]]
    wanted = ir_measures.calc_aggregate(measures, judged, ranking)
    for measure, value in wanted.items():
        found = report["measures"][str(measure)]
        assert found["mean"] == pytest.approx(value)
        assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1
    first = {line.split()[0]: line.split()[2] for line in run.read_text().splitlines()[::5]}
    assert first["q1"] == "d1"
    assert first["q2"] == "d3"
    del report["measures"]
    assert report == {
        "collection": "default",
        "version": 1,
        "num_queries": 3,
        "num_without_hits": 0,
        "num_unjudged": 1,
        "level": "document",
        "top_k": 100,
        "rerank": False,
        "where": None,
    }


@pytest.mark.parametrize("options", [[], ["--rerank"], ["--top-k", 2, "--level", "document"]])
def test_a_server_is_scored_as_its_store_is(
    cli: Command, encoded: Path, address: str, files: tuple[Path, Path], options: list[Any]
) -> None:
    """Measure by measure."""
    command = "eval", "retrieval", *files, "--output", "json", *options

    served = cli(*command, "--server", address)
    embedded = cli(*command, "--store", encoded)

    assert served.code == embedded.code == 0
    assert served.json() == embedded.json()


def test_a_table_names_measures_and_intervals(
    cli: Command, encoded: Path, files: tuple[Path, Path]
) -> None:
    """Figures go to stdout, what they are of to stderr."""
    done = cli("eval", "retrieval", *files, "--store", encoded, "--top-k", 3)

    lines = done.out.splitlines()
    assert lines[0].split() == ["measure", "mean", "low", "high"]
    assert [line.split()[0] for line in lines[1:]] == ["nDCG@3", "R@3", "RR@3", "AP@3"]
    assert "3 queries on default, version 1; 0 found nothing; 1 are not judged" in done.err


def test_passages_are_judged_by_their_ids(
    cli: Command, encoded: Path, files: tuple[Path, Path]
) -> None:
    """In BEIR's columns, too."""
    files[1].write_text("query-id\tcorpus-id\tscore\nq1\td1#0\t1\n")

    done = cli(
        "eval", "retrieval", *files, "--store", encoded, "--level", "passage", "--output", "json"
    )

    assert done.json()["measures"]["RR@10"]["mean"] == 1


def test_a_filter_that_leaves_nothing_scores_zero(
    cli: Command, encoded: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Judged queries without a hit are not dropped; their run file is empty."""
    run = tmp_path / "out.trec"

    done = cli(
        *("eval", "retrieval", *files, "--store", encoded, "--where", "document_id = 'none'"),
        *("--run-file", run, "--output", "json"),
    )

    assert done.json()["num_without_hits"] == 3
    assert {found["mean"] for found in done.json()["measures"].values()} == {0}
    assert run.read_text() == ""


@pytest.mark.parametrize(
    ("change", "options", "code", "what"),
    [
        ({}, ["--top-k", 0], 2, "top_k is 0; wanted 1 to 1000"),
        ({}, ["--collection", "no"], 3, "no"),
        ({}, ["--level", "passage"], 2, "no judged passage is in the collection"),
        ({}, ["--run-file", "no/such/folder/x"], 3, "no such folder"),
        ({"qrels.txt": ""}, [], 2, "qrels.txt: the file is empty"),
        ({"qrels.txt": "q1 0 d1 1\nq1 d1\n"}, [], 2, "qrels.txt, line 2: 2 columns"),
        ({"qrels.txt": "q1 0 d1 1\nq9 0 d1 1\n"}, [], 2, "1 of 2 judged queries are not among"),
        ({"qrels.txt": "9 0 d1 1\n"}, [], 2, "no query is judged"),
        ({"qrels.txt": "q1 0 x 1\n"}, [], 2, "no judged document is in the collection"),
        ({"queries.jsonl": "{}\n"}, [], 2, "queries.jsonl, line 1: wanted the fields"),
    ],
)
def test_bad_input_is_refused_with_its_reason(
    cli: Command,
    encoded: Path,
    files: tuple[Path, Path],
    change: dict[str, str],
    options: list[Any],
    code: int,
    what: str,
) -> None:
    """And with the exit code of its kind."""
    for name, text in change.items():
        (files[0].parent / name).write_text(text)

    done = cli("eval", "retrieval", *files, "--store", encoded, *options)

    assert (done.code, done.out) == (code, "")
    assert what in done.err


def test_a_source_must_be_named_once(cli: Command, files: tuple[Path, Path]) -> None:
    """A store or a server."""
    done = cli("eval", "retrieval", *files)

    assert done.code == 2
    assert "give one of --store DIR and --server HOST:PORT" in done.err


def test_answers_are_scored(cli: Command, tmp_path: Path) -> None:
    """As JSON and as a table."""
    record = {"answer": "Fox", "provenance": [{"wikipedia_id": "7"}]}
    gold = write_jsonl(
        tmp_path / "gold.jsonl",
        [
            {"id": "1", "input": "who?", "output": [record]},
            {"id": "2", "input": "why?", "output": [record]},
        ],
    )
    said = write_jsonl(
        tmp_path / "said.jsonl", [{"id": "1", "output": [{**record, "answer": "a fox"}]}]
    )

    done = cli("eval", "reading", gold, said, "--output", "json")

    report = done.json()
    assert (report["num_questions"], report["num_missing"]) == (2, 1)
    assert {name: found["mean"] for name, found in report["measures"].items()} == {
        "EM": 0.5,
        "F1": 0.5,
        "R-precision": 0.5,
    }
    table = cli("eval", "reading", gold, said)
    assert [line.split()[0] for line in table.out.splitlines()] == [
        "measure",
        "EM",
        "F1",
        "R-precision",
    ]
    assert "2 questions; 1 without a prediction" in table.err


def test_bad_answers_are_refused(cli: Command, tmp_path: Path) -> None:
    """With the line."""
    gold = write_jsonl(
        tmp_path / "gold.jsonl", [{"id": "1", "question": "w", "answers": ["x"]}, {}]
    )
    said = write_jsonl(tmp_path / "said.jsonl", [{"id": "1", "answer": "x"}])

    done = cli("eval", "reading", gold, said)

    assert done.code == 2
    assert "gold.jsonl, line 2: no 'id'" in done.err


@pytest.mark.data
def test_xquad_answered_by_its_own_gold_is_perfect(
    cli: Command, data: Path, tmp_path: Path
) -> None:
    """In every language that is there; the question of one language answered in another is not."""
    for path in sorted((data / "xquad").glob("xquad.*.json")):
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        said = {
            each["id"]: each["answers"][0]["text"]
            for article in articles
            for paragraph in article["paragraphs"]
            for each in paragraph["qas"]
        }
        (tmp_path / "said.json").write_text(json.dumps(said), encoding="utf-8")

        report = cli("eval", "reading", path, tmp_path / "said.json", "--output", "json").json()

        assert report["num_questions"] == 1190
        assert [found["mean"] for found in report["measures"].values()] == [1, 1]
    english = data / "xquad/xquad.en.json"
    done = cli("eval", "reading", english, tmp_path / "said.json", "--output", "json")
    assert done.json()["measures"]["EM"]["mean"] < 0.5


@pytest.mark.data
def test_cranfield_is_scored_from_its_own_files(
    cli: Command, encode: Command, store: Path, data: Path, tmp_path: Path
) -> None:
    """The judgements count the queries by position: read by their numbers they are refused."""
    topics, qrels = data / "cranfield/cran.qry.xml", data / "cranfield/cranqrel.trec.txt"
    judged = read_qrels(qrels)
    assert (len(judged), sum(map(len, judged.values()))) == (225, 1837)
    lines = qrels.read_text().splitlines()
    (tmp_path / "qrels").write_text("\n".join(each for each in lines if int(each.split()[0]) < 20))
    documents = [{"id": str(number), "text": f"wind {number}"} for number in range(1, 201)]
    assert encode(write_jsonl(tmp_path / "documents.jsonl", documents)).code == 0
    command = "--store", store, "--output", "json"

    done = cli("eval", "retrieval", topics, tmp_path / "qrels", *command, "--by-position")
    refused = cli("eval", "retrieval", topics, qrels, *command)

    assert (done.json()["num_queries"], done.json()["num_unjudged"]) == (19, 206)
    assert refused.code == 2
    assert "judged queries are not among the queries: '3', '5'" in refused.err
