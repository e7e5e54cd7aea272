"""Corpora to documents to passages.

`open_corpus` finds the files and their layout, `scan` reads them once and cuts partitions,
`read_partition` gives the documents of one, and `TokenWindowSplitter` cuts a document into passages
of an encoder's tokens.

Does not: run a model or store anything; nor import a parser before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memstore.text.corpus import Corpus, open_corpus
    from memstore.text.files import InputFile
    from memstore.text.layouts import LAYOUTS
    from memstore.text.metadata import (
        RESERVED_COLUMNS,
        ColumnTypes,
        check_column_name,
        coerce_metadata,
        coerce_row,
    )
    from memstore.text.partitions import Partition, Slice, read_partition
    from memstore.text.records import BadRecord, RecordFields
    from memstore.text.scanning import CorpusScan, FileDigest, scan
    from memstore.text.windows import TEMPLATES, TokenWindowSplitter, load_tokenizer

_MODULES = {
    "LAYOUTS": "layouts",
    "RESERVED_COLUMNS": "metadata",
    "TEMPLATES": "windows",
    "BadRecord": "records",
    "ColumnTypes": "metadata",
    "Corpus": "corpus",
    "CorpusScan": "scanning",
    "FileDigest": "scanning",
    "InputFile": "files",
    "Partition": "partitions",
    "RecordFields": "records",
    "Slice": "partitions",
    "TokenWindowSplitter": "windows",
    "check_column_name": "metadata",
    "coerce_metadata": "metadata",
    "coerce_row": "metadata",
    "load_tokenizer": "windows",
    "open_corpus": "corpus",
    "read_partition": "partitions",
    "scan": "scanning",
}

__all__ = [
    "LAYOUTS",
    "RESERVED_COLUMNS",
    "TEMPLATES",
    "BadRecord",
    "ColumnTypes",
    "Corpus",
    "CorpusScan",
    "FileDigest",
    "InputFile",
    "Partition",
    "RecordFields",
    "Slice",
    "TokenWindowSplitter",
    "check_column_name",
    "coerce_metadata",
    "coerce_row",
    "load_tokenizer",
    "open_corpus",
    "read_partition",
    "scan",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
