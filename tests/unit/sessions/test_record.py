"""The bytes of a version: every one is checked before it is parsed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from memstore.errors import CorruptionError, FormatVersionError
from memstore.sessions import SessionStore
from memstore.sessions.record import FORMAT_VERSION, format_time, parse_time
from memstore.storage import seal
from tests.tiny_sessions import make_text

OpenStore = Callable[..., SessionStore]


@pytest.fixture
def files(store: SessionStore, root: Path) -> list[Path]:
    """The two objects of a session: one with windows and short-term memories, one with a tail."""
    store.append("s", make_text(17))
    store.append("s", make_text(3))
    return sorted((root / "s").iterdir())


def test_no_flipped_byte_gets_through(files: list[Path], open_store: OpenStore) -> None:
    """Bytes of both objects, one at a time: an error that names the object, never a state."""
    assert len(files) == 2
    reader = open_store(ram_bytes=0)
    for file in files:
        content = file.read_bytes()
        end_of_header = 12 + int.from_bytes(content[8:12], "little")
        for place in [*range(0, end_of_header, 2), *range(end_of_header, len(content), 17)]:
            damaged = bytearray(content)
            damaged[place] ^= 1 << (place % 8)
            file.write_bytes(damaged)
            with pytest.raises(CorruptionError, match=file.name):
                reader.state("s")
        file.write_bytes(content)
    assert reader.info("s").num_tokens == 20


def test_no_shorter_or_longer_object_gets_through(files: list[Path], open_store: OpenStore) -> None:
    """Cut at any byte, or with one more."""
    for file in files:
        content = file.read_bytes()
        for length in [*range(0, len(content), 41), len(content) - 1]:
            file.write_bytes(content[:length])
            with pytest.raises(CorruptionError, match=file.name):
                open_store().state("s")
        file.write_bytes(content + b"\0")
        with pytest.raises(CorruptionError, match=file.name):
            open_store().state("s")
        file.write_bytes(content)


def test_an_object_in_another_place_is_refused(
    store: SessionStore, files: list[Path], root: Path, open_store: OpenStore
) -> None:
    """Another session's, or another version's."""
    store.create("t")
    for name in ("t/00000000000000000001.session", "s/00000000000000000004.session"):
        (root / name).write_bytes(files[-1].read_bytes())
        with pytest.raises(CorruptionError, match="it holds version 3 of session 's'"):
            open_store().windows(name[0])


def test_a_listing_leaves_out_what_is_damaged_and_says_so(
    store: SessionStore, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """One bad session does not hide the others."""
    store.create("t")
    files[-1].write_bytes(b"")

    assert [info.session_id for info in store.list()] == ["t"]
    assert "session s is left out" in caplog.text
    assert store.expire() == []


def test_a_newer_format_is_refused(files: list[Path], open_store: OpenStore) -> None:
    """Its header is read, and nothing else of it."""
    content = files[-1].read_bytes()
    length = int.from_bytes(content[8:12], "little")
    body = json.loads(content[12 : 12 + length])["body"]
    sealed = seal({**body, "format_version": FORMAT_VERSION + 1})
    files[-1].write_bytes(
        content[:8] + len(sealed).to_bytes(4, "little") + sealed + content[12 + length :]
    )

    with pytest.raises(FormatVersionError, match="format 2, this memstore reads 1; upgrade"):
        open_store().append("s", "sea")


@pytest.mark.parametrize("seconds", [0.0, 1_800_000_000.123457, 4_000_000_000.5])
def test_times_come_back(seconds: float) -> None:
    """To the microsecond."""
    assert parse_time(format_time(seconds)) == pytest.approx(seconds, abs=1e-6)
