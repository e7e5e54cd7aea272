"""The client's folder of codecs: one folder a digest, bounded in bytes, safe between processes.

A codec arrives in a folder of its own beside the others and is renamed into place when it is whole,
so no process ever sees half of one. What is loaded is verified by digest each time; a damaged codec
is thrown away and fetched again.

Where the folder cannot be written, as in a read-only home or on a full disk, a codec arrives in the
system's folder of temporary files and is kept open by this process alone.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import google_crc32c

from memstore.codec import ProductCodec
from memstore.errors import ConfigError, CorruptionError, NotFoundError, StorageError
from memstore.v1 import memory_service_pb2 as pb

log = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 2 << 30
_CODEC_FILES = frozenset({"config.json", "codec.safetensors"})
_CODEC_ID = re.compile(r"[0-9a-f]{64}")
_ARRIVING = "arriving-"
_ABANDONED_S = 24 * 3600
_NUM_KEPT_OPEN = 4


def default_cache_dir() -> Path:
    """`memstore/codecs` in the user's cache folder ($XDG_CACHE_HOME, or `~/.cache`)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "memstore" / "codecs"


class CodecCache:
    """Codecs by digest, the least recently used thrown away first.

    Args:
        folder: where the codecs lie; made when the first codec comes.
        limit_bytes: bytes of all codecs on disk together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._open: OrderedDict[str, ProductCodec] = OrderedDict()
        self._lock = threading.Lock()
        self._has_warned = False

    def get(self, codec_id: str) -> ProductCodec | None:
        """Return the codec, verified when it is opened; `None` if it is not here or damaged."""
        _check_id(codec_id)
        with self._lock:
            codec = self._open.get(codec_id) or self._load(codec_id)
            if codec is not None:
                self._keep_open(codec)
            return codec

    def add(self, codec: ProductCodec, folder: Path) -> None:
        """Move a whole, verified codec into place; what is least recently used makes room."""
        with self._lock:
            self._keep_open(codec)
        if folder.parent != self.folder:  # it came beside a cache that cannot be written
            return
        with suppress(OSError):  # another process brought the same codec: its copy is as good
            folder.rename(self.folder / codec.id)
        with suppress(OSError):  # a cache that is over its limit still serves
            self._evict(keep=codec.id)

    def new_folder(self) -> Path:
        """Make a folder for a codec that arrives: in the cache, or elsewhere if that fails."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            made = tempfile.mkdtemp(prefix=_ARRIVING, dir=self.folder)
            return self.folder / Path(made).name  # mkdtemp may have made a relative path absolute
        except OSError as err:
            return self.new_folder_elsewhere(err)

    def new_folder_elsewhere(self, reason: OSError) -> Path:
        """Make a folder among the temporary files, since the cache cannot be written.

        Raises:
            StorageError: if that cannot be written either.
        """
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "codec cache %s cannot be written (%s): codecs are fetched again by each process; "
                "set cache_dir or XDG_CACHE_HOME to a folder with room",
                self.folder, reason.strerror,
            )  # fmt: skip
        try:
            return Path(tempfile.mkdtemp(prefix=f"memstore-{_ARRIVING}"))
        except OSError as err:
            raise _no_room(self.folder, err) from err

    def _keep_open(self, codec: ProductCodec) -> None:
        self._open[codec.id] = codec
        self._open.move_to_end(codec.id)
        while len(self._open) > _NUM_KEPT_OPEN:
            self._open.popitem(last=False)

    def _load(self, codec_id: str) -> ProductCodec | None:
        folder = self.folder / codec_id
        try:
            if not folder.is_dir():
                return None
            codec = ProductCodec.load(folder, codec_id=codec_id)
        except (CorruptionError, NotFoundError, FileNotFoundError):
            # Damaged, or being thrown away by another process at this moment.
            _throw_away(folder)
            return None
        except OSError:  # not ours to read
            return None
        with suppress(OSError):  # a cache that is only read keeps its times
            os.utime(folder)
        return codec

    def receive(self, codec_id: str) -> CodecArrival:
        """Open a folder for a codec that is being fetched."""
        _check_id(codec_id)
        return CodecArrival(self, codec_id)

    def _evict(self, keep: str) -> None:
        used: list[tuple[float, int, Path]] = []
        for folder in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process was faster
                age = folder.stat().st_mtime
                if _CODEC_ID.fullmatch(folder.name):
                    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
                    used.append((age, num_bytes, folder))
                elif folder.name.startswith(_ARRIVING) and age < time.time() - _ABANDONED_S:
                    _throw_away(folder)
        total = sum(num_bytes for _, num_bytes, _ in used)
        for _, num_bytes, folder in sorted(used):
            if total <= self.limit_bytes:
                break
            if folder.name != keep:
                _throw_away(folder)
                total -= num_bytes


class CodecArrival:
    """A codec on its way into the cache; a context that leaves nothing behind if it fails."""

    def __init__(self, cache: CodecCache, codec_id: str) -> None:
        self._cache = cache
        self._codec_id = codec_id
        self._files: list[tuple[str, int]] = []
        self._num_bytes: dict[str, int] = {}
        self._folder = cache.new_folder()
        self._is_elsewhere = self._folder.parent != cache.folder

    def __enter__(self) -> CodecArrival:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, part: pb.GetCodecResponse) -> None:
        """Take the next message.

        Raises:
            ConfigError: if the codec is larger than the whole cache.
            CorruptionError: if the message is not whole or not the next one.
            StorageError: if there is no room for it, neither in the cache nor elsewhere.
        """
        if part.HasField("header"):
            self._add_header(part.header)
        else:
            self._add_chunk(part.chunk)

    def _add_header(self, header: pb.CodecHeader) -> None:
        names = [file.name for file in header.files]
        if header.codec_id != self._codec_id or self._files or set(names) != _CODEC_FILES:
            raise CorruptionError(
                f"codec {self._codec_id}: the header names codec {header.codec_id!r}, files {names}"
            )
        num_bytes = sum(file.num_bytes for file in header.files)
        if num_bytes > self._cache.limit_bytes:
            raise ConfigError(
                f"codec {self._codec_id}: {num_bytes:,} bytes do not fit into a cache of "
                f"{self._cache.limit_bytes:,}; raise cache_bytes, or ask for decoded vectors with "
                'decoded="bfloat16"'
            )
        self._files = [(file.name, file.num_bytes) for file in header.files]
        for name in names:
            self._write(name, 0, b"")
            self._num_bytes[name] = 0

    def _add_chunk(self, chunk: pb.CodecChunk) -> None:
        expected = self._num_bytes.get(chunk.file_name)
        if chunk.offset != expected or google_crc32c.value(chunk.data) != chunk.crc32c:
            raise CorruptionError(
                f"codec {self._codec_id}: a chunk at {chunk.file_name!r}:{chunk.offset} is damaged "
                f"or out of order; wanted offset {expected}"
            )
        if expected + len(chunk.data) > dict(self._files)[chunk.file_name]:
            raise CorruptionError(
                f"codec {self._codec_id}: {chunk.file_name} is longer than its header says"
            )
        self._write(chunk.file_name, chunk.offset, chunk.data)
        self._num_bytes[chunk.file_name] += len(chunk.data)

    def _write(self, name: str, offset: int, data: bytes) -> None:
        try:
            _write_at(self._folder / name, offset, data)
        except OSError as err:
            if self._is_elsewhere:
                raise _no_room(self._cache.folder, err) from err
            self._move_elsewhere(err)
            self._write(name, offset, data)

    def _move_elsewhere(self, reason: OSError) -> None:
        """Go on in another folder with what has come so far."""
        arrived, self._folder = self._folder, self._cache.new_folder_elsewhere(reason)
        self._is_elsewhere = True
        try:
            shutil.copytree(arrived, self._folder, dirs_exist_ok=True)
        except OSError as err:
            raise _no_room(self._cache.folder, err) from err
        finally:
            shutil.rmtree(arrived, ignore_errors=True)

    def finish(self) -> ProductCodec:
        """Verify the codec, put it in its place and return it.

        Raises:
            CorruptionError: if what came is not the codec of this digest.
        """
        codec = ProductCodec.load(self._folder, codec_id=self._codec_id)
        self._cache.add(codec, self._folder)  # what is mapped stays mapped under its new name
        return codec


def _check_id(codec_id: str) -> None:
    if not _CODEC_ID.fullmatch(codec_id):  # it becomes the name of a folder
        raise CorruptionError(f"codec id {codec_id!r}: wanted 64 hexadecimal digits")


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Write at a place of a file, over what an attempt that failed half-way left there."""
    with path.open("r+b" if path.exists() else "xb") as file:
        file.seek(offset)
        file.write(data)


def _no_room(folder: Path, err: OSError) -> StorageError:
    return StorageError(
        f"codec cache {folder}: neither it nor {tempfile.gettempdir()} can be written "
        f"({err.strerror}); free some space, or set cache_dir to a folder with room"
    )


def _throw_away(folder: Path) -> None:
    """Remove a codec: renamed first, so that no other process opens half of it."""
    grave = folder.with_name(f"{_ARRIVING}{folder.name[:8]}-{os.getpid()}-{time.monotonic_ns()}")
    with suppress(OSError):  # gone already, or not ours to remove
        folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)
