"""Damages copies of a collection and reads each: `damaged_reads.py FOLDER SEED COUNT [--blind]`.

It makes a store in FOLDER, then COUNT damaged copies of it, one after another, and prints one JSON
line before and one after reading each. A parent watches it, because damage must not end a reader's
process. With `--blind` the check of the codes is taken out, which a battery worth its name notices.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from memstore import ProductCodec, Store, ingest, open_store
from memstore.errors import MemstoreError
from memstore.index import vectors
from memstore.storage.shard import Shard
from memstore.types import Passage

DIM = 16
NAMES = [f"{document}#{number}" for document in "abcdefgh" for number in range(8)]
LATER = [f"z#{number}" for number in range(8)]
DELETED = ["a#0", "c#3", "z#5"]
WHERE = "year >= 2003 and lang in ('de', 'fr') or title is null"
QUESTIONS = [np.random.default_rng(seed).standard_normal(DIM) for seed in range(3)]
HINTS = ("versions/LATEST", "gc/", "index/")  # never trusted, or made again


def _codec(seed: int) -> ProductCodec:
    rng = np.random.default_rng(seed)
    return ProductCodec(rng.standard_normal((4, 256, 4)).astype(np.float32))


def _passage(name: str) -> Passage:
    document, number = name.split("#")
    metadata = {"year": 2000 + int(number), "lang": ("de", "en", "fr")[int(number) % 3]}
    text = f"passage {number} of the document {document}, which is about nothing in particular"
    return Passage(
        document_id=document, number=int(number), title=document, text=text, metadata=metadata
    )


def _write(store: Store, names: list[str], **options: Any) -> None:
    rng = np.random.default_rng(len(names))
    memories = [rng.standard_normal((2 + i % 5, DIM)).astype(np.float32) for i in range(len(names))]
    store.write([_passage(name) for name in names], memories, **options)


def build(folder: Path) -> None:
    """Write a collection with every kind of object: five shards with a dictionary, three versions,
    deletions, gc marks, and an index.
    """
    ingest._SHARD_TOKENS = 60
    ingest.train_dictionary = lambda texts: texts[0].encode() * 4  # type: ignore[attr-defined]
    store = open_store(folder)
    _write(store, NAMES, codec=_codec(0))
    _write(store, LATER)
    store.delete(passage_ids=DELETED)
    store.search(QUESTIONS[0])
    store.gc(dry_run=False)


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _hits(result: Any) -> list[Any]:
    return [asdict(hit) for hit in result.hits]


def _memories(result: Any) -> list[str]:
    return [hashlib.sha256(memory.decode().tobytes()).hexdigest() for memory in result.memories]


def _live(store: Store, version: int | None) -> list[str]:
    """Return the ids that are in a version, whatever its files say of them."""
    number = version or store.collection_info().version
    names = NAMES if number == 1 else [*NAMES, *LATER]
    return [name for name in names if number < 3 or name not in DELETED]


def _read(store: Store, call: str, version: int | None) -> tuple[int, object]:
    if call == "info":
        info = store.collection_info(version=version)
        return info.version, asdict(info)
    if call == "fetch":
        fetched = store.fetch(_live(store, version), version=version)
        return fetched.version, (list(map(asdict, fetched.passages)), _memories(fetched))
    if call == "query":
        queried = [store.query(question, top_k=20, version=version) for question in QUESTIONS]
        return queried[0].version, [(_hits(result), _memories(result)) for result in queried]
    where = WHERE if call == "filtered search" else None
    found = [
        store.search(question, top_k=20, where=where, version=version) for question in QUESTIONS
    ]
    return found[0].version, [_hits(result) for result in found]


CALLS = ("info", "search", "filtered search", "query", "fetch")


def read_everything(folder: Path) -> Iterator[tuple[str, str, int, str]]:
    """Yield (call, version asked for, version answered, digest of the answer or `error …`)."""
    for version in (None, 1, 2, 3):
        for call in CALLS:
            store = open_store(folder)
            try:
                answered, value = _read(store, call, version)
            except MemstoreError as err:
                yield call, str(version), 0, f"error {type(err).__name__}"
            else:
                yield call, str(version), answered, _digest(value)
    with contextlib.suppress(MemstoreError):
        for info in open_store(folder).versions():
            yield "info", str(info.version), info.version, _digest(asdict(info))


def verify_finds(folder: Path) -> bool:
    """Say whether `verify` of the versions that are listed complains."""
    store = open_store(folder)
    try:
        listed = store.collection("default").versions()
        return any(store.verify(version=version).problems for version in listed)
    except MemstoreError:
        return True


def _files(folder: Path, below: str = "") -> list[Path]:
    return sorted(path for path in (folder / "default" / below).rglob("*") if path.is_file())


def _any_file(chance: random.Random, folder: Path) -> Path:
    """Choose a kind of object first, so that the few small ones are hit as often as the shards."""
    kinds = sorted(path for path in (folder / "default").iterdir() if path.is_dir())
    return chance.choice(_files(folder, chance.choice(kinds).name))


def _flip(chance: random.Random, path: Path, first: int, last: int) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(first, last)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_anywhere(chance: random.Random, folder: Path) -> Path:
    """One bit of any file."""
    path = _any_file(chance, folder)
    _flip(chance, path, 0, path.stat().st_size)
    return path


def _flip_part(part: str) -> Callable[[random.Random, Path], Path]:
    def flip(chance: random.Random, folder: Path) -> Path:
        collection = open_store(folder).collection("default")
        entry = chance.choice(list(collection.entries(collection.manifest(3))))
        first, last = entry.codes_offset, entry.codes_offset + entry.codes_bytes
        bounds = {"head": (0, first), "codes": (first, last), "footer": (last, entry.num_bytes)}
        path = folder / "default" / entry.key
        _flip(chance, path, *bounds[part])
        return path

    return flip


def truncate(chance: random.Random, folder: Path) -> Path:
    """Any file, to any shorter length."""
    path = _any_file(chance, folder)
    os.truncate(path, chance.randrange(path.stat().st_size))
    return path


def extend(chance: random.Random, folder: Path) -> Path:
    """Something behind the end of any file."""
    path = _any_file(chance, folder)
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 100)))
    return path


def zero_page(chance: random.Random, folder: Path) -> Path:
    """A page of zeros in any file, as after a crash."""
    path = _any_file(chance, folder)
    data = path.read_bytes()
    start = chance.randrange(0, len(data), 4096)
    path.write_bytes(data[:start] + bytes(len(data[start : start + 4096])) + data[start + 4096 :])
    return path


def delete(chance: random.Random, folder: Path) -> Path:
    """Any file."""
    path = _any_file(chance, folder)
    path.unlink()
    return path


def swap_two(chance: random.Random, folder: Path) -> Path:
    """Two objects of a kind in each other's place."""
    kind = chance.choice(["shards", "shards", "lists", "versions"])
    one, other = chance.sample([p for p in _files(folder, kind) if p.name != "LATEST"], 2)
    one_data, other_data = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_data)
    other.write_bytes(one_data)
    return one


def overwrite_by_older(chance: random.Random, folder: Path) -> Path:
    """An object in the place of a later one of its kind."""
    kind = chance.choice(["shards", "lists", "versions"])
    older, newer = chance.sample([p for p in _files(folder, kind) if p.name != "LATEST"], 2)
    shutil.copyfile(older, newer)
    return newer


def other_codec(chance: random.Random, folder: Path) -> Path:
    """Another whole codec of the same shape under this one's id, or its tensors alone."""
    (config,) = (path for path in _files(folder, "codecs") if path.name == "config.json")
    files = dict(_codec(1).files())
    if chance.random() < 0.5:
        del files["config.json"]
    for name, data in files.items():
        (config.parent / name).write_bytes(data)
    return config


KINDS: dict[str, Callable[[random.Random, Path], Path]] = {
    "flip": flip_anywhere,
    "flip head": _flip_part("head"),
    "flip codes": _flip_part("codes"),
    "flip footer": _flip_part("footer"),
    "truncate": truncate,
    "extend": extend,
    "zero page": zero_page,
    "delete": delete,
    "swap": swap_two,
    "older": overwrite_by_older,
    "other codec": other_codec,
}


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder / "default").as_posix(): path.read_bytes()
        for path in _files(folder)
    }


def _wrong_answers(
    whole: dict[tuple[str, str], tuple[int, str]], folder: Path, may_be_older: bool
) -> tuple[list[str], int]:
    """Compare every read with that of the undamaged store: what differs, and how many refuse."""
    wrong, num_refused = [], 0
    for call, asked, answered, digest in read_everything(folder):
        newest, right = whole[call, asked]
        if digest.startswith("error"):
            num_refused += 1
        elif answered != newest and not may_be_older:
            wrong.append(f"{call} of version {asked}: version {answered}")
        elif digest != (right if answered == newest else whole[call, str(answered)][1]):
            wrong.append(f"{call} of version {asked}: another answer")
    return wrong, num_refused


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def run(folder: Path, seed: int, count: int, kinds: list[str]) -> None:
    """Damage and read `count` copies; print a JSON line before and after each."""
    original = folder / "whole"
    build(original)
    before = _contents(original)
    whole = {
        (call, asked): (answered, digest)
        for call, asked, answered, digest in read_everything(original)
    }
    for number in range(count):
        kind = kinds[number % len(kinds)]
        chance = random.Random(f"{seed} {number}")
        copy = Path(shutil.copytree(original, folder / "copy"))
        path = KINDS[kind](chance, copy).relative_to(copy / "default").as_posix()
        line = {"number": number, "kind": kind, "object": path}
        _say(line)
        damaged = _contents(copy)
        lost_newest = f"versions/{3:020d}.json" not in damaged
        is_found = verify_finds(copy)
        wrong, num_refused = _wrong_answers(whole, copy, may_be_older=lost_newest)
        answer = {
            "changed": damaged != before,
            "wrong": wrong,
            "num_refused": num_refused,
            "found": is_found,
            "may_be_missed": path.startswith(HINTS)
            or (f"versions/{1:020d}.json" not in damaged and kind == "delete"),
        }
        _say({**line, **answer})
        shutil.rmtree(copy)


def _records_unchecked(self: Shard, row: int) -> np.ndarray:
    first = int(self.columns and self._token_offsets[row])
    last, words = int(self._token_offsets[row + 1]), self._record_words
    data = self._reader().read(
        self.entry.codes_offset + 2 * words * first, 2 * words * (last - first)
    )
    return np.frombuffer(data, dtype="<u2").reshape(-1, words)


def main() -> None:
    """Read the command line."""
    faulthandler.enable()
    vectors.IVF_ROWS, vectors._EXACT_ROWS, vectors._NPROBE_SHARE = 50, 5, 1.0
    folder, seed, count, *flags = sys.argv[1:]
    kinds = list(KINDS)
    if flags == ["--blind"]:
        Shard.records = _records_unchecked  # type: ignore[method-assign]
        kinds = ["flip codes"]
    run(Path(folder), int(seed), int(count), kinds)


if __name__ == "__main__":
    main()
