"""A corpus: which files make it, and by which layout they are read.

The layout is told from the suffix, and from the first record where several layouts share a suffix:

| suffix (then .gz or .zst, if compressed) | layouts |
|---|---|
| .jsonl .ndjson .json | kilt if the text is an array, beir if there is an `_id`, else jsonl |
| .tsv | dpr if it starts with its header, msmarco if it has two columns |
| .parquet | parquet |
| .arrow .feather .ipc | arrow |
| .txt .md | text |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from memstore.errors import ConfigError, InvalidInputError, NotFoundError, StorageError
from memstore.text.files import (
    InputFile,
    check_name,
    list_files,
    open_stream,
    read_lines,
    split_compression,
)
from memstore.text.layouts import DPR_HEADER, LAYOUTS, load_object
from memstore.text.records import RecordError, RecordFields
from memstore.text.tables import TABLE_LAYOUTS, check_columns

GENERIC_LAYOUTS = ("jsonl", *TABLE_LAYOUTS)
"""Layouts whose id, text and title fields the caller may name."""

_FAMILIES = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
    ".txt": "text", ".md": "text",
}  # fmt: skip
_FAMILY_OF_LAYOUT = {
    "jsonl": "json", "beir": "json", "kilt": "json",
    "dpr": "tsv", "msmarco": "tsv",
    "parquet": "parquet", "arrow": "arrow", "text": "text",
}  # fmt: skip
_BEIR_NAMES = ("corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst")
_PEEK_LINES = 100


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files of a corpus, of one layout, by name.

    Attributes:
        files: what to read, in order.
        layout: how all of them are read.
        fields: names of the id, text and title fields in generic layouts.
    """

    files: tuple[InputFile, ...]
    layout: str
    fields: RecordFields

    @property
    def num_bytes(self) -> int:
        """Stored length of all files."""
        return sum(file.num_bytes for file in self.files)


def open_corpus(
    path: str | Path,
    *,
    layout: str = "auto",
    id_field: str | None = None,
    text_field: str | None = None,
    title_field: str | None = None,
) -> Corpus:
    """Find the files of a corpus and settle their layout.

    Reads no more than the first records, or the columns of tables; a compressed table is unpacked
    for that.

    Args:
        path: a file, or a folder: a BEIR folder stands for its `corpus.jsonl`, any other for all
            files of known suffixes below it (hidden files and links out of the folder are left
            out).
        layout: `"auto"` or a name of `layouts.LAYOUTS`.
        id_field: name of the id field or column in jsonl, parquet and arrow; None: `id` or `_id`.
        text_field: name of the text field there; None: `text`.
        title_field: name of the title field there; None: `title`, if there is one.

    Raises:
        NotFoundError: if there is nothing at `path`.
        ConfigError: if the layout is unknown, cannot be told, is mixed, or lacks a field.
        InvalidInputError: if a folder has no input file, or a file cannot be read by its layout.
        StorageError: if the disk fails.
    """
    fields = RecordFields(id_field, text_field, title_field)
    _check_options(layout, fields)
    path = Path(path)
    if not _exists(path):
        raise NotFoundError(f"{path}: no such file or folder; give the corpus to read")
    if path.is_dir():
        found = _find_in_folder(path, layout)
    elif path.is_file():
        found = [(check_name(path.name), path)]
    else:
        raise ConfigError(f"{path}: neither a file nor a folder; save the corpus to a file first")
    if layout == "auto":
        layout = _detect_layout(found, fields)
    files = tuple(_input_file(name, where, layout) for name, where in found)
    if layout in TABLE_LAYOUTS:
        for file in files:
            check_columns(file, fields)
    return Corpus(files, layout, fields)


def _check_options(layout: str, fields: RecordFields) -> None:
    if layout not in ("auto", *LAYOUTS):
        raise ConfigError(f"layout: got '{layout}', wanted one of auto, {', '.join(LAYOUTS)}")
    if fields.are_given and layout not in ("auto", *GENERIC_LAYOUTS):
        raise ConfigError(
            f"the layout '{layout}' has fixed fields: id_field, text_field and title_field are for"
            f" {', '.join(GENERIC_LAYOUTS)}; leave them out or choose one of these"
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as err:
        raise StorageError(f"{path}: cannot look there: {err.strerror}") from err


def _input_file(name: str, path: Path, layout: str) -> InputFile:
    try:
        num_bytes = path.stat().st_size
    except OSError as err:
        raise StorageError(f"{path}: cannot read its size: {err.strerror}") from err
    return InputFile(name, path.absolute(), num_bytes, layout)


def _find_in_folder(folder: Path, layout: str) -> list[tuple[str, Path]]:
    if layout in ("auto", "beir"):
        for name in _BEIR_NAMES:
            if (folder / name).is_file():
                return [(name, folder / name)]
    files = [(name, path) for name, path in list_files(folder) if _family(name) is not None]
    if layout != "auto":
        files = [file for file in files if _family(file[0]) == _FAMILY_OF_LAYOUT[layout]]
    if not files:
        kinds = [kind for kind, family in _FAMILIES.items() if _family_fits(family, layout)]
        raise InvalidInputError(
            f"{folder}: the corpus is empty: no file ends in {', '.join(kinds)}"
            " (or these with .gz or .zst)"
        )
    return files


def _family_fits(family: str, layout: str) -> bool:
    return layout == "auto" or family == _FAMILY_OF_LAYOUT[layout]


def _family(name: str) -> str | None:
    return _FAMILIES.get(Path(split_compression(name)[0]).suffix.lower())


def _detect_layout(files: list[tuple[str, Path]], fields: RecordFields) -> str:
    examples: dict[str | None, str] = {}
    for name, _ in files:
        examples.setdefault(_family(name), name)
    if len(examples) > 1:
        raise ConfigError(
            f"the folder mixes layouts: {', '.join(examples.values())}; name one with the layout"
            " option, or move the other files away"
        )
    family, name = next(iter(examples.items()))
    if family is None:
        raise ConfigError(
            f"{name}: unknown suffix, wanted one of {', '.join(_FAMILIES)} (or these with .gz or"
            f" .zst); name the layout: {', '.join(LAYOUTS)}"
        )
    if family in ("json", "tsv"):
        family = _detect_json(files) if family == "json" else _detect_tsv(files)
        if fields.are_given and family in ("beir", "kilt"):
            family = "jsonl"  # the caller says which fields count
    _check_options(family, fields)
    return family


def _detect_json(files: list[tuple[str, Path]]) -> str:
    for line in _first_lines(files):
        try:
            record = load_object(line)
        except RecordError:
            continue
        if isinstance(record.get("text"), list):
            return "kilt"
        return "beir" if "_id" in record else "jsonl"
    return "jsonl"


def _detect_tsv(files: list[tuple[str, Path]]) -> str:
    for line in _first_lines(files):
        columns = line.decode(errors="replace").split("\t")
        if columns == DPR_HEADER:
            return "dpr"
        if len(columns) != 2:
            raise ConfigError(
                f"{files[0][0]}: {len(columns)} columns in the first line, wanted 2 (id, text:"
                " msmarco) or the header id, text, title (dpr); name the layout"
            )
        return "msmarco"
    return "msmarco"


def _first_lines(files: list[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield the first lines of the first file that has any, blank and overlong ones left out."""
    for _, path in files:
        found = False
        with open_stream(path) as stream:
            for line, _ in islice(read_lines(stream), _PEEK_LINES):
                line = (line or b"").removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    found = True
                    yield line
        if found:
            return
