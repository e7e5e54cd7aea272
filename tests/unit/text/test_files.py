"""Listing and reading input files."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from memstore.errors import InvalidInputError, NotFoundError, StorageError
from memstore.text.files import (
    MAX_RECORD_BYTES,
    RATIO_FREE_BYTES,
    list_files,
    open_stored,
    open_stream,
    read_lines,
)

Write = Callable[..., Path]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".GZ"])
def test_stream_gives_the_content_whatever_the_compression(tmp_path: Path, suffix: str) -> None:
    """A suffix, in either case, decides how the stored bytes are opened."""
    content = b"some text\n" * 1000
    packed: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".zst": zstandard.compress,
        ".GZ": gzip.compress,
    }
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed[suffix](content))
    with open_stream(path) as stream:
        assert stream.read() == content


def test_concatenated_compressed_members_are_one_stream(tmp_path: Path) -> None:
    """Files made with `cat a.gz b.gz` are read to the end."""
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    with open_stream(path) as stream:
        assert stream.read() == b"one two"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "garbage after", "another format"])
def test_damaged_stream_is_refused(write: Write, suffix: str, damage: str) -> None:
    """Half a stream is never taken for a whole one."""
    path = write(f"a.txt{suffix}", os.urandom(50_000))
    stored = path.read_bytes()
    damaged = {
        "truncated": stored[:-3],
        "garbage after": stored + b"garbage",
        "another format": b"hello world" * 100,
    }
    path.write_bytes(damaged[damage])
    with (
        open_stream(path) as stream,
        pytest.raises(InvalidInputError, match="damaged or truncated"),
    ):
        stream.read()


def test_observer_sees_every_stored_byte_even_those_not_read(write: Write) -> None:
    """What is digested is the file, not the part of it that was of use."""
    path = write("a.txt.gz", os.urandom(3 << 20))
    seen = hashlib.sha256()
    with open_stream(path, observe=seen.update) as stream:
        stream.read(10)
    assert seen.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    """A file that is gone is told by its path."""
    with (
        pytest.raises(NotFoundError, match=r"gone\.txt: no such file"),
        open_stored(tmp_path / "gone.txt"),
    ):
        pass


def test_file_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    """Other failures of the disk keep the system's words."""
    with pytest.raises(StorageError, match="cannot open: Is a directory"), open_stored(tmp_path):
        pass


def test_bomb_is_refused_soon(tmp_path: Path) -> None:
    """A stream that inflates 1,000-fold stops at the free allowance."""
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(bytes(100 << 20)))
    with open_stream(path) as stream:
        stream.read(RATIO_FREE_BYTES - (1 << 20))
        with pytest.raises(InvalidInputError, match=r"over 200:1"):
            stream.read(2 << 20)


def test_high_ratio_is_allowed_below_the_free_allowance(tmp_path: Path) -> None:
    """Short repetitive files compress well and are no bombs."""
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(bytes(60 << 20)))
    with open_stream(path) as stream:
        assert sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b"")) == 60 << 20


def test_lines_come_without_their_ends_and_with_their_length() -> None:
    """Unix and Windows line ends, and a last line without one."""
    lines = list(read_lines(io.BytesIO(b"one\ntwo\r\n\nthree")))
    assert lines == [(b"one", 4), (b"two", 5), (b"", 1), (b"three", 5)]


@pytest.mark.parametrize("excess", [0, 1, 5 << 20])
@pytest.mark.parametrize("end", [b"", b"\nnext\n"])
def test_line_over_the_limit_is_passed_over(excess: int, end: bytes) -> None:
    """A line of the limit is read, a longer one yields None, and reading goes on behind it."""
    line = b"x" * (MAX_RECORD_BYTES - len(end[:1]) + excess)
    found = list(read_lines(io.BytesIO(line + end)))
    assert found[0] == (line if excess == 0 else None, len(line) + len(end[:1]))
    assert found[1:] == ([(b"next", 5)] if end else [])


def test_listing_is_by_name_and_leaves_out_what_is_hidden_or_outside(
    write: Write, tmp_path: Path
) -> None:
    """Hidden names, pipes, links out of the folder and links to folders are no input."""
    outside = write("outside/secret.txt", "s")
    for name in ("in/b.txt", "in/a/z.txt", "in/.hidden.txt", "in/.git/c.txt"):
        write(name, "x")
    folder = tmp_path / "in"
    (folder / "leak.txt").symlink_to(outside)
    (folder / "leaks").symlink_to(outside.parent)
    (folder / "again.txt").symlink_to(folder / "b.txt")
    (folder / "dangling.txt").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.txt")
    assert [name for name, _ in list_files(folder)] == ["a/z.txt", "again.txt", "b.txt"]


def test_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """A name that no message could print is told with its bytes escaped."""
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    with pytest.raises(InvalidInputError, match=r"caf\\udce9\.txt: .* not UTF-8; rename it"):
        list_files(tmp_path)
