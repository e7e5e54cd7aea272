"""The bytes of a collection: stores of released versions are read for ever, to the same values."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
import zstandard

from memstore import ProductCodec, open_store
from memstore.storage import (
    Collection,
    NewShards,
    Pins,
    PosixStore,
    ShardContent,
    commit_delete,
    commit_shards,
)
from memstore.storage.shard import build_shard
from memstore.types import Passage

GOLDEN = Path(__file__).parent / "golden" / "store_v1"
CODES = [0, 1, 32_766, 32_767, 32_768, 32_769, 65_534, 65_535]
DICTIONARY = b"the golden store holds golden texts, " * 4
ENCODER_ID = "e" * 64

FIRST = [
    Passage(
        document_id="doc-é",
        number=0,
        title="A title",
        text="the golden store holds golden texts, this one too",
        start=0,
        end=49,
        num_tokens=8,
        metadata={"year": 1999, "lang": "en", "score": 0.5, "ok": True},
    ),
    Passage(document_id="doc-é", number=1, text="", start=49, end=49, num_tokens=1),
    Passage(
        document_id="b#2",
        number=0,
        title="日本",
        text="naïve 🐟",
        start=5,
        end=12,
        num_tokens=3,
        metadata={"year": -(2**63), "lang": "", "ok": False},
    ),
]
SECOND = [
    Passage(
        document_id="later",
        number=7,
        text="added in version 2",
        end=18,
        num_tokens=2,
        metadata={"source": "second", "year": 2024},
    )
]
FIRST_COLUMNS = {"year": "int64", "lang": "string", "score": "double", "ok": "bool"}
SECOND_COLUMNS = {"source": "string", "year": "int64"}
RECORDS = {
    "doc-é#0": CODES,
    "doc-é#1": [65_535],
    "b#2#0": [32_768, 0, 65_535],
    "later#7": [7, 40_000],
}


def golden_codec() -> ProductCodec:
    """One subspace of one dimension and all 65,536 codes: code k is worth about k / 256 - 128."""
    values = np.arange(65_536, dtype=np.float32) / 256 - 128
    return ProductCodec(values.astype(ml_dtypes.bfloat16).reshape(1, 65_536, 1))


def content(
    passages: Sequence[Passage], columns: dict[str, str], dictionary: bytes
) -> ShardContent:
    """What a shard of these passages holds; embedding i is the unit vector i of 4."""
    records = [code for passage in passages for code in RECORDS[passage.passage_id]]
    return ShardContent(
        passages=passages,
        embeddings=np.eye(4)[: len(passages)],
        records=np.array(records, np.uint16).reshape(-1, 1),
        metadata_columns=columns,
        dictionary=dictionary,
    )


def write_golden(folder: Path) -> None:
    """Write the golden store as this version does: two appends and a delete."""
    target = Collection(PosixStore(folder), "default")
    codec = golden_codec()
    target.put_codec(codec.id, dict(codec.files()))
    pins = Pins(
        encoder={"id": ENCODER_ID, "identity": {}, "options": {"source": "golden"}},
        codec_id=codec.id,
        memory_dim=1,
        embedding_dim=4,
        record_words=1,
    )
    for number, (passages, columns, dictionary) in enumerate(
        [(FIRST, FIRST_COLUMNS, DICTIONARY), (SECOND, SECOND_COLUMNS, b"")]
    ):
        entry = target.put_shard(content(passages, columns, dictionary), f"golden-{number}")
        new = NewShards(entries=[entry], metadata_columns=columns, job_id="golden")
        commit_shards(target, new, pins, "append")
    commit_delete(target, target.snapshot(), np.array([1]))


@pytest.fixture(params=["golden", "written now"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The store as version 1 wrote it, and as this code writes it."""
    if request.param == "golden":
        return GOLDEN
    write_golden(tmp_path)
    return tmp_path


def _shards(folder: Path) -> list[Path]:
    return sorted((folder / "default" / "shards").iterdir())


def test_passages_are_read_as_they_were_written(folder: Path) -> None:
    """Text, span, title and metadata of all types, through a dictionary and without."""
    store = open_store(folder)

    fetched = store.fetch([passage.passage_id for passage in FIRST + SECOND], version=2)

    assert list(fetched.passages) == FIRST + SECOND
    assert fetched.encoder_id == ENCODER_ID


def test_codes_are_read_as_they_were_written(folder: Path) -> None:
    """All sixteen bits, also where an int16 is negative; and decoded to the same vectors."""
    fetched = open_store(folder).fetch(list(RECORDS), version=2)

    for memory in fetched.memories:
        codes = RECORDS[memory.passage_id]
        assert memory.records.ravel().tolist() == codes
        wanted = (np.array(codes, np.float32) / 256 - 128).astype(ml_dtypes.bfloat16)
        assert np.array_equal(memory.decode().ravel(), wanted.astype(np.float32))


def test_versions_are_read_as_they_were_written(folder: Path) -> None:
    """Rows, deletions and columns of each."""
    store = open_store(folder)

    assert [(v.version, v.operation, v.num_passages, v.num_deleted) for v in store.versions()] == [
        (1, "append", 3, 0),
        (2, "append", 4, 0),
        (3, "delete", 3, 1),
    ]
    assert store.collection_info().metadata_columns == {**FIRST_COLUMNS, **SECOND_COLUMNS}
    assert store.collection_info().encoder_source == "golden"
    assert [store.verify(version=version).problems for version in (1, 2, 3)] == [()] * 3


def test_the_store_is_searched_as_before(folder: Path) -> None:
    """Nearest first, the deleted passage not at all; filters see both shards."""
    store = open_store(folder)
    question = np.array([0.5, 1, 0.25, 0], np.float32)

    hits = store.search(question).hits

    assert [(hit.passage_id, hit.score) for hit in hits] == [
        ("doc-é#0", 0.5),
        ("later#7", 0.5),
        ("b#2#0", 0.25),
    ]
    where = "year > 2000 or lang = ''"
    assert [hit.passage_id for hit in store.search(question, where=where).hits] == [
        "later#7",
        "b#2#0",
    ]


def test_a_shard_is_one_record_batch_with_the_codes_last(folder: Path) -> None:
    """As docs/format.md has it: types, order, and no nulls but in the metadata."""
    for path in _shards(folder):
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            schema = reader.schema
            assert reader.num_record_batches == 1
        columns = json.loads(json.dumps([(field.name, str(field.type)) for field in schema]))
        assert columns[:7] == [
            ["passage_id", "string"],
            ["document_id", "string"],
            ["number", "int32"],
            ["title", "string"],
            ["start", "int32"],
            ["end", "int32"],
            ["num_tokens", "int32"],
        ]
        assert columns[-4:] == [
            ["embedding", "fixed_size_list<value: halffloat not null>[4]"],
            ["text", "binary"],
            ["crc32c", "uint32"],
            ["codes", "list<record: fixed_size_list<word: int16 not null>[1] not null>"],
        ]
        metadata = [field.name for field in schema if field.nullable]
        assert metadata == sorted(metadata) == [name for name, _ in columns[7:-4]]


def test_plain_arrow_reads_the_codes(folder: Path) -> None:
    """As signed words of the same bits."""
    first, second = (
        pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in _shards(folder)
    )

    rows = [*first.column("codes").to_pylist(), *second.column("codes").to_pylist()]

    words = [np.array(row, np.int16).view(np.uint16).ravel().tolist() for row in rows]
    assert words == list(RECORDS.values())


def test_the_codes_lie_uncompressed_where_the_list_says(folder: Path) -> None:
    """At a multiple of 64 bytes: a passage is one slice of the file."""
    collection = Collection(PosixStore(folder), "default")
    entries = list(collection.entries(collection.manifest(3)))

    for entry, path, names in zip(
        entries, _shards(folder), [list(RECORDS)[:3], list(RECORDS)[3:]], strict=True
    ):
        data = path.read_bytes()
        codes = np.array([code for name in names for code in RECORDS[name]], "<u2").tobytes()
        assert entry.codes_offset % 64 == 0
        assert data[entry.codes_offset : entry.codes_offset + entry.codes_bytes] == codes
        assert hashlib.sha256(data).hexdigest() == entry.sha256
        assert path.name.endswith(f"-{entry.sha256[:16]}.arrow")


def test_the_folder_is_laid_out_as_documented(folder: Path) -> None:
    """Names by number or by digest, and nothing else."""
    found = sorted(
        path.relative_to(folder / "default").as_posix()
        for path in (folder / "default").rglob("*")
        if path.is_file()
    )

    assert [name for name in found if name.startswith("versions/")] == [
        *(f"versions/{number:020d}.json" for number in (1, 2, 3)),
        "versions/LATEST",
    ]
    for name in found:
        kind, _, rest = name.partition("/")
        data = (folder / "default" / name).read_bytes()
        if kind in {"lists", "deletes", "dicts"}:
            assert rest.split(".")[0] == hashlib.sha256(data).hexdigest()
        if rest.endswith("config.json"):
            assert rest == f"{hashlib.sha256(data).hexdigest()}/config.json"
    assert {name.partition("/")[0] for name in found} == {
        "codecs",
        "deletes",
        "dicts",
        "lists",
        "shards",
        "versions",
    }


def test_manifests_and_lists_hold_what_is_documented(folder: Path) -> None:
    """Every field, and no other."""
    sealed = json.loads((folder / f"default/versions/{3:020d}.json").read_bytes())
    body = sealed["body"]
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert sealed["sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert set(body) == {
        "format_version", "collection", "version", "parent", "commit_id", "created_at",
        "operation", "job_id", "encoder", "codec_id", "memory_dim", "embedding_dim",
        "record_words", "metadata_columns", "shard_lists",
    }  # fmt: skip
    for ref in body["shard_lists"]:
        assert set(ref) == {
            "digest", "num_shards", "num_passages", "num_tokens", "num_bytes", "deletes",
            "num_deleted",
        }  # fmt: skip
        packed = (folder / f"default/lists/{ref['digest']}.json.zst").read_bytes()
        (entry,) = json.loads(zstandard.ZstdDecompressor().decompress(packed))
        assert set(entry) == {
            "shard_id", "num_bytes", "sha256", "head_sha256", "codes_offset", "codes_bytes",
            "num_passages", "num_tokens", "dictionary",
        }  # fmt: skip


DIGEST = """
import sys
sys.path.insert(0, sys.argv[1])
from test_shard_format import DICTIONARY, FIRST, FIRST_COLUMNS, content
from memstore.storage.shard import build_shard
print(build_shard(content(FIRST, FIRST_COLUMNS, DICTIONARY), "name")[1].sha256)
"""


def test_the_same_input_gives_the_same_shard_in_another_process() -> None:
    """Whatever the hash seed: work that is done again makes the same name."""
    here = Path(__file__).parent
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, str(here)],
            env={"PYTHONPATH": str(here.parents[1]), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    _, entry = build_shard(content(FIRST, FIRST_COLUMNS, DICTIONARY), "name")
    assert digests == {entry.sha256}


def test_the_golden_store_is_small() -> None:
    """It travels with the source."""
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 200_000
