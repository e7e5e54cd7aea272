"""Configs of models: frozen dataclasses of JSON values, written to config.json and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_type_hints

from memstore.errors import ConfigError, CorruptionError

C = TypeVar("C")


def refused(name: str, got: object, wanted: str) -> ConfigError:
    """Return the error for a field that is out of range."""
    return ConfigError(f"{name}: got {got}, wanted {wanted}", option=name)


def to_values(config: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON values."""
    return {
        name: value.value if isinstance(value, StrEnum) else value
        for name, value in asdict(config).items()
    }


def from_values(kind: type[C], values: Mapping[str, Any], *, model: str, where: str) -> C:
    """Read back what `to_values` gave.

    Args:
        kind: the dataclass; its fields are int, float, bool, a StrEnum, or one of them or None.
        values: JSON values by the names of its fields.
        model: whose config it is, for an error.
        where: what they were read from, for an error.

    Raises:
        CorruptionError: if a field is missing, unknown, of the wrong type or out of range.
    """
    try:
        read = {
            name: _read(hint, name, values[name]) for name, hint in get_type_hints(kind).items()
        }
        return kind(**{**values, **read})
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptionError(
            f"{where}: config.json is not that of a {model} model: {err}; restore the checkpoint",
            object=where,
        ) from err


def _read(hint: Any, name: str, value: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(value)
    wanted = get_args(hint) or (hint,)  # of a union, its members
    accepted = (*wanted, int) if float in wanted else wanted
    if type(value) not in accepted:  # a bool is no count, though Python says so
        raise TypeError(f"{name} is {value!r}")
    return value
