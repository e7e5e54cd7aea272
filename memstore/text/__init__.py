"""Corpora to documents to passages.

`open_corpus` finds the files and their layout, `scan` reads them once and cuts partitions,
`read_partition` gives the documents of one, and `TokenWindowSplitter` cuts a document into passages
of an encoder's tokens.

Does not: run a model or store anything.
"""

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
