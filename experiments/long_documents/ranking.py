"""Passages and questions through the store's own splitter and encoder: where the gold one comes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from experiments.long_documents.task import Test
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.types import TokenizedPassage


def rank(test: Test, options: EncoderOptions, *, is_whole: bool) -> np.ndarray:
    """Return the rank of the gold passage of each question, (Q,) int64, 1 if it is the best.

    Args:
        test: documents and questions.
        options: of the encoder.
        is_whole: documents are read whole; else each passage is a document of its own. Of an
            encoder that reads passages alone, it is always so.
    """
    encoder, splitter = load_encoder(options, device="cpu"), load_splitter(options)
    passages = [passage for each in test.documents for passage in splitter.split(each)]
    given = passages if is_whole else [*map(_alone, passages)]
    vectors = np.empty((len(passages), encoder.identity.embedding_dim), np.float32)
    for batch in encoder.encode(given):
        vectors[batch.rows] = batch.embeddings
    gold = _gold(test, passages)
    scores = encoder.embed([each.text for each in test.questions]) @ vectors.T  # (Q, P)
    of_gold = scores[np.arange(len(gold)), gold]
    ranks: np.ndarray = 1 + (scores > of_gold[:, None]).sum(axis=1)
    return ranks


def _alone(tokenized: TokenizedPassage) -> TokenizedPassage:
    passage = tokenized.passage
    passage = replace(passage, document_id=passage.passage_id, number=0)
    return replace(tokenized, passage=passage, is_last=True)


def _gold(test: Test, passages: Iterable[TokenizedPassage]) -> np.ndarray:
    """Return the passage that holds the place of each answer."""
    starts: dict[str, list[int]] = {}
    first: dict[str, int] = {}
    for row, each in enumerate(passages):
        first.setdefault(each.passage.document_id, row)
        starts.setdefault(each.passage.document_id, []).append(each.passage.start)
    return np.array(
        [
            first[asked.document_id]
            + int(np.searchsorted(starts[asked.document_id], asked.place, side="right"))
            - 1
            for asked in test.questions
        ]
    )
