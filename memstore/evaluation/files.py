"""Queries, relevance judgements and rankings, in the layouts of BEIR and TREC.

| what | layout | told by |
|---|---|---|
| queries | BEIR: `{"_id", "text"}` a line | begins with `{` |
| queries | TREC topics: `<top><num>…<title>…` | begins with `<` |
| queries | `id`, tab, text | anything else |
| judgements | BEIR: query, document, relevance with tabs | its header line |
| judgements | TREC: query, iteration, document, relevance | anything else |
| ranking out | TREC: query, `Q0`, document, rank, score, name of the run | |

Files may end in .gz or .zst. What is wrong with one is said with its line.
"""

from __future__ import annotations

import html
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from memstore.errors import ConfigError, DuplicateIdError, NotFoundError, StorageError
from memstore.text.files import open_stream

_BEIR_HEADER = ["query-id", "corpus-id", "score"]
_TREC_COLUMNS = "4 (query, 0, document, relevance)"


def read_queries(path: Path, *, by_position: bool = False) -> dict[str, str]:
    """Read queries: their texts by id, in the order of the file.

    Args:
        path: BEIR's queries.jsonl, lines of id and text, or TREC topics (the title is the query).
        by_position: count the queries from 1 instead of reading their ids, as the judgements of
            Cranfield do.

    Raises:
        ConfigError: if the file is empty or a query is not what it has to be; with the line.
        DuplicateIdError: if two queries have one id.
        NotFoundError, StorageError, InvalidInputError: if the file cannot be read.
    """
    text = read_text(path)
    begins = text.lstrip()
    if begins.startswith("{"):
        found = _beir_queries(path, text)
    elif begins.startswith("<"):
        found = _topics(path, text)
    else:
        found = _tabbed_queries(path, text)
    queries: dict[str, str] = {}
    for position, (number, own_id, query) in enumerate(found, 1):
        name = str(position) if by_position else own_id
        if not name or not query:
            raise malformed(path, number, "a query without id or text")
        if name in queries:
            raise DuplicateIdError(f"{path}, line {number}: the query id {name!r} comes again")
        queries[name] = query
    return queries


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read relevance judgements: query id → document id → relevance; above 0 is relevant.

    Raises:
        ConfigError: if the file is empty or a line is malformed.
        DuplicateIdError: if a document is judged twice for one query, differently.
        NotFoundError, StorageError, InvalidInputError: if the file cannot be read.
    """
    qrels: dict[str, dict[str, int]] = {}
    is_beir = False
    for number, line in numbered_lines(read_text(path)):
        columns = line.split("\t") if is_beir else line.split()
        if not qrels and columns == _BEIR_HEADER:
            is_beir = True
            continue
        if len(columns) != (3 if is_beir else 4):
            wanted = (
                "3 (query-id, corpus-id, score)" if is_beir else "4 (query, 0, document, grade)"
            )
            raise malformed(path, number, f"{len(columns)} columns, wanted {wanted}")
        query, document, grade = columns[0], columns[-2], columns[-1]
        try:
            relevance = int(grade)
        except ValueError:
            reason = f"the relevance is {grade[:20]!r}, wanted a whole number"
            raise malformed(path, number, reason) from None
        if qrels.setdefault(query, {}).setdefault(document, relevance) != relevance:
            raise DuplicateIdError(
                f"{path}, line {number}: {document!r} is judged again for query {query!r},"
                " differently; keep one of the two"
            )
    if not qrels:
        raise ConfigError(f"{path}: no judgement in it")
    return qrels


def check_run_file(path: Path) -> None:
    """Refuse, before any work, a run file that cannot be written.

    Raises:
        NotFoundError: if its folder is not there. ConfigError: if it is a folder itself.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; wanted the name of a file")
    if not path.parent.is_dir():
        raise NotFoundError(f"{path.parent}: no such folder; make it first")


def write_run(path: Path, ranking: Mapping[str, Mapping[str, float]], *, name: str) -> None:
    """Write a ranking as a TREC run file: whole, or not at all.

    Scores are written in full, so that whoever scores the file sees the same order.

    Args:
        path: the file; one that is there is replaced.
        ranking: query id → id of a document or passage → score.
        name: of the run.

    Raises:
        ConfigError: if an id or the name has white space, which parts the columns.
        NotFoundError: if the folder is not there. StorageError: if the disk fails.
    """
    check_run_file(path)
    name = _column(name)
    lines = [
        f"{_column(query)} Q0 {_column(document)} {rank} {float(scores[document])!r} {name}\n"
        for query, scores in ranking.items()
        for rank, document in enumerate(in_order(scores), 1)
    ]
    write_whole(path, lines)


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write lines under a temporary name first: nobody ever reads half a file.

    Raises:
        StorageError: if the disk fails.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as err:
        raise StorageError(f"{path}: cannot be written: {err.strerror}", object=path) from err
    finally:
        temporary.unlink(missing_ok=True)


def in_order(scores: Mapping[str, float]) -> list[str]:
    """Return ids by falling score; equals by falling id, as trec_eval does."""
    return sorted(scores, key=lambda name: (scores[name], name), reverse=True)


def read_text(path: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        ConfigError: if it is empty or not UTF-8.
        NotFoundError, StorageError, InvalidInputError: if it cannot be read.
    """
    with open_stream(path) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not UTF-8 at byte {err.start + 1}") from err
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty")
    return text


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def load_object(path: Path, number: int, line: str) -> dict[str, object]:
    """Parse one line as a JSON object.

    Raises:
        ConfigError: if it is none.
    """
    try:
        value = json.loads(line)
    except json.JSONDecodeError as err:
        raise malformed(path, number, f"broken JSON at column {err.colno}: {err.msg}") from err
    if not isinstance(value, dict):
        raise malformed(path, number, "wanted a JSON object")
    return value


def malformed(path: Path, number: int, reason: str) -> ConfigError:
    """Return the error of a line."""
    return ConfigError(f"{path}, line {number}: {reason}", object=path, line=number)


def elements(text: str, name: str) -> Iterator[tuple[int, str]]:
    """Yield what stands between `<name>` and `</name>`, with the line where each begins.

    TREC's files have no root element and tags that are never closed: they are cut by their tags,
    not parsed as XML.
    """
    line, at = 1, 0
    for match in re.finditer(f"<{name}>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE):
        line += text.count("\n", at, match.start())
        at = match.start()
        yield line, match[1]


def tag_text(element: str, name: str) -> str:
    """Return the text after `<name>`, to its end or to the next tag, in one line; or nothing."""
    pattern = rf"<{name}>(.*?)(?:</{name}>|<\w+>|\Z)"
    match = re.search(pattern, element, re.DOTALL | re.IGNORECASE)
    return " ".join(html.unescape(match[1]).split()) if match else ""


def _beir_queries(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in numbered_lines(text):
        record = load_object(path, number, line)
        name, query = record.get("_id"), record.get("text")
        if not isinstance(name, str | int) or not isinstance(query, str):
            raise malformed(path, number, "wanted the fields '_id' and 'text'")
        yield number, str(name), query.strip()


def _tabbed_queries(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in numbered_lines(text):
        name, tab, query = line.partition("\t")
        if not tab:
            raise malformed(path, number, "no tab; wanted id<TAB>text")
        yield number, name.strip(), query.strip()


def _topics(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    number = 0
    for number, topic in elements(text, "top"):
        name = tag_text(topic, "num").removeprefix("Number:").strip()
        yield number, name, tag_text(topic, "title").removeprefix("Topic:").strip()
    if not number:
        raise ConfigError(f"{path}: begins with a tag, but has no <top>…</top>")


def _column(value: str) -> str:
    if not value or value.split() != [value]:
        raise ConfigError(f"a run file cannot hold the id {value!r}: white space parts its columns")
    return value
