"""Writes docs/cli.md from the command line itself: `python docs/generate_cli.py`.

A test compares the committed page with a new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import typer

from memstore.cli.main import build_app

PAGE = Path(__file__).with_name("cli.md")

_HEAD = """# The command line

Generated from the commands by `python docs/generate_cli.py`: change their help, not this page.

stdout is data, stderr is progress and messages. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found,
4 conflict, 5 partial (done, but some records refused), 75 retry later, 130 interrupted; the errors
behind them are in [errors.md](errors.md).
"""
_KINDS = {str: "text", int: "integer", float: "number", Path: "path"}


def page() -> str:
    """Return the page: every command with its arguments and options."""
    group: Any = typer.main.get_command(build_app())
    return "\n".join([_HEAD, *_commands(group, "memstore")])


def _commands(group: Any, prefix: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        path = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, path)
        else:
            yield from _command(command, path)


def _command(command: Any, path: str) -> Iterator[str]:
    hints = get_type_hints(command.callback)
    parameters = [each for each in command.params if each.name in hints]
    usage = " ".join([path, *(_usage(each) for each in parameters if _is_shown(each)), "[OPTIONS]"])
    yield f"## {path}\n\n{_paragraphs(command.help)}\n\n```\n{usage}\n```\n"
    yield "| argument or option | value | default | |\n|---|---|---|---|"
    for each in parameters:
        name = each.name.upper() if _is_argument(each) else ", ".join(each.opts)
        cells = f"`{name}`", _kind(hints[each.name]), _default(each), _cell(each.help or "")
        yield f"| {' | '.join(cells)} |"
    yield ""


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _is_shown(parameter: Any) -> bool:
    return bool(_is_argument(parameter) or parameter.required)


def _usage(parameter: Any) -> str:
    name = parameter.name.upper()
    if not _is_argument(parameter):
        return f"{parameter.opts[0]} {name}"
    many = f"{name}..." if parameter.nargs == -1 else name
    return many if parameter.required else f"[{many}]"


def _kind(hint: Any) -> str:
    if get_origin(hint) is list:
        return f"{_kind(get_args(hint)[0])}, repeatable"
    if NoneType in get_args(hint):
        return _kind(next(kind for kind in get_args(hint) if kind is not NoneType))
    if hint is bool:
        return "flag"
    if issubclass(hint, Enum):
        return ", ".join(f"`{choice.value}`" for choice in hint)
    return _KINDS[hint]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False or parameter.default == "":
        return f"`${parameter.envvar}`" if parameter.envvar else "-"
    return f"`{getattr(parameter.default, 'value', parameter.default)}`"


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
