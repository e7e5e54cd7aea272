"""Questions in few words whose answers stand in their passages, and runs on a tiny T5."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from encoder_jobs.lumen_data import Examples, prepare_examples
from encoder_jobs.lumen_folder import RunFolder, TrainSpec
from encoder_jobs.lumen_learner import load_model
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.lumen_questions import find_passages, read_lines
from encoder_jobs.lumen_training import tokens_of
from tests.tiny import WORDS
from tests.tiny_t5 import save_t5

SMALL = {
    "window_tokens": 16,
    "template": "{text}",
    "steps": 5,
    "batch_size": 8,
    "learning_rate": 0.01,
    "checkpoint_every": 2,
}


def save_small_t5(folder: Path, *, dropout: float = 0.1, is_gated: bool = False) -> Path:
    """Save a T5 of two layers and one decoder layer; v1.1 if it is gated."""
    # With as many buckets as positions, T5's formula has no answer for what lies beyond them.
    changes = {"num_layers": 2, "num_decoder_layers": 1, "relative_attention_max_distance": 64}
    return save_t5(folder, dropout_rate=dropout, is_gated=is_gated, **changes)


def make_questions(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return questions of one word, each with three passages of two; the one that begins with it
    ends with the answer.
    """
    rng = random.Random(seed)
    questions = []
    for number in range(count):
        keys = rng.sample(WORDS, 3)
        values = [rng.choice(WORDS) for _ in keys]
        passages = [f"{key} {value}" for key, value in zip(keys, values, strict=True)]
        questions.append(
            {"id": number, "question": keys[0], "answers": [values[0]], "passages": passages}
        )
    return questions


def make_options(source: Path, **changes: Any) -> TrainOptions:
    """Return the options of a run of seconds, with half of the layers live."""
    return TrainOptions(**{"source": str(source), "live_fraction": "1/2", **SMALL, **changes})


def make_vq_options(source: Path, **changes: Any) -> TrainOptions:
    """Return the same through a small quantizer."""
    quantizer = {"is_quantized": True, "num_subspaces": 4, "codebook_size": 8}
    return make_options(source, **{**quantizer, **changes})


def write_questions(path: Path, count: int, *, seed: int = 0) -> Path:
    """Write `make_questions` as JSON lines."""
    lines = (f"{json.dumps(each)}\n" for each in make_questions(count, seed=seed))
    path.write_text("".join(lines))
    return path


def read_examples(path: Path, options: TrainOptions) -> Examples:
    """Tokenize a file whose passages stand in it."""
    lines = read_lines(path)
    found = find_passages(path, lines, store=None, collection="", top_k=options.top_k)
    return prepare_examples(path, lines, found, tokens_of(options, load_model(options)))


def start_run(
    root: Path, options: TrainOptions, *, count: int = 24, held_out_seed: int | None = None
) -> RunFolder:
    """Make the folder of a run before its first step; with a seed, with held-out questions too."""
    files = [write_questions(root.with_suffix(".jsonl"), count)]
    if held_out_seed is not None:
        held_out = root.with_suffix(".held-out.jsonl")
        files.append(write_questions(held_out, min(count, 6), seed=held_out_seed))
    folder = RunFolder(root)
    folder.put_spec(make_spec(options))
    folder.put_examples(*(read_examples(file, options) for file in files))
    return folder


def make_spec(options: TrainOptions, **changes: Any) -> TrainSpec:
    """Return the spec of a run that nothing but its options decides."""
    fields: dict[str, Any] = {
        "source_sha256": "a" * 64,
        "codec_id": "",
        "questions_sha256": "b" * 64,
        "validation_sha256": "",
        "store": "",
        "collection": "",
        "num_workers": 1,
    }
    return TrainSpec(options=options, **{**fields, **changes})
