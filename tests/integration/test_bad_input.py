"""Bad input at the command line: each its exit code and a message that says what to mend; never a
traceback (the `cli` fixture fails on one).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard

from memstore import Passage, open_store
from memstore.errors import ShapeError
from memstore.text.files import MAX_RECORD_BYTES
from tests.integration.conftest import Done
from tests.tiny import make_records, write_jsonl

Cli = Callable[..., Done]
Encode = Callable[..., Done]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three good documents."""
    return write_jsonl(tmp_path / "corpus.jsonl", make_records(3))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose users brought the memories, 8 wide: it needs no encoder to be asked by id."""
    folder = tmp_path_factory.mktemp("filled") / "store"
    rng = np.random.default_rng(0)
    passages = [
        Passage(document_id="doc", number=n, text="cold water", metadata={"year": n})
        for n in range(40)
    ]
    memories = [rng.standard_normal((4, 8), dtype=np.float32) for _ in passages]
    open_store(folder).write(passages, memories)
    return folder


def _with_line(corpus: Path, line: bytes) -> Path:
    lines = corpus.read_bytes().splitlines(keepends=True)
    lines.insert(1, line + b"\n")
    corpus.write_bytes(b"".join(lines))
    return corpus


def test_a_missing_corpus(encode: Encode, tmp_path: Path) -> None:
    """Not found, by name."""
    done = encode(tmp_path / "nowhere.jsonl")

    assert done.code == 3
    assert "nowhere.jsonl: no such file or folder" in done.err


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "x", "text": ', "broken JSON at column 21"),
        (b'{"id": "x", "text": "\xff"}', "invalid UTF-8 at byte 22"),
        (b'["x", "y"]', "the line is an array, wanted a JSON object"),
        (b'{"id": "", "text": "y"}', "the id is empty"),
    ],
)
def test_a_broken_line_is_left_out_by_number(
    encode: Encode, corpus: Path, line: bytes, reason: str
) -> None:
    """Exit code 5; the dead-letter file has line 2 and the reason."""
    done = encode(_with_line(corpus, line))

    letters = Path(done.json()["dead_letters"]).read_text(encoding="utf-8")
    assert done.code == 5
    assert '"record": 2' in letters
    assert reason in letters


def test_a_corpus_of_broken_lines_is_refused(encode: Encode, tmp_path: Path) -> None:
    """More bad records than are allowed: nothing is encoded, and the first are named."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("{\n" * 12)

    done = encode(corpus)

    assert done.code == 2
    assert "corpus.jsonl:1 broken JSON" in done.err


def test_a_line_of_a_gibibyte_is_never_held(encode: Encode, tmp_path: Path) -> None:
    """It is passed over, and the file that it is in is refused as a bomb only if it is packed as
    one.
    """
    good = b'{"id": "a", "text": "cold water"}\n'
    corpus = tmp_path / "sparse.jsonl"
    with corpus.open("wb") as file:
        file.write(good)
        file.seek(1 << 30, os.SEEK_CUR)  # a hole: zeros that take no space
        file.write(b"\n" + good.replace(b'"a"', b'"b"'))

    done = encode(corpus)

    assert done.code == 5
    assert done.json()["num_documents"] == 2
    letters = Path(done.json()["dead_letters"]).read_text(encoding="utf-8")
    assert f"longer than {MAX_RECORD_BYTES:,} bytes" in letters


def test_a_zstandard_bomb(encode: Encode, tmp_path: Path) -> None:
    """A gibibyte in some kilobytes is refused before it is read to the end."""
    compressor = zstandard.ZstdCompressor().compressobj()
    piece = bytes(1 << 22)
    packed = [compressor.compress(piece) for _ in range(256)]
    (tmp_path / "bomb.jsonl.zst").write_bytes(b"".join([*packed, compressor.flush()]))

    done = encode(tmp_path / "bomb.jsonl.zst", "--layout", "jsonl")

    assert done.code == 2
    assert "200:1" in done.err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the corpus is empty: 0 documents"),
        ('{"id": "a", "text": ""}\n', "the corpus is empty"),
        ('{"id": "a", "text": " \\n "}\n', "not one passage"),
    ],
)
def test_a_corpus_without_text(encode: Encode, tmp_path: Path, content: str, reason: str) -> None:
    """Nothing to encode is an error, not an empty collection."""
    (tmp_path / "corpus.jsonl").write_text(content)

    done = encode(tmp_path / "corpus.jsonl")

    assert done.code == 2
    assert reason in done.err
    assert not list((tmp_path / "store").glob("*/versions/*"))


def test_an_empty_folder(encode: Encode, tmp_path: Path) -> None:
    """Named, with what it should hold."""
    (tmp_path / "empty").mkdir()

    done = encode(tmp_path / "empty")

    assert done.code == 2
    assert str(tmp_path / "empty") in done.err


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--encoder", "./no-such-encoder"), 3, "./no-such-encoder"),
        (("--mode", "merge"), 2, "append, upsert, replace"),
        (("--layout", "xml"), 2, "jsonl"),
        (("--live-fraction", "1/2"), 2, "wanted whole layers: the nearest are 1/3 and 2/3"),
        (("--live-fraction", "half"), 2, "a fraction from 0 to 1"),
        (("--window-tokens", 1000), 2, "at most 140"),
        (("--window-tokens", 2), 2, "nothing is left for text"),
        (("--stride-tokens", 31), 2, "stride_tokens"),
        (("--template", "{body}"), 2, "{title} {text}"),
        (("--codec", "no-such-codec"), 3, "no such folder, and collection 'default' holds no"),
        (("--codec", "../no-such-codec"), 3, "full id"),
        (("--collection", "A b"), 2, "collection name"),
        (("--partition-bytes", 0), 2, "at least 1"),
        (("--codec-sample-tokens", 0), 2, "at least 1"),
        (("--max-bad-fraction", 2), 2, "0 to 1"),
        (("--id-field", "nope"), 2, "no field 'nope' for the id"),
        (("--ray", ""), 2, "--ray is empty"),
        (("--nonsense",), 2, "No such option"),
        (("--window-tokens", "many"), 2, "not a valid integer|valid integer"),
    ],
)
def test_bad_options_of_encode(
    encode: Encode,
    corpus: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    code: int,
    reason: str,
) -> None:
    """Each is refused before anything is published."""
    done = encode(corpus, *options)

    assert done.code == code
    assert any(wanted in done.err for wanted in reason.split("|"))
    assert not list((tmp_path / "store").glob("*/versions/*"))


def test_a_store_that_is_a_file(encode: Encode, cli: Cli, corpus: Path) -> None:
    """Neither written to nor read."""
    written = encode(corpus, store=corpus)
    read = cli("query", "water", "--store", corpus)

    assert (written.code, read.code) == (2, 3)
    assert "is a file" in written.err
    assert str(corpus) in read.err


def test_a_store_below_a_file(encode: Encode, corpus: Path) -> None:
    """The system's reason is given."""
    done = encode(corpus, store=corpus / "store")

    assert done.code == 75
    assert "Not a directory" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("query", "water", "--top-k", 0), 2, "wanted 1 to 1000"),
        (("query", "water", "--top-k", 10**9), 2, "wanted 1 to 1000"),
        (("query", "water"), 4, "search it by vector"),
        (("query", "water", "--collection", "other"), 3, "no collection 'other'"),
        (("query", "water", "--version", 7), 3, "no version 7"),
        (("fetch", "doc#99"), 3, "doc#99"),
        (("collection", "delete", "--where", "year >"), 2, "position 6"),
        (("collection", "delete", "--where", "colour = 'red'"), 2, "no column 'colour'"),
        (("collection", "delete", "--where", "year = 'red'"), 2, "literal of type int64"),
        (("collection", "delete"), 2, "one of passage_ids, document_ids and where"),
        (("collection", "show", "other"), 3, "no collection 'other'"),
        (("collection", "gc", "--keep-versions", 0), 2, "at least 1"),
        (("collection", "show", "--output", "xml"), 2, "'xml' is not one of"),
        (("job", "show", "nope"), 3, "no job 'nope'"),
    ],
)
def test_bad_requests_to_a_store(
    cli: Cli, filled: Path, arguments: tuple[object, ...], code: int, reason: str
) -> None:
    """Each has its exit code and says what was wanted."""
    done = cli(*arguments, "--store", filled)

    assert done.code == code
    assert reason in done.err
    assert done.out == ""


def test_a_store_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    """Reading does not make one."""
    done = cli("collection", "ls", "--store", tmp_path / "nowhere")

    assert done.code == 3
    assert "no such folder" in done.err
    assert not (tmp_path / "nowhere").exists()


def test_a_query_of_neither_store_nor_server(cli: Cli) -> None:
    """The two ways are named."""
    done = cli("query", "water")

    assert done.code == 2
    assert "--store" in done.err
    assert "--server" in done.err


def test_a_server_that_is_not_there(cli: Cli) -> None:
    """Retry later, with the address."""
    done = cli("query", "water", "--server", "127.0.0.1:1")

    assert done.code == 75
    assert "127.0.0.1:1" in done.err


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (np.zeros(7, np.float32), "wanted (8,)"),
        (np.zeros((1, 8), np.float32), "wanted (8,)"),
        (np.array([*[1.0] * 7, np.nan]), "NaN"),
        (np.array([*[1.0] * 7, np.inf]), "infinity"),
    ],
)
def test_a_vector_of_the_wrong_width_or_with_nan(
    filled: Path, vector: np.ndarray, reason: str
) -> None:
    """Refused with the width that is wanted."""
    with pytest.raises(ShapeError) as caught:
        open_store(filled).search(vector)

    assert reason in str(caught.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not _system("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder):
        pytest.skip("mounting a small file system needs root, and a system that lets it")
    yield folder
    _system("umount", "--lazy", folder)


def _system(command: str, *arguments: object) -> bool:
    path = shutil.which(command, path="/usr/sbin:/usr/bin:/sbin:/bin")
    words = [path or command, *map(str, arguments)]
    return (
        path is not None and not subprocess.run(words, capture_output=True, check=False).returncode
    )


def test_a_disk_that_fills_up(encode: Encode, tmp_path: Path, small_disk: Path) -> None:
    """The error says so, nothing is published, and with space the same command goes on."""
    corpus = write_jsonl(tmp_path / "long.jsonl", make_records(150))

    done = encode(corpus, store=small_disk / "store")

    assert done.code == 1
    assert "no space left while writing" in done.err
    assert "run it again" in done.err
    assert not list((small_disk / "store").glob("*/versions/*"))
    assert not list((small_disk / "store").glob("**/.tmp-*"))
    assert _system("mount", "-o", "remount,size=8m", small_disk)
    again = encode(corpus, store=small_disk / "store")
    assert again.code == 0
    assert 0 < again.json()["num_encoded"] < again.json()["num_partitions"]
