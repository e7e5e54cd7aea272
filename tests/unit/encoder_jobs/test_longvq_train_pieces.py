"""Documents as pieces: where they are cut, what is hidden, what is to be told."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from encoder_jobs.longvq_pieces import Pieces, hide, stack
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_steps import NO_TARGET
from memstore.errors import ConfigError
from tests.tiny_longvq import tiny_config

VOCAB = 5000
MASKED = VOCAB - 1
LENGTHS = (30, 2, 9, 17, 8)


def make_pieces(
    *lengths: int, is_causal: bool = True, max_tokens: int = 8, seed: int = 0
) -> Pieces:
    """Return pieces of documents whose tokens say which document and place they are of."""
    documents = Ragged.of([1000 * number + np.arange(n) for number, n in enumerate(lengths)])
    config = tiny_config(vocab_size=VOCAB, is_causal=is_causal)
    return Pieces(documents, config, max_tokens=max_tokens, seed=seed)


def test_causal_pieces_tell_every_token_but_the_first_of_a_document() -> None:
    """Once each, from the token before it, also across a cut; none across a document's end."""
    pieces = make_pieces(*LENGTHS)

    rows = [pieces.read(each, 0) for each in range(len(pieces))]

    told = [pair for tokens, targets in rows for pair in zip(tokens, targets, strict=True)]
    wanted = [
        (1000 * number + place, 1000 * number + place + 1)
        for number, length in enumerate(LENGTHS)
        for place in range(length - 1)
    ]
    assert [(int(token), int(target)) for token, target in told] == wanted
    assert [len(tokens) for tokens, _ in rows] == [8, 8, 8, 5, 1, 8, 8, 8, 7]
    assert pieces.lengths.tolist() == [len(tokens) for tokens, _ in rows]


def test_denoising_pieces_follow_one_another() -> None:
    """A token that is left over alone is left out: nothing would be around it."""
    pieces = make_pieces(*LENGTHS, is_causal=False)

    rows = [pieces.read(each, 0) for each in range(len(pieces))]

    texts = [np.where(targets == NO_TARGET, tokens, targets).tolist() for tokens, targets in rows]
    assert [(text[0], text[-1]) for text in texts] == [
        (0, 7), (8, 15), (16, 23), (24, 29), (1000, 1001), (2000, 2007), (3000, 3007),
        (3008, 3015), (4000, 4007),
    ]  # fmt: skip
    assert all(b - a == 1 for text in texts for a, b in pairwise(text))
    assert pieces.lengths.tolist() == [len(text) for text in texts]


def test_hidden_tokens_are_the_last_id_and_what_is_to_be_told() -> None:
    """All others are shown, and count for nothing."""
    tokens, targets = make_pieces(400, is_causal=False, max_tokens=400).read(0, 3)

    is_hidden = tokens == MASKED
    assert is_hidden.sum() == 60
    assert targets[is_hidden].tolist() == np.flatnonzero(is_hidden).tolist()
    assert (targets[~is_hidden] == NO_TARGET).all()
    assert tokens[~is_hidden].tolist() == np.flatnonzero(~is_hidden).tolist()


def test_what_is_hidden_follows_from_seed_and_draw() -> None:
    """Another epoch hides other tokens of the same piece."""
    pieces, again, other = (
        make_pieces(300, is_causal=False, max_tokens=300, seed=seed) for seed in (1, 1, 2)
    )

    wanted = pieces.read(0, 5)[0]
    assert np.array_equal(again.read(0, 5)[0], wanted)
    assert not np.array_equal(pieces.read(0, 6)[0], wanted)
    assert not np.array_equal(other.read(0, 5)[0], wanted)


@pytest.mark.parametrize(
    ("length", "wanted"), [(2, 1), (3, 1), (7, 1), (17, 3), (100, 15), (4096, 614)]
)
def test_fifteen_percent_are_hidden_and_one_at_least(length: int, wanted: int) -> None:
    """Never all."""
    for seed in range(5):
        is_hidden = hide(length, np.random.default_rng(seed))

        assert (len(is_hidden), int(is_hidden.sum())) == (length, wanted)


def test_hidden_tokens_stand_in_short_spans_anywhere() -> None:
    """Of three on average, of one too, at either end too, and every place as often."""
    drawn = np.stack([hide(40, np.random.default_rng(seed)) for seed in range(4000)])

    starts = np.diff(np.pad(drawn, ((0, 0), (1, 0))).astype(int), axis=1) == 1
    assert set(starts.sum(axis=1).tolist()) == {2}
    assert np.abs(drawn[:, 3:-3].mean(axis=0) - 0.15).max() < 0.03
    assert drawn[:, 0].any()
    assert drawn[:, -1].any()
    spans = [len(span) for row in drawn for span in "".join(map(str, row.astype(int))).split("0")]
    assert set(spans) - {0} == {1, 2, 3, 4, 5}


def test_shorter_pieces_are_filled_up() -> None:
    """With what no mask shows and no target counts."""
    pieces = make_pieces(4, 7)

    batch = stack([pieces.read(each, 0) for each in range(2)], torch.device("cpu"))

    assert batch.tokens.tolist() == [[0, 1, 2, 0, 0, 0], [1000, 1001, 1002, 1003, 1004, 1005]]
    assert batch.mask.tolist() == [[True] * 3 + [False] * 3, [True] * 6]
    assert batch.targets[0].tolist() == [1, 2, 3, *[NO_TARGET] * 3]
    assert (batch.tokens.dtype, batch.targets.dtype) == (torch.int64, torch.int64)
    assert batch.num_targets == 9


def test_no_documents_and_documents_of_one_token_are_refused() -> None:
    """There is nothing to tell."""
    with pytest.raises(ConfigError, match="0 documents to read"):
        make_pieces()
    with pytest.raises(ConfigError, match="2 documents to read, the shortest of 1 tokens"):
        make_pieces(4, 1)
