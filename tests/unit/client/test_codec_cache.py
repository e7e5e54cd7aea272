"""The client's folder of codecs."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from memstore.client import codec_cache
from memstore.client.codec_cache import CodecCache, default_cache_dir
from memstore.codec import ProductCodec
from memstore.errors import ConfigError, CorruptionError, StorageError
from memstore.v1 import memory_service_pb2 as pb


def _codec(seed: int) -> ProductCodec:
    rng = np.random.default_rng(seed)
    return ProductCodec(rng.standard_normal((2, 16, 4), dtype=np.float32))


def _parts(codec: ProductCodec) -> Iterator[pb.GetCodecResponse]:
    files = {name: bytes(content) for name, content in codec.files().items()}
    listed = [pb.CodecFile(name=name, num_bytes=len(content)) for name, content in files.items()]
    yield pb.GetCodecResponse(header=pb.CodecHeader(codec_id=codec.id, files=listed))
    for name, content in files.items():
        for offset in range(0, len(content), 100):
            data = content[offset : offset + 100]
            crc32c = google_crc32c.value(data)
            chunk = pb.CodecChunk(file_name=name, offset=offset, data=data, crc32c=crc32c)
            yield pb.GetCodecResponse(chunk=chunk)


def _receive(
    cache: CodecCache, codec: ProductCodec, parts: Iterable[pb.GetCodecResponse] = ()
) -> ProductCodec:
    with cache.receive(codec.id) as arrival:
        for part in parts or _parts(codec):
            arrival.add(part)
        return arrival.finish()


def _num_bytes(codec: ProductCodec) -> int:
    return sum(len(bytes(content)) for content in codec.files().values())


def test_a_received_codec_is_found_again_by_another_process(tmp_path: Path):
    """What one cache stores another one on the same folder loads; nothing else lies there."""
    codec = _codec(0)
    vectors = np.ones((3, 8), np.float32)
    received = _receive(CodecCache(tmp_path, 1 << 20), codec)
    found = CodecCache(tmp_path, 1 << 20).get(codec.id)
    assert found is not None
    for copy in (received, found):
        np.testing.assert_array_equal(copy.encode(vectors), codec.encode(vectors))
    assert [folder.name for folder in tmp_path.iterdir()] == [codec.id]


def test_what_is_not_there_is_not_found(tmp_path: Path):
    """Neither a missing codec nor a missing folder is an error."""
    assert CodecCache(tmp_path / "absent", 1).get("0" * 64) is None


def test_two_processes_may_bring_the_same_codec(tmp_path: Path):
    """The second one leaves the first one's copy in place."""
    codec = _codec(0)
    first, second = CodecCache(tmp_path, 1 << 20), CodecCache(tmp_path, 1 << 20)
    with first.receive(codec.id) as arrival:
        for part in _parts(codec):
            arrival.add(part)
        _receive(second, codec)
        assert arrival.finish().id == codec.id
    assert [folder.name for folder in tmp_path.iterdir()] == [codec.id]


def test_the_least_recently_used_codec_makes_room(tmp_path: Path):
    """Three codecs in a cache for two: the one that nobody asked for goes."""
    codecs = [_codec(seed) for seed in range(3)]
    limit = 2 * _num_bytes(codecs[0]) + 10
    for seconds, codec in enumerate(codecs[:2]):
        _receive(CodecCache(tmp_path, limit), codec)
        os.utime(tmp_path / codec.id, (1000 + seconds, 1000 + seconds))
    assert CodecCache(tmp_path, limit).get(codecs[0].id) is not None
    _receive(CodecCache(tmp_path, limit), codecs[2])
    assert {folder.name for folder in tmp_path.iterdir()} == {codecs[0].id, codecs[2].id}


def test_what_a_dead_process_left_is_swept(tmp_path: Path):
    """A half-fetched codec of another day goes with the next one that arrives."""
    old = tmp_path / "arriving-old"
    new = tmp_path / "arriving-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (1000, 1000))
    _receive(CodecCache(tmp_path, 1 << 20), _codec(0))
    assert not old.exists()
    assert new.exists()


def test_a_codec_larger_than_the_cache_is_refused_before_it_comes(tmp_path: Path):
    """The header is enough to know."""
    codec = _codec(0)
    cache = CodecCache(tmp_path, 100)
    with cache.receive(codec.id) as arrival, pytest.raises(ConfigError, match="cache_bytes"):
        arrival.add(next(_parts(codec)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "weights.pt", "", "codec.safetensors/x"])
def test_a_server_cannot_name_files(name: str, tmp_path: Path):
    """Only the two files of a codec are ever written."""
    codec = _codec(0)
    header = next(_parts(codec))
    header.header.files[0].name = name
    cache = CodecCache(tmp_path / "cache", 1 << 20)
    with cache.receive(codec.id) as arrival, pytest.raises(CorruptionError):
        arrival.add(header)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("codec_id", ["", "../x", "A" * 64, "0" * 63])
def test_an_id_that_is_no_digest_never_becomes_a_path(codec_id: str, tmp_path: Path):
    """The id comes from the server."""
    with pytest.raises(CorruptionError, match="hexadecimal"):
        CodecCache(tmp_path, 1).get(codec_id)
    with pytest.raises(CorruptionError, match="hexadecimal"):
        CodecCache(tmp_path, 1).receive(codec_id)


@pytest.mark.parametrize("fault", ["flipped", "swapped", "missing", "beyond", "other codec"])
def test_a_codec_that_is_not_what_was_asked_for_is_never_kept(fault: str, tmp_path: Path):
    """Chunks, lengths and digests are checked; the folder is left empty."""
    codec = _codec(0)
    parts = list(_parts(_codec(1) if fault == "other codec" else codec))
    parts[0].header.codec_id = codec.id
    if fault == "flipped":
        parts[2].chunk.crc32c ^= 1
    elif fault == "swapped":
        parts[-1], parts[-2] = parts[-2], parts[-1]
    elif fault == "missing":
        parts.pop()
    elif fault == "beyond":
        parts[0].header.files[0].num_bytes -= 1
    with pytest.raises(CorruptionError):
        _receive(CodecCache(tmp_path, 1 << 20), codec, parts)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch):
    """$XDG_CACHE_HOME is honoured."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_cache_dir() == Path("/caches/memstore/codecs")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "memstore" / "codecs"


def test_a_cache_that_cannot_be_made_does_not_stop_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Codecs are kept open by this process; one warning says so, and nothing is left behind."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (tmp_path / "home").write_text("not a folder")
    cache = CodecCache(tmp_path / "home" / "codecs", 1 << 20)
    vectors = np.ones((3, 8), np.float32)
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            codec = _codec(seed)
            assert cache.get(codec.id) is None
            _receive(cache, codec)
            found = cache.get(codec.id)
            assert found is not None
            np.testing.assert_array_equal(found.encode(vectors), codec.encode(vectors))
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"codec cache {cache.folder} cannot be written (Not a directory)"
    ]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("num_writes", [0, 1, 2, 4])
def test_a_disk_that_fills_up_half_way_does_not_stop_a_query(
    num_writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What has come so far moves along, and half a chunk is written over."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    codec = _codec(0)
    cache = CodecCache(tmp_path / "codecs", 1 << 20)
    write_at = codec_cache._write_at
    written: list[Path] = []

    def fill_up(path: Path, offset: int, data: bytes) -> None:
        if path.is_relative_to(cache.folder) and len(written) == num_writes:
            write_at(path, offset, b"!" * (len(data) // 2))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write_at(path, offset, data)

    monkeypatch.setattr(codec_cache, "_write_at", fill_up)
    _receive(cache, codec)
    assert cache.get(codec.id) is not None
    assert list(cache.folder.iterdir()) == []
    assert list(temporary.iterdir()) == []


def test_no_room_anywhere_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The message names what to set."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    (tmp_path / "home").write_text("not a folder")
    with pytest.raises(StorageError, match="set cache_dir to a folder with room"):
        CodecCache(tmp_path / "home" / "codecs", 1 << 20).receive("0" * 64)
