"""What is asked of a job, and what it is called."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from encoder_jobs.options import EncodeOptions, make_options
from encoder_jobs.spec import JobSpec
from memstore.encoders import EncoderOptions
from memstore.errors import ConfigError

SPEC = JobSpec(
    options=EncodeOptions(encoder=EncoderOptions(live_fraction="0.5")),
    encoder_id="e" * 64,
    inputs={"corpus.jsonl": "a" * 64},
    num_partitions=2,
    metadata_columns={"year": "int64"},
    num_documents=3,
    num_text_bytes=400,
)


def test_options_survive_json() -> None:
    """What a worker reads is what the user chose."""
    options = EncodeOptions(
        collection="wiki",
        mode="upsert",
        encoder=EncoderOptions(window_tokens=64, stride_tokens=32, template="{text}"),
        codec="auto",
        id_field="key",
        partition_bytes=7,
        max_bad_fraction=0.5,
    )

    assert EncodeOptions.from_dict(json.loads(json.dumps(asdict(options)))) == options


def test_a_spec_survives_json() -> None:
    """Its id with it."""
    back = JobSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))

    assert back == SPEC
    assert back.job_id == SPEC.job_id


@pytest.mark.parametrize(
    "change",
    [
        {"options": EncodeOptions(mode="upsert")},
        {"options": EncodeOptions(partition_bytes=7)},
        {"encoder_id": "f" * 64},
        {"inputs": {"corpus.jsonl": "d" * 64}},
        {"inputs": {"other.jsonl": "a" * 64}},
    ],
)
def test_another_option_encoder_or_input_is_another_job(change: dict[str, Any]) -> None:
    """The id is the digest of all that decides the shards."""
    assert replace(SPEC, **change).job_id != SPEC.job_id


def test_an_encoder_that_moved_is_the_same_job() -> None:
    """It counts by its id, which covers weights, cut and windows, and not by where it lies."""
    moved = EncodeOptions(encoder=EncoderOptions(source="/elsewhere"))

    assert replace(SPEC, options=moved).job_id == SPEC.job_id


def test_another_way_of_cutting_is_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions of the planner do not share a job's records."""
    before = SPEC.job_id
    monkeypatch.setattr("encoder_jobs.spec.PLAN_FORMAT", 2)

    assert SPEC.job_id != before


def test_flat_options_find_their_places() -> None:
    """Those of the encoder and those of the job, as on the command line."""
    options = make_options(
        encoder="folder", live_fraction="1/2", window_tokens=9, mode="upsert", id_field="key"
    )

    assert options.encoder == EncoderOptions(source="folder", live_fraction="1/2", window_tokens=9)
    assert (options.mode, options.id_field, options.codec) == ("upsert", "key", "auto")


def test_an_unknown_option_is_refused() -> None:
    """As any function refuses a keyword that it does not have."""
    with pytest.raises(TypeError, match="windows"):
        make_options(windows=9)


def test_checkpoint_folders_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of the collection stands elsewhere; names and hub ids stay what they are."""
    monkeypatch.chdir(tmp_path)
    for name in ("model", "all-MiniLM-L6-v2"):
        Path(name).mkdir()

    folders = make_options(encoder="./model", retriever="model").encoder
    named = make_options(encoder="all-MiniLM-L6-v2", retriever="org/model").encoder

    assert (folders.source, folders.retriever) == (str(tmp_path / "model"),) * 2
    assert (named.source, named.retriever) == ("all-MiniLM-L6-v2", "org/model")


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("name", ["partition_bytes", "codec_sample_tokens"])
def test_sizes_below_one_are_refused(name: str, number: Any) -> None:
    """A partition or a sample holds something."""
    with pytest.raises(ConfigError, match="at least 1"):
        EncodeOptions(**{name: number})


def test_an_unknown_search_is_refused() -> None:
    """Before anything is encoded."""
    with pytest.raises(ConfigError, match="'exact' or 'fast'"):
        EncodeOptions(codec_search="rough")


def test_an_unknown_mode_is_refused() -> None:
    """The message lists those that there are."""
    with pytest.raises(ConfigError, match="append, upsert, replace"):
        EncodeOptions(mode="merge")  # type: ignore[arg-type]
