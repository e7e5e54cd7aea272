"""The filter grammar: one small language for every `where`, compiled to a pyarrow expression.

```
or      := and ("or" and)*
and     := not ("and" not)*
not     := "not" not | "(" or ")" | test
test    := column ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") literal
         | column ["not"] "in" "(" literal ("," literal)* ")"
         | column "is" ["not"] "null"
literal := 'text' | number | true | false
```

Keywords in any case; a quote inside a text is doubled. A comparison with null is neither true nor
false, and so is its negation: only `is null` finds such rows.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from memstore.errors import ConfigError
from memstore.text.metadata import FILTER_KEYWORDS

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|==|!=|<|>|=|\(|\)|,))"
)
_COMPARE: dict[str, Callable[[pc.Expression, pc.Expression], pc.Expression]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MAX_LENGTH, _MAX_DEPTH = 10_000, 50


class _Token(NamedTuple):
    kind: str
    value: str
    at: int


def compile_where(text: str, columns: Mapping[str, pa.DataType]) -> pc.Expression:
    """Compile a filter over these columns.

    Raises:
        ConfigError: if the text does not parse, names an unknown column, or compares a column with
            another type.
    """
    if len(text) > _MAX_LENGTH:
        raise ConfigError(f"filter of {len(text)} characters, at most {_MAX_LENGTH} are accepted")
    return _Parser(text, columns).parse()


def columns_named(text: str, columns: Iterable[str]) -> list[str]:
    """Return those of `columns` that a filter which compiles mentions outside its literals."""
    words = {match["word"] for match in _TOKEN.finditer(text)}
    return [name for name in columns if name in words]


class _Parser:
    def __init__(self, text: str, columns: Mapping[str, pa.DataType]) -> None:
        self._text, self._columns = text, columns
        self._tokens = self._scan()
        self._next = 0

    def parse(self) -> pc.Expression:
        expression = self._or(0)
        if self._peek().kind != "end":
            raise self._error("expected 'and', 'or' or the end")
        return expression

    def _scan(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self._text.rstrip()):
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise ConfigError(f"filter {self._text!r}: cannot read it from position {at}")
            kind = str(match.lastgroup)
            value = match[kind]
            if kind == "word" and value.lower() in FILTER_KEYWORDS:
                kind, value = "keyword", value.lower()
            tokens.append(_Token(kind, value, match.start(str(match.lastgroup))))
            at = match.end()
        return [*tokens, _Token("end", "", len(self._text))]

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *values: str) -> bool:
        token = self._peek()
        if token.kind in {"keyword", "sign"} and token.value in values:
            self._next += 1
            return True
        return False

    def _error(self, wanted: str) -> ConfigError:
        token = self._peek()
        got = repr(token.value) if token.value else "the end"
        return ConfigError(f"filter {self._text!r}: {wanted} at position {token.at}, got {got}")

    def _or(self, depth: int) -> pc.Expression:
        left = self._and(depth)
        while self._take("or"):
            left = left | self._and(depth)
        return left

    def _and(self, depth: int) -> pc.Expression:
        left = self._not(depth)
        while self._take("and"):
            left = left & self._not(depth)
        return left

    def _not(self, depth: int) -> pc.Expression:
        if depth > _MAX_DEPTH:
            raise ConfigError(f"filter nests deeper than {_MAX_DEPTH} levels; write it flatter")
        if self._take("not"):
            return ~self._not(depth + 1)
        if self._take("("):
            inner = self._or(depth + 1)
            if not self._take(")"):
                raise self._error("expected ')'")
            return inner
        return self._test()

    def _test(self) -> pc.Expression:
        token = self._peek()
        if token.kind != "word":
            raise self._error("expected a column")
        kind = self._columns.get(token.value)
        if kind is None:
            raise ConfigError(
                f"filter {self._text!r}: no column {token.value!r}; there are: "
                f"{', '.join(sorted(self._columns))}"
            )
        self._next += 1
        column = pc.field(token.value)
        if self._take("is"):
            negated = self._take("not")
            if not self._take("null"):
                raise self._error("expected 'null'")
            return column.is_valid() if negated else column.is_null()
        if self._peek().value in _COMPARE and self._peek().kind == "sign":
            compare = _COMPARE[self._peek().value]
            self._next += 1
            return compare(column, pc.scalar(self._literal(kind)))
        negated = self._take("not")
        if not self._take("in"):
            raise self._error("expected a comparison, 'in' or 'is'")
        inside = column.isin(pa.array(self._literals(kind), kind))
        # Arrow says that null is not inside; like any comparison, this one has no answer for it.
        inside = pc.if_else(column.is_valid(), inside, pa.scalar(None, pa.bool_()))
        return ~inside if negated else inside

    def _literals(self, kind: pa.DataType) -> list[object]:
        if not self._take("("):
            raise self._error("expected '('")
        values = [self._literal(kind, kind)]
        while self._take(","):
            values.append(self._literal(kind, kind))
        if not self._take(")"):
            raise self._error("expected ',' or ')'")
        return values

    def _literal(self, kind: pa.DataType, stored_as: pa.DataType | None = None) -> object:
        token = self._peek()
        try:
            value = _value(token, kind)
            pa.scalar(value, stored_as)  # refuses what Arrow cannot hold
        except (ValueError, OverflowError):
            raise self._error(f"expected a literal of type {kind}") from None
        self._next += 1
        return value


def _value(token: _Token, kind: pa.DataType) -> object:
    if token.kind == "text" and pa.types.is_string(kind):
        return token.value[1:-1].replace("''", "'")
    if token.kind == "number" and pa.types.is_integer(kind):
        return _whole(token.value)
    if token.kind == "number" and pa.types.is_floating(kind):
        return float(token.value)
    if token.kind == "keyword" and token.value in {"true", "false"} and pa.types.is_boolean(kind):
        return token.value == "true"
    raise ValueError("not a literal of this type")


def _whole(number: str) -> int:
    # Arrow would compare integers with 2.5 as float32, and fail on the large ones.
    if number.lstrip("-").isdigit():
        return int(number)
    value = float(number)
    if not value.is_integer():
        raise ValueError("not a whole number")
    return int(value)
