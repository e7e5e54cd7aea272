"""Token memories of real text: whole documents for training, whole documents held out, Cranfield.

Does not: read the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encoder_jobs.codec_training import encode_vocabulary as encode_vocabulary_of
from encoder_jobs.progress import ProgressDisplay
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.types import Document


def encode(documents: Sequence[Document], to: Path) -> None:
    """Save vectors (T, D) float16, token ids (T,) int32, offsets (P + 1,) int64, documents (P,)."""
    options = EncoderOptions()
    splitter = load_splitter(options)
    passages, owners = [], []
    for number, document in enumerate(documents):
        cut = splitter.split(document)
        passages.extend(cut)
        owners.extend([number] * len(cut))
    lengths = np.array([len(p.token_ids) for p in passages])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    encoder = load_encoder(options)
    dim = encoder.identity.memory_dim
    vectors = np.lib.format.open_memmap(
        f"{to}.vectors.npy", "w+", np.float16, (int(offsets[-1]), dim)
    )
    step = 2000
    for first in range(0, len(passages), step):
        for batch in encoder.encode(passages[first : first + step]):
            for i, row in enumerate(batch.rows):
                at = offsets[first + row]
                memory = batch.memories[batch.offsets[i] : batch.offsets[i + 1]]
                vectors[at : at + len(memory)] = memory
        print(to, first, len(passages), flush=True)
    np.save(f"{to}.ids.npy", np.concatenate([p.token_ids for p in passages]))
    np.save(f"{to}.offsets.npy", offsets)
    np.save(f"{to}.documents.npy", np.array(owners))


def encode_vocabulary() -> np.ndarray:
    """Return (V, D) float32: the memory of every token alone."""
    options = EncoderOptions()
    work = encode_vocabulary_of(load_encoder(options), load_splitter(options))
    return ProgressDisplay(quiet=True).follow(work)
