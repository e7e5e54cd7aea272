"""Questions as token ids, and the batches that they are cut into."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.normalizers import Replace

from encoder_jobs.lumen_data import Examples, choose, collate
from encoder_jobs.ragged import Ragged
from memstore.errors import ConfigError
from tests.tiny_training import make_options, read_examples, save_small_t5

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder."""
    return save_small_t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture
def examples(t5: Path, tmp_path: Path) -> Examples:
    """Three questions, two of which share a passage."""
    records = [
        {"question": "the sea", "answers": ["cold"], "passages": ["cold sea", "ship"]},
        {"question": "a ship", "answers": ["sail", "old sail"], "passages": ["ship"]},
        {"question": "fog", "answers": ["bell"], "passages": ["bell of fog", "ship", "ship"]},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"id": n, **r}) + "\n" for n, r in enumerate(records)))
    return read_examples(path, make_options(t5))


def test_a_shared_passage_is_kept_once(examples: Examples) -> None:
    """And counts once for a question that names it twice."""
    assert len(examples.passages) == 3
    assert [examples.passages_of[number].tolist() for number in range(3)] == [[0, 1], [1], [2, 1]]


def test_answers_take_turns(examples: Examples) -> None:
    """Epoch by epoch; all end with the end token."""
    first, second, third = (examples.answer(1, epoch).tolist() for epoch in range(3))

    assert first == third != second
    assert {each[-1] for each in (first, second)} == {1}


def test_a_batch_holds_each_passage_once(examples: Examples) -> None:
    """Rows say whose it is; N where there is none."""
    batch = collate(examples, [(2, 0), (1, 0)], 0, CPU)

    assert batch.rows.tolist() == [[1, 0], [0, 2]]
    lengths = [len(examples.passages[row]) for row in (1, 2)]
    assert batch.passage_mask.sum(1).tolist() == lengths
    assert batch.passage_ids[0, : lengths[0]].tolist() == examples.passages[1].tolist()
    assert batch.labels.tolist() == [[*examples.answer(2, 0)], [*examples.answer(1, 0)]]
    assert batch.num_labels == 4
    uneven = collate(examples, [(1, 1), (0, 0)], 0, CPU)
    assert uneven.labels[1, 2:].tolist() == [-100] * (uneven.labels.shape[1] - 2)


def test_examples_come_back_from_tensors(examples: Examples) -> None:
    """As they are kept for later runs."""
    tensors = examples.to_tensors("train")

    again = Examples.from_tensors(tensors, "train", [list(each) for each in examples.texts])

    assert again.texts == examples.texts
    for name in ("questions", "passages", "passages_of", "answers", "answers_of"):
        for part in ("values", "offsets"):
            got, wanted = (getattr(getattr(each, name), part) for each in (again, examples))
            np.testing.assert_array_equal(got, wanted)


def test_every_epoch_sees_every_question_once() -> None:
    """In another order each, whatever the size of a batch."""
    seen = [
        each for step in range(1, 8) for each in choose(step, num_examples=7, batch_size=3, seed=0)
    ]

    assert Counter(seen) == {(number, epoch): 1 for number in range(7) for epoch in range(3)}
    epochs = [[number for number, at in seen if at == epoch] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert seen[:3] != choose(1, num_examples=7, batch_size=3, seed=1)


def test_rows_of_different_lengths_lie_side_by_side() -> None:
    """Also none at all, and rows of nothing."""
    rows = Ragged.of([[1, 2], [], [3]])

    assert [row.tolist() for row in (rows[0], rows[1], rows[2])] == [[1, 2], [], [3]]
    assert len(Ragged.of([])) == 0


def test_a_question_that_is_too_long_is_refused_with_its_line(t5: Path, tmp_path: Path) -> None:
    """It is too long for the reader as well."""
    path = tmp_path / "questions.jsonl"
    record = {"id": 1, "question": "sea " * 600, "answers": ["sail"], "passages": ["ship"]}
    path.write_text(f"\n{json.dumps(record)}\n")

    with pytest.raises(ConfigError, match="line 2: a question of 601 tokens"):
        read_examples(path, make_options(t5))


def test_passages_without_a_token_do_not_count(t5: Path, tmp_path: Path) -> None:
    """A question that has no other is refused, with its line."""
    source = shutil.copytree(t5, tmp_path / "t5")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.normalizer = Replace("~", "")
    tokenizer.save(str(source / "tokenizer.json"))
    path = tmp_path / "questions.jsonl"
    common = {"question": "sea", "answers": ["sail"]}
    lines = [{"id": 1, "passages": ["~", "ship"]}, {"id": 2, "passages": ["~", "~~"]}]
    path.write_text("".join(f"{json.dumps({**common, **each})}\n" for each in lines))

    with pytest.raises(ConfigError, match="line 2: not one of its passages has a token"):
        read_examples(path, make_options(source))


def test_a_long_passage_is_cut_at_the_window(t5: Path, tmp_path: Path) -> None:
    """It stays one passage."""
    path = tmp_path / "questions.jsonl"
    record = {"id": 1, "question": "sea", "answers": ["sail"], "passages": ["ship " * 50]}
    path.write_text(json.dumps(record))

    cut = read_examples(path, make_options(t5, window_tokens=16))

    assert len(cut.passages) == 1
    assert len(cut.passages[0]) == 16
