"""Windows are asked for in sessions of the smallest size, and their ranks told."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from encoder_jobs.ragged import Ragged
from encoder_jobs.training_text import BYTES, open_tokenizer
from experiments.melodi.runs import Workshop
from experiments.melodi.searching import rank_windows, report
from tests.unit.experiments.test_melodi_runs import SIZE


def test_every_window_in_a_queue_is_asked_for(tmp_path: Path) -> None:
    """By all four ways; words that one window alone has are found, and the table has all ways."""
    tokenizer = open_tokenizer(BYTES)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.content)
    # Windows of 16 bytes, each with a word in its middle that no other has.
    texts = [
        "".join(f"{common} {common} {common} {common} {own} 8 8 8 " for own in "abcdefghijklmnop")
        for common in "wxyz"
    ]
    read = Ragged.of([tokenizer.encode(text) for text in texts])
    workshop = Workshop(SIZE, tmp_path, None)
    workshop.__dict__["documents"] = (
        Ragged.of([tokenizer.encode(text * 4) for text in texts]),
        read.take(np.arange(2)),
    )

    row = rank_windows(workshop, 0)

    queued = SIZE.language.queue_windows
    for ranks in row["ranks"].values():
        assert [len(each) for each in ranks] == [queued, queued]
        assert all(1 <= rank <= queued for each in ranks for rank in each)
    assert row["ranks"]["shared words, by how rare they are"] == [[1] * queued] * 2
    told = report([{"seed": 0, **row}, {"seed": 1, **row}])
    assert all(f"| {way} |" in told for way in row["ranks"])
