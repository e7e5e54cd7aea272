"""The filter grammar: what it means, and how it refuses what it cannot read."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memstore.errors import ConfigError
from memstore.storage.where import compile_where

ROWS: list[dict[str, Any]] = [
    {"year": 1999, "score": 0.5, "lang": "de", "ok": True, "start": 0},
    {"year": 2005, "score": -1.25, "lang": "en", "ok": False, "start": 5},
    {"year": None, "score": None, "lang": None, "ok": None, "start": 5},
    {"year": -7, "score": 1e-7, "lang": "it's", "ok": True, "start": 2**31 - 1},
    {"year": 2**62, "score": 1e300, "lang": "ünï#c", "ok": False, "start": 17},
    {"year": 0, "score": 0.0, "lang": "", "ok": True, "start": 1},
]
SCHEMA = pa.schema(
    {
        "year": pa.int64(),
        "score": pa.float64(),
        "lang": pa.string(),
        "ok": pa.bool_(),
        "start": pa.int32(),
    }
)
TABLE = pa.Table.from_pylist(ROWS, SCHEMA).append_column("row", pa.array(range(len(ROWS))))
COLUMNS = {field.name: field.type for field in SCHEMA}

Expression = tuple[str, Callable[[dict[str, Any]], bool | None]]


def passing(where: str) -> list[int]:
    """Return the rows that pass the filter."""
    rows: list[int] = TABLE.filter(compile_where(where, COLUMNS)).column("row").to_pylist()
    return rows


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("year = 2005", [1]),
        ("year == 2005", [1]),
        ("year != 2005", [0, 3, 4, 5]),
        ("year < 0", [3]),
        ("year <= 0", [3, 5]),
        ("year > 1999", [1, 4]),
        ("year >= 1999", [0, 1, 4]),
        ("year>-8", [0, 1, 3, 4, 5]),
        ("year > 2.005e3", [4]),
        ("score < 1", [0, 1, 3, 5]),
        ("score = 1e-7", [3]),
        ("score >= 0.5E0", [0, 4]),
        ("start > 3000000000", []),
        ("lang = 'de'", [0]),
        ("lang = 'it''s'", [3]),
        ("lang = ''", [5]),
        ("lang > 'en'", [3, 4]),
        ("lang = 'ünï#c'", [4]),
        ("ok = true", [0, 3, 5]),
        ("ok != TRUE", [1, 4]),
        ("ok = False", [1, 4]),
        ("year in (1999, 0)", [0, 5]),
        ("year IN (2005)", [1]),
        ("year in (1e0, 1999.0)", [0]),
        ("lang not in ('de', 'en')", [3, 4, 5]),
        ("ok in (true, false)", [0, 1, 3, 4, 5]),
        ("year is null", [2]),
        ("lang Is Not Null", [0, 1, 3, 4, 5]),
    ],
)
def test_a_test_passes_the_rows_it_says(where: str, rows: list[int]) -> None:
    """Every comparison, on every type."""
    assert passing(where) == rows


@pytest.mark.parametrize(
    ("where", "means"),
    [
        ("ok = true or year = 2005 and start = 0", "ok = true or (year = 2005 and start = 0)"),
        ("year = 2005 and start = 0 or ok = true", "(year = 2005 and start = 0) or ok = true"),
        ("not ok = true and start = 5", "(not ok = true) and start = 5"),
        ("not not ok = true", "ok = true"),
        ("not ok = true or start = 0", "(not (ok = true)) or start = 0"),
        (" \tok\n=true ", "ok = true"),
    ],
)
def test_not_binds_tighter_than_and_and_and_tighter_than_or(where: str, means: str) -> None:
    """As in SQL."""
    assert passing(where) == passing(means) != []


@pytest.mark.parametrize(
    "test", ["year > 5", "year = 5", "year in (5)", "year not in (5)", "score < 0", "lang = 'x'"]
)
def test_null_passes_neither_a_test_nor_its_negation(test: str) -> None:
    """Row 2 has no values: only `is null` finds it."""
    assert 2 not in passing(test)
    assert 2 not in passing(f"not ({test})")
    assert 2 not in passing(f"{test} and year is null")
    assert 2 in passing(f"{test} or year is null")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "expected a column at position 0, got the end"),
        ("   ", "expected a column at position 3, got the end"),
        ("year", "expected a comparison, 'in' or 'is' at position 4, got the end"),
        ("year 5", "expected a comparison, 'in' or 'is' at position 5, got '5'"),
        ("year >", "expected a literal of type int64 at position 6, got the end"),
        ("year > 5 5", "expected 'and', 'or' or the end at position 9, got '5'"),
        ("year > 5 and", "expected a column at position 12, got the end"),
        ("5 < year", "expected a column at position 0, got '5'"),
        ("(year > 5", r"expected '\)' at position 9, got the end"),
        ("year > 5)", r"expected 'and', 'or' or the end at position 8, got '\)'"),
        ("year is 5", "expected 'null' at position 8, got '5'"),
        ("year in 5", r"expected '\(' at position 8, got '5'"),
        ("year in ()", "expected a literal of type int64 at position 9"),
        ("year in (5 6)", r"expected ',' or '\)' at position 11, got '6'"),
        ("year not 5", "expected a comparison, 'in' or 'is' at position 9, got '5'"),
        ("year ~ 5", "cannot read it from position 4"),
        ("lang = 'open", "cannot read it from position 6"),
        ('lang = "de"', "cannot read it from position 6"),
        ("Year > 5", "no column 'Year'; there are: lang, ok, score, start, year"),
        ("lang = de", "expected a literal of type string at position 7, got 'de'"),
        ("lang = null", "expected a literal of type string at position 7, got 'null'"),
        ("lang = 5", "expected a literal of type string at position 7, got '5'"),
        ("year = '5'", "expected a literal of type int64 at position 7"),
        ("year = true", "expected a literal of type int64 at position 7, got 'true'"),
        ("score = '1'", "expected a literal of type double at position 8"),
        ("year > 1999.5", "expected a literal of type int64 at position 7, got '1999.5'"),
        ("year > 1e999", "expected a literal of type int64 at position 7"),
        ("ok = 1", "expected a literal of type bool at position 5, got '1'"),
        ("ok = 'true'", "expected a literal of type bool at position 5"),
        ("ok", "expected a comparison"),
        ("year in (1, 2.5)", "expected a literal of type int64 at position 12, got '2.5'"),
        ("start in (3000000000)", "expected a literal of type int32 at position 10"),
        ("year = 9223372036854775808", "expected a literal of type int64 at position 7"),
        ("year = " + "1" * 5000, "expected a literal of type int64 at position 7"),
        ("lang = '\ud800'", "expected a literal of type string at position 7"),
        ("year > ٣", "cannot read it from position 6"),
    ],
)
def test_a_filter_that_cannot_be_read_says_where(where: str, message: str) -> None:
    """A typed error with what was expected, the position, and what stands there."""
    with pytest.raises(ConfigError, match=message):
        compile_where(where, COLUMNS)


@pytest.mark.parametrize("where", ["(" * 200, "not " * 200 + "ok = true", "((not " * 100])
def test_a_filter_that_nests_too_deep_is_refused(where: str) -> None:
    """Before Python's own limit."""
    with pytest.raises(ConfigError, match="nests deeper than 50"):
        compile_where(where, COLUMNS)


def test_a_filter_that_is_too_long_is_refused() -> None:
    """Its length is looked at before it is read."""
    with pytest.raises(ConfigError, match="filter of 10001 characters, at most 10000"):
        compile_where(" " * 10_001, COLUMNS)


def test_the_longest_chain_is_evaluated() -> None:
    """A thousand tests side by side are no deep nesting."""
    assert passing(" or ".join(["ok=true"] * 900)) == [0, 3, 5]


def test_a_column_may_be_named_outside_ascii() -> None:
    """Any identifier is a column's name."""
    expression = compile_where("année = 1", {"année": pa.int64()})

    assert pa.table({"année": [1, 2]}).filter(expression).num_rows == 1


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
LITERALS: dict[str, st.SearchStrategy[Any]] = {
    "year": st.sampled_from([-7, 0, 1, 1999, 2000, 2**62, -(2**63), 2**63 - 1]),
    "score": st.sampled_from([0.5, -1.25, 1e-7, 1e300, 0.0, 3.75]) | st.floats(-10, 10),
    "lang": st.sampled_from(["de", "en", "it's", "", "ünï#c"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "ok": st.booleans(),
    "start": st.sampled_from([0, 5, 17, 2**31 - 1, -1]),
}


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@st.composite
def _tests(draw: st.DrawFn) -> Expression:
    """Draw one test: its text, and what it answers for a row."""
    column = draw(st.sampled_from(sorted(LITERALS)))
    form = draw(st.sampled_from(["compare", "in", "not in", "is null", "is not null"]))
    if form == "compare":
        sign, wanted = draw(st.sampled_from(sorted(COMPARE))), draw(LITERALS[column])
        return (
            f"{column} {sign} {_literal(wanted)}",
            lambda row: None if row[column] is None else COMPARE[sign](row[column], wanted),
        )
    if form in {"is null", "is not null"}:
        return f"{column} {form}", lambda row: (row[column] is None) == (form == "is null")
    options = draw(st.lists(LITERALS[column], min_size=1, max_size=4))
    return (
        f"{column} {form} ({', '.join(map(_literal, options))})",
        lambda row: None if row[column] is None else (row[column] in options) == (form == "in"),
    )


def _negate(inner: Expression) -> Expression:
    text, answer = inner

    def negated(row: dict[str, Any]) -> bool | None:
        value = answer(row)
        return None if value is None else not value

    return f"not ({text})", negated


def _join(left: Expression, right: Expression, word: str) -> Expression:
    decides = word == "or"  # true decides an `or`, false an `and`

    def joined(row: dict[str, Any]) -> bool | None:
        values = (left[1](row), right[1](row))
        if decides in values:
            return decides
        return None if None in values else not decides

    return f"({left[0]}) {word} ({right[0]})", joined


def _combine(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    return st.builds(_negate, inner) | st.builds(
        _join, inner, inner, st.sampled_from(["and", "or"])
    )


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.recursive(_tests(), _combine, max_leaves=6))
def test_a_filter_agrees_with_three_valued_logic(expression: Expression) -> None:
    """Against an evaluator written in Python."""
    where, answer = expression

    assert passing(where) == [number for number, row in enumerate(ROWS) if answer(row) is True]


WORDS = [
    *("year", "score", "lang", "ok", "start", "nothing", "and", "or", "not", "in", "is", "null"),
    *("true", "false", "(", ")", ",", "=", "==", "!=", "<", "<=", ">", ">=", "5", "-2.5", "1e999"),
    *("99999999999999999999", "'x'", "''", "'", "#", "\0", "\ud800"),
]
SOUP = st.lists(st.sampled_from(WORDS), max_size=15).map(" ".join)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(st.text(max_size=40) | SOUP)
def test_any_text_is_a_filter_or_a_typed_error(where: str) -> None:
    """Never another exception, neither while it is read nor while it is applied."""
    try:
        expression = compile_where(where, COLUMNS)
    except ConfigError:
        return
    assert TABLE.filter(expression).num_rows <= len(ROWS)
