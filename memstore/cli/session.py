"""`memstore session …`: texts that grow, and what a model remembers of them."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memstore.cli.query import ServerOption, TokenFileOption, open_client
from memstore.cli.render import Output, print_fields, print_json, print_table
from memstore.errors import ConfigError, InvalidInputError

if TYPE_CHECKING:
    from memstore.client.sessions import SessionClient
    from memstore.sessions import SessionInfo, SessionStore, SessionWindow

GROUP = "session"
_LISTED = ("session_id", "version", "updated_at", "expires_at", "num_tokens", "num_windows",
           "num_bytes")  # fmt: skip
_WINDOW = ("number", "text")
_SHOWN_CHARS = 72

SessionsOption = Annotated[str | None, typer.Option("--sessions", help="Folder of the sessions.")]
ModelOption = Annotated[
    Path | None, typer.Option("--model", help="Folder of the model, with its tokenizer.")
]
CodecOption = Annotated[
    Path | None,
    typer.Option("--codec", help="Folder of the codec in which queues are kept."),
]
NameArgument = Annotated[str, typer.Argument(help="Name of the session.")]
NewNameArgument = Annotated[
    str | None, typer.Argument(help="Name of the new session; without it one is drawn.")
]
ExpectedOption = Annotated[
    int | None,
    typer.Option("--expected-version", help="Refuse if the session is at another version."),
]
OutputOption = Annotated[Output, typer.Option("--output", help="How to print.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Begin, feed, continue, search, copy and end sessions.", no_args_is_help=True
    )
    for command in (new, append, generate, show, search, fork, ls, rm, expire):
        group.command()(command)
    app.add_typer(group, name=GROUP)


def new(
    name: NewNameArgument = None,
    ttl: Annotated[
        float | None,
        typer.Option("--ttl", help="Seconds after its last change at which it expires."),
    ] = None,
    sessions: SessionsOption = None,
    model: ModelOption = None,
    codec: CodecOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Begin a session."""
    source = _open(sessions, model, codec, server, token_file)
    _print_info(source.create(name, ttl_s=ttl), output)


def append(
    name: NameArgument,
    text: Annotated[str | None, typer.Option("--text", help="The text.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="File with the text, in UTF-8.")
    ] = None,
    expected_version: ExpectedOption = None,
    sessions: SessionsOption = None,
    model: ModelOption = None,
    codec: CodecOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Add a text to a session: from --text, from --file, or else from stdin."""
    content = _text(text, file)
    source = _open(sessions, model, codec, server, token_file)
    _print_info(source.append(name, content, expected_version=expected_version), output)


def generate(
    name: NameArgument,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", help="Tokens to write, 1 to 4096.")
    ] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0: the likeliest token each time.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    expected_version: ExpectedOption = None,
    sessions: SessionsOption = None,
    model: ModelOption = None,
    codec: CodecOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let the model go on, and print what it writes, which becomes part of the session."""
    source = _open(sessions, model, codec, server, token_file)
    made = source.generate(
        name,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        expected_version=expected_version,
    )
    if output is Output.JSON:
        print_json(asdict(made))
    else:
        typer.echo(made.text)


def show(
    name: NameArgument,
    sessions: SessionsOption = None,
    model: ModelOption = None,
    codec: CodecOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a session, and the text that its queue remembers and that came since."""
    source = _open(sessions, model, codec, server, token_file)
    info, windows = source.info(name), source.windows(name)
    if output is Output.JSON:
        print_json({**asdict(info), "windows": [asdict(window) for window in windows]})
        return
    print_fields(asdict(info))
    if windows:
        typer.echo()
        print_table([_row(window) for window in windows], _WINDOW)


def search(
    name: NameArgument,
    query: Annotated[str, typer.Argument(help="The question, at most a window of the model.")],
    top_k: Annotated[int, typer.Option("--top-k", help="How many windows, 1 to 1000.")] = 8,
    sessions: SessionsOption = None,
    model: ModelOption = None,
    codec: CodecOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find the windows of a session that are nearest to a question."""
    hits = _open(sessions, model, codec, server, token_file).search(name, query, top_k=top_k)
    if output is Output.JSON:
        print_json([asdict(hit) for hit in hits])
    else:
        rows = [{"score": hit.score, **_row(hit)} for hit in hits]
        print_table(rows, ("score", *_WINDOW))


def fork(
    name: NameArgument,
    new_name: NewNameArgument = None,
    sessions: SessionsOption = None,
    model: ModelOption = None,
    codec: CodecOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Begin another session as a copy of one, which stays as it is."""
    source = _open(sessions, model, codec, server, token_file)
    _print_info(source.fork(name, new_name), output)


def ls(
    sessions: SessionsOption = None,
    model: ModelOption = None,
    codec: CodecOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the sessions."""
    rows = [asdict(info) for info in _open(sessions, model, codec, server, token_file).list()]
    if output is Output.JSON:
        print_json(rows)
    else:
        print_table(rows, _LISTED)


def rm(
    names: Annotated[list[str], typer.Argument(help="Names of the sessions.")],
    sessions: SessionsOption = None,
    model: ModelOption = None,
    codec: CodecOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """End sessions."""
    source = _open(sessions, model, codec, server, token_file)
    for name in names:
        source.remove(name)
        typer.echo(f"removed {name}")


def expire(
    sessions: SessionsOption = None, model: ModelOption = None, codec: CodecOption = None
) -> None:
    """Remove the sessions of a folder whose time has run out; a server does it by itself."""
    for name in _open_folder(sessions, model, codec).expire():
        typer.echo(f"removed {name}")


def _open(
    sessions: str | None,
    model: Path | None,
    codec: Path | None,
    server: str | None,
    token_file: Path | None,
) -> SessionStore | SessionClient:
    """Open the sessions of a folder or of a server; `ConfigError` unless one of them is named."""
    if (sessions is None) == (server is None):
        raise ConfigError("give one of --sessions DIR (with --model PATH) and --server HOST:PORT")
    if server is not None:
        if model is not None or codec is not None:
            raise ConfigError("--model and --codec are of --sessions: a server has its own")
        return open_client(server, token_file).sessions
    return _open_folder(sessions, model, codec)


def _open_folder(sessions: str | None, model: Path | None, codec: Path | None) -> SessionStore:
    if sessions is None:
        raise ConfigError("give --sessions DIR, with --model PATH")
    if model is None:
        raise ConfigError(f"--sessions {sessions}: name their model too, with --model PATH")
    from memstore.sessions import open_sessions

    return open_sessions(sessions, model, codec=codec)


def _text(text: str | None, file: Path | None) -> str:
    """Return the text from where it was given."""
    if text is not None and file is not None:
        raise ConfigError("give one of --text and --file, or neither to read stdin")
    if text is not None:
        return text
    where = "stdin" if file is None else str(file)
    try:
        content = sys.stdin.buffer.read() if file is None else file.read_bytes()
    except OSError as err:
        raise InvalidInputError(
            f"{where}: cannot be read: {err.strerror}; name a text file"
        ) from err
    try:
        return content.decode()
    except UnicodeDecodeError as err:
        raise InvalidInputError(
            f"{where}: byte {err.start} is not UTF-8; convert it first, such as with iconv"
        ) from None


def _print_info(info: SessionInfo, output: Output) -> None:
    if output is Output.JSON:
        print_json(asdict(info))
    else:
        print_fields(asdict(info))


def _row(window: SessionWindow) -> dict[str, Any]:
    text = textwrap.shorten(window.text, _SHOWN_CHARS, placeholder=" …")
    return {"number": window.number, "text": text}
