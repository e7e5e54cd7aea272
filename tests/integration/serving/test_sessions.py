"""Sessions embedded, over gRPC sync and async, and over HTTP: the same answers and errors."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from memstore import AsyncClient, Store
from memstore.errors import (
    AlreadyExistsError,
    CommitConflictError,
    ConfigError,
    InvalidInputError,
    ModelMismatchError,
    NotFoundError,
    SessionNotFoundError,
    error_class,
)
from memstore.sessions import SessionInfo, SessionModel, SessionStore
from memstore.storage import PosixStore
from tests.integration.serving.conftest import Running
from tests.tiny_sessions import make_session_model, make_text, save_model

Call = Callable[..., Any]


class OverHttp:
    """The verbs of a session store by the paths of the HTTP face."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/v1/sessions"

    def __call__(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb; raise the error that comes back."""
        response = self._send(verb, *args, **options)
        answer = response.json()
        if response.status_code != 200:
            raise error_class(answer["code"])(answer["detail"])
        match verb:
            case "list":
                return answer["sessions"]
            case "windows" | "search":
                return answer["hits" if verb == "search" else "windows"]
        return answer or None

    def _send(self, verb: str, *args: Any, **options: Any) -> httpx.Response:
        match verb, args:
            case "create", _:
                return httpx.post(self._url, json={**_named("session_id", args), **options})
            case "list", _:
                return httpx.get(self._url, params=options)
            case "info", (name,):
                return httpx.get(f"{self._url}/{name}")
            case "windows", (name,):
                return httpx.get(f"{self._url}/{name}/windows")
            case "remove", (name,):
                return httpx.delete(f"{self._url}/{name}")
            case _, (name, *rest):
                field = {"append": "text", "fork": "new_id", "search": "query"}.get(verb, "")
                return httpx.post(
                    f"{self._url}/{name}/{verb}", json={**_named(field, rest), **options}
                )
        raise AssertionError(verb)


def _named(field: str, values: Sequence[Any]) -> dict[str, Any]:
    return {field: values[0]} if values else {}


def _plain(value: Any) -> Any:
    """Return an answer as JSON has it, whichever face it came from."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> SessionModel:
    """A tiny model of windows of 8 words and a queue of 4."""
    return make_session_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def kept(tmp_path: Path, model: SessionModel) -> SessionStore:
    """Sessions, embedded."""
    return SessionStore(PosixStore(tmp_path / "sessions"), model)


@pytest.fixture(params=["embedded", "grpc", "async grpc", "http"])
def call(
    request: pytest.FixtureRequest,
    kept: SessionStore,
    store: Store,
    serve: Callable[..., Running],
    connect: Callable[..., Any],
    tmp_path: Path,
) -> Call:
    """Call a verb by name, by each way to it."""
    if request.param == "embedded":
        return lambda verb, *args, **options: getattr(kept, verb)(*args, **options)
    server = serve(store, sessions=kept)
    if request.param == "grpc":
        client = connect(server)
        return lambda verb, *args, **options: getattr(client.sessions, verb)(*args, **options)
    if request.param == "http":
        return OverHttp(server.http)

    def asyncly(verb: str, *args: Any, **options: Any) -> Any:
        async def ask() -> Any:
            async with AsyncClient(server.grpc, cache_dir=tmp_path / "codecs") as client:
                return await getattr(client.sessions, verb)(*args, **options)

        return asyncio.run(ask())

    return asyncly


def test_every_verb_does_the_same_on_every_face(call: Call, kept: SessionStore) -> None:
    """A session's life; after each step the answer is what the store itself says."""

    def ask(verb: str, *args: Any, **options: Any) -> Any:
        return _plain(call(verb, *args, **options))

    assert ask("create", "s", ttl_s=3600.0) == asdict(kept.info("s"))
    assert ask("append", "s", make_text(43)) == asdict(kept.info("s"))
    assert ask("append", "s", "ünïcode", expected_version=2) == asdict(kept.info("s"))
    made = ask("generate", "s", max_new_tokens=5, temperature=1.0, seed=3)
    assert made["session"] == asdict(kept.info("s")) == ask("info", "s")
    assert "".join(each.text for each in kept.windows("s")).endswith(made["text"])
    assert ask("windows", "s") == _plain(kept.windows("s"))
    assert ask("search", "s", "sea ship", top_k=3) == _plain(kept.search("s", "sea ship", top_k=3))
    assert ask("fork", "s", "t") == asdict(kept.info("t"))
    drawn = ask("fork", "s")["session_id"], ask("create")["session_id"]
    assert [info["session_id"] for info in ask("list")] == sorted(["s", "t", *drawn])
    assert ask("remove", "t") is None
    assert [info.session_id for info in kept.list()] == sorted(["s", *drawn])


ERRORS: dict[str, tuple[type[Exception], Callable[[Call], object]]] = {
    "unknown": (SessionNotFoundError, lambda call: call("append", "nobody", "sea")),
    "removed": (
        SessionNotFoundError,
        lambda call: [call("create", "r"), call("remove", "r"), call("append", "r", "sea")],
    ),
    "taken": (AlreadyExistsError, lambda call: call("create", "s")),
    "no name": (ConfigError, lambda call: call("create", "No/Name")),
    "no text": (InvalidInputError, lambda call: call("append", "s", "")),
    "spaces": (InvalidInputError, lambda call: call("append", "s", " \n")),
    "half a letter": (InvalidInputError, lambda call: call("append", "s", "\udc80")),
    "version": (
        CommitConflictError,
        lambda call: call("append", "s", "sea", expected_version=7),
    ),
    "empty": (InvalidInputError, lambda call: call("generate", "s")),
    "too much": (ConfigError, lambda call: call("generate", "s", max_new_tokens=10**6)),
    "seed": (ConfigError, lambda call: call("generate", "s", seed=-1)),
    "time": (ConfigError, lambda call: call("create", "x", ttl_s=-1.0)),
    "long question": (InvalidInputError, lambda call: call("search", "s", make_text(9))),
    "hits": (ConfigError, lambda call: call("search", "s", "sea", top_k=0)),
}


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "half a letter"])
def test_every_error_is_the_same_on_every_face(call: Call, kept: SessionStore, name: str) -> None:
    """The class that the store raises."""
    kept.create("s")
    error, provoke = ERRORS[name]
    with pytest.raises(error):
        provoke(call)


def test_text_that_is_not_utf8_is_refused(
    kept: SessionStore, store: Store, serve: Callable[..., Running], connect: Callable[..., Any]
) -> None:
    """By the client before it travels; by HTTP as escapes and as bytes. Nothing is appended."""
    server = serve(store, sessions=kept)
    kept.create("s")
    with pytest.raises(InvalidInputError):
        connect(server).sessions.append("s", "sea \udc80")
    for body in (rb'{"text": "sea \udc80"}', b'{"text": "sea \xff"}'):
        response = httpx.post(
            f"{server.http}/v1/sessions/s/append",
            content=body,
            headers={"content-type": "application/json"},
        )
        assert response.status_code == 400, response.text
    assert "the body is not JSON in UTF-8" in response.text
    assert kept.info("s").version == 1


def test_a_name_may_be_left_to_the_server(
    kept: SessionStore, store: Store, serve: Callable[..., Running]
) -> None:
    """Over HTTP by an empty body, or by none."""
    url = f"{serve(store, sessions=kept).http}/v1/sessions"
    first = httpx.post(url, json={}).json()["session_id"]
    second = httpx.post(url).json()["session_id"]
    copy = httpx.post(f"{url}/{first}/fork").json()
    assert copy["forked_from"] == f"{first}@1"
    assert {first, second, copy["session_id"]} == {info.session_id for info in kept.list()}


def test_changes_that_come_together_are_made_one_after_another(
    kept: SessionStore, store: Store, serve: Callable[..., Running], tmp_path: Path
) -> None:
    """Many appends to one session at once: none is lost, none conflicts, all see the one before."""
    server = serve(store, sessions=kept, workers=4)
    kept.create("s")

    async def ask() -> list[SessionInfo]:
        async with AsyncClient(server.grpc, cache_dir=tmp_path / "codecs") as client:
            return await asyncio.gather(
                *(client.sessions.append("s", make_text(3, seed=n)) for n in range(20))
            )

    answers = asyncio.run(ask())
    assert sorted(info.version for info in answers) == list(range(2, 22))
    assert sorted(info.num_tokens for info in answers) == list(range(3, 63, 3))


def test_a_session_that_is_busy_holds_up_no_other(
    kept: SessionStore, store: Store, serve: Callable[..., Running], connect: Callable[..., Any]
) -> None:
    """Those who wait for a session hold no thread: with two, another session is served."""
    busy, may_end = threading.Event(), threading.Event()

    class Slow(SessionStore):
        def append(self, session_id: str, text: str, **options: Any) -> SessionInfo:
            if session_id == "slow":
                busy.set()
                may_end.wait()
            return super().append(session_id, text, **options)

    slow = Slow(kept.objects, kept.model)
    server = serve(store, sessions=slow, workers=2)
    client = connect(server)
    for name in ("slow", "quick"):
        client.sessions.create(name)
    waiting = [
        threading.Thread(target=client.sessions.append, args=("slow", "sea")) for _ in range(4)
    ]
    for each in waiting:
        each.start()
    busy.wait()
    assert client.sessions.append("quick", "ship").num_tokens == 1
    may_end.set()
    for each in waiting:
        each.join()
    assert client.sessions.info("slow").num_tokens == 4


def test_lists_come_in_pages(
    kept: SessionStore,
    store: Store,
    serve: Callable[..., Running],
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client puts them together; HTTP hands out the token."""
    names = [kept.create(f"s{number}").session_id for number in range(7)]
    server = serve(store, sessions=kept)
    monkeypatch.setattr("memstore.client.session_messages.MAX_PAGE", 3)
    client = connect(server)
    assert [info.session_id for info in client.sessions.list()] == names
    assert [info.session_id for info in client.sessions.list(after="s1", limit=4)] == names[2:6]
    assert list(client.sessions.list(limit=0)) == []

    url = f"{server.http}/v1/sessions"
    first = httpx.get(url, params={"page_size": 5}).json()
    rest = httpx.get(url, params={"page_token": first["next_page_token"]}).json()
    assert [info["session_id"] for info in first["sessions"] + rest["sessions"]] == names
    assert rest["next_page_token"] == ""
    assert httpx.get(url, params={"page_size": 0}).status_code == 400


def test_a_server_without_sessions_says_so(
    store: Store, serve: Callable[..., Running], connect: Callable[..., Any]
) -> None:
    """And how to start one that has them."""
    server = serve(store)
    with pytest.raises(NotFoundError, match="--sessions and --session-model"):
        connect(server).sessions.create("s")
    response = httpx.get(f"{server.http}/v1/sessions/s/windows")
    assert (response.status_code, response.json()["code"]) == (404, "NOT_FOUND")


def test_the_memory_of_another_model_is_refused_over_the_wire(
    kept: SessionStore,
    store: Store,
    serve: Callable[..., Running],
    connect: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """With the digests of both."""
    kept.create("s")
    other = SessionStore(kept.objects, make_session_model(tmp_path, seed=4))
    with pytest.raises(ModelMismatchError) as caught:
        connect(serve(store, sessions=other)).sessions.append("s", "sea")
    assert caught.value.details["wanted"] == kept.model.id


def test_a_server_expires_sessions_by_itself(
    tmp_path: Path, model: SessionModel, store: Store, serve: Callable[..., Running]
) -> None:
    """When it starts, and from time to time."""
    has_expired = threading.Event()

    class Watched(SessionStore):
        def expire(self) -> Sequence[str]:
            gone = super().expire()
            has_expired.set()
            return gone

    now = [0.0]
    kept = Watched(PosixStore(tmp_path / "sessions"), model, clock=lambda: now[0])
    kept.create("s", ttl_s=60)
    now[0] = 61.0
    serve(store, sessions=kept)
    has_expired.wait()

    content = b"".join(path.read_bytes() for path in (tmp_path / "sessions" / "s").iterdir())
    assert b'"is_removed":true' in content


def test_the_command_serves_sessions_across_restarts(
    store_dir: Path, tmp_path: Path, connect: Callable[..., Any]
) -> None:
    """As an operator starts it, stops it and starts it again."""
    command = [sys.executable, "-m", "memstore", "serve", "--store", str(store_dir)]
    command += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    command += ["--sessions", str(tmp_path / "sessions")]
    command += ["--session-model", str(save_model(tmp_path / "model"))]

    def appended(create: bool) -> SessionInfo:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            found = next(filter(None, (re.search(r"gRPC (\S+), HTTP", line) for line in lines)))
            client = connect(found[1])
            if create:
                client.sessions.create("s")
            info: SessionInfo = client.sessions.append("s", make_text(12))
            process.terminate()
        return info

    assert appended(create=True).num_tokens == 12
    assert appended(create=False).num_tokens == 24
