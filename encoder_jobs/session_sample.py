"""Takes a sample of what a corpus leaves in the queue of a session's model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.stages import use_all_cores
from encoder_jobs.training_text import TextInputs
from memstore.codec.sample import Sample
from memstore.errors import ConfigError, ShapeError
from memstore.sessions import SessionModel
from memstore.text import BadRecord, Partition, read_partition


def sample_queues(
    inputs: TextInputs, model_folder: Path, num_entries: int, display: ProgressDisplay
) -> Sample:
    """Read documents as sessions would; the work of `memstore session sample`.

    Args:
        inputs: the documents, a stream each; the tokenizer is the model's, whatever they say.
        model_folder: of the model that sessions are opened with.
        num_entries: about so many are taken: of documents spread over the corpus, the same number
            of windows each, the first.
        display: is told of the progress.

    Returns:
        (N, D) float32 entries; `offsets` and `documents` say which document each is of.

    Raises:
        ConfigError, InvalidInputError, NotFoundError: as `SessionModel.from_pretrained` and
            `memstore.text.open_corpus`, before any document is read.
        ShapeError: if no document fills a window.
    """
    if num_entries < 1:
        raise ConfigError(f"entries: got {num_entries}, wanted 1 or more")
    model = SessionModel.from_pretrained(model_folder)
    per_window = model.config.num_long_tokens
    if not per_window:
        raise ConfigError(f"{model_folder}: the model keeps no queue; a codec has nothing to learn")
    scanned = inputs.scan(inputs.corpus, display)
    # Every so many documents, so many windows of each: spread over the corpus and its documents.
    step = max(1, scanned.num_documents * per_window // num_entries)
    num_streams = -(-scanned.num_documents // step)
    num_windows = -(-num_entries // (per_window * max(1, num_streams)))
    use_all_cores()
    found: list[np.ndarray] = []
    num_taken = 0
    for text in islice(_texts(scanned.partitions), 0, None, step):
        found.append(model.entries(text, max_windows=num_windows))
        num_taken += len(found[-1])
        display.update("reading as sessions do, entries", min(num_taken, num_entries), num_entries)
        if num_taken >= num_entries:
            break
    lengths = [len(entries) for entries in found if len(entries)]
    if not lengths:
        raise ShapeError(
            f"{inputs.corpus}: {len(found)} documents that leave nothing in the queue; wanted one "
            f"of {model.config.window} tokens or more"
        )
    return Sample(
        np.concatenate(found),
        offsets=np.cumsum([0, *lengths]),
        documents=np.arange(len(lengths), dtype=np.int32),
    )


def _texts(partitions: Sequence[Partition]) -> Iterator[str]:
    """Yield the documents that hold a text."""
    for partition in partitions:
        for item in read_partition(partition):
            if not isinstance(item, BadRecord) and item.text.strip():
                yield item.text
