"""Takes a sample of what a corpus leaves in the queue of a session's model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from encoder_jobs.prepare import choose_sampled
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.stages import use_all_cores
from encoder_jobs.training_text import TextInputs
from memstore.codec.sample import Sample
from memstore.errors import ConfigError, ShapeError
from memstore.sessions import SessionModel
from memstore.text import BadRecord, Partition, read_partition

_CHARS_A_TOKEN = 16  # more than tokenizers of text make of one, on average


def sample_queues(
    inputs: TextInputs, model_folder: Path, num_entries: int, display: ProgressDisplay
) -> Sample:
    """Read documents as sessions would; the work of `memstore session sample`.

    Args:
        inputs: the documents, a stream each; the tokenizer is the model's, whatever they say.
        model_folder: of the model that sessions are opened with.
        num_entries: about so many are taken, or what there is: the same number from each of up to
            32 places spread over the corpus, of documents read from their start as far as a queue
            reaches, or further if they are few.
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
    partitions = choose_sampled(scanned.partitions)
    share = -(-num_entries // (per_window * max(1, scanned.num_documents)))
    num_windows = max(share, model.config.queue_windows)
    use_all_cores()
    found: list[np.ndarray] = []
    num_taken = 0
    for number, partition in enumerate(partitions, 1):
        for text in _texts(partition):
            if num_taken * len(partitions) >= num_entries * number:
                break
            found.append(_entries(model, text, num_windows))
            num_taken += len(found[-1])
            display.update("reading as sessions do, entries", num_taken, num_entries)
    lengths = [len(entries) for entries in found if len(entries)]
    if not lengths:
        raise ShapeError(
            f"{inputs.corpus}: {len(found)} of {scanned.num_documents} documents were read, and "
            f"none has a window of {model.config.window} tokens; give longer ones"
        )
    return Sample(
        np.concatenate(found),
        offsets=np.cumsum([0, *lengths]),
        documents=np.arange(len(lengths), dtype=np.int32),
    )


def _entries(model: SessionModel, text: str, num_windows: int) -> np.ndarray:
    """Return what the first windows of a document leave; of a longer text only as much is tokenized
    as may be needed.
    """
    most_chars = _CHARS_A_TOKEN * model.config.window * num_windows
    return model.entries(text[:most_chars], max_windows=num_windows)


def _texts(partition: Partition) -> Iterator[str]:
    """Yield the documents that hold a text."""
    for item in read_partition(partition):
        if not isinstance(item, BadRecord) and item.text.strip():
            yield item.text
