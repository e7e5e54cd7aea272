"""The first look at a corpus: its files, its records, its partitions."""

from __future__ import annotations

from encoder_jobs.options import EncodeOptions
from encoder_jobs.progress import ProgressDisplay
from memstore.text import CorpusScan, open_corpus, scan


def scan_corpus(corpus: str, options: EncodeOptions, display: ProgressDisplay) -> CorpusScan:
    """Open a corpus and read it once, as `options` say, showing the progress.

    Raises:
        ConfigError, InvalidInputError, NotFoundError: as `memstore.text.open_corpus` and `scan`.
    """
    opened = open_corpus(
        corpus,
        layout=options.layout,
        id_field=options.id_field,
        text_field=options.text_field,
        title_field=options.title_field,
    )
    total = sum(file.num_bytes for file in opened.files)
    return scan(
        opened,
        partition_bytes=options.partition_bytes,
        max_bad_fraction=options.max_bad_fraction,
        progress=lambda done: display.update("reading the corpus, bytes", done, total),
    )
