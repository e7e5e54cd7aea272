"""Arms of the experiment at the smallest size: what they are built of, and what a row holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.melodi_scoring import score_documents, score_each
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_text import open_tokenizer
from experiments.melodi.ablations import ablate
from experiments.melodi.arms import (
    LONGER,
    MELODI,
    MEMORIZING,
    SMALL,
    TRANSFORMER_XL,
    ZEROED,
    arms,
    count_weights,
    joint,
    keys,
    make_config,
    post_hoc,
)
from experiments.melodi.queues import compress_queue, empty_queue, fit_codec, sample_entries
from experiments.melodi.recall import RecallTask
from experiments.melodi.recalling import Course, RecallTest, Stage
from experiments.melodi.report import report, windows_of
from experiments.melodi.runs import Workshop, open_workshop
from experiments.melodi.sizes import SIZES, Size
from experiments.melodi.text import hold_out, make_tokenizer
from experiments.results import Key, ResultLog, run_missing
from experiments.running import Runner
from experiments.statistics import from_text
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig
from memstore.types import Document

TASK = RecallTask(window=16, num_keys=40, num_values=4, num_fillers=2, pairs=1, questions=3)
SHAPE = MelodiConfig(
    vocab_size=256,
    dim=32,
    num_layers=2,
    num_heads=2,
    ffn_dim=64,
    window=16,
    queue_windows=8,
    dropout=0.0,
)
OPTIONS = MelodiOptions(segment_windows=2, steps=3, batch_size=2, warmup_steps=1)
SIZE = Size(
    language=SHAPE,
    training=OPTIONS,
    further=replace(OPTIONS, steps=2),
    most_tokens=200,
    decay=0.9,
    num_entries=300,
    recall=replace(SHAPE, vocab_size=TASK.vocab_size),
    task=TASK,
    course=Course((Stage(2, (1, 2), 8, 1),), 2, 2, 1e-3, 2.0),
    test=RecallTest(
        distances=(1, 16), num_streams=2, num_windows=20, num_passkeys=3, pair_places=1
    ),
    num_seeds=1,
)
LANGUAGE = [TRANSFORMER_XL, MEMORIZING, MELODI, SMALL, ZEROED, post_hoc(8), LONGER, joint(8)]
RECALL = [TRANSFORMER_XL, MELODI, ZEROED]


def documents() -> list[Document]:
    """Return made-up texts of all sources."""
    rng = np.random.default_rng(0)
    counts = {"movie_reviews": 26, "brown": 60, "state_union": 14, "inaugural": 10, "webtext": 2}
    return [
        Document(
            document_id=f"{source}/{number}",
            text="".join(rng.choice(list("abcd "), rng.integers(60, 400))),
        )
        for source, count in counts.items()
        for number in range(count)
    ]


def split(texts: list[Document], most_tokens: int) -> tuple[Ragged, Ragged]:
    """Return bytes to train on, and the first ones of what is held out."""
    train, held_out = hold_out(texts)
    encode = open_tokenizer("bytes").encode
    return (
        Ragged.of([encode(text) for text in train]),
        Ragged.of([encode(text)[:most_tokens] for text in held_out]),
    )


def model_of(config: MelodiConfig, seed: int = 0) -> Melodi:
    """Return a model of random weights."""
    torch.manual_seed(seed)
    return Melodi(config).eval()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return the rows of most arms; the second call runs nothing."""
    folder = tmp_path_factory.mktemp("melodi")
    log, workshop = ResultLog(folder / "rows.jsonl"), Workshop(SIZE, folder / "cache", None)
    workshop.documents = split(documents(), SIZE.most_tokens)
    wanted = [{"task": "recall", "arm": name, "seed": 0} for name in RECALL]
    wanted += [{"task": "language", "arm": name, "seed": 0} for name in LANGUAGE]
    assert run_missing(log, wanted, workshop.run) == 0
    assert log.missing(wanted) == []
    return log.rows()


def test_a_row_holds_what_the_tables_need(rows: list[dict]):
    """Memory is counted; what learnt says for how long; losses are those of all documents."""
    by_arm = {row["arm"]: row for row in rows if row["task"] == "language"}
    assert by_arm[TRANSFORMER_XL]["memory_floats"]["paper"] == 2 * 16 * 2 * 32
    assert by_arm[MELODI]["memory_floats"]["paper"] == 4 * 2 * 32 + 2 * 2 * 8 * 32
    assert by_arm[MELODI]["memory_bytes"] == 2 * (4 * 2 * 32 + 2 * 8 * 32)
    assert by_arm[post_hoc(8)]["memory_bytes"] == 2 * 4 * 2 * 32 + 2 * 8 * 32 // 4
    assert [by_arm[name]["steps"] for name in LANGUAGE] == [3, 3, 3, 3, 3, 3, 2, 2]
    assert 0 < by_arm[post_hoc(8)]["error"] < 1
    for row in by_arm.values():
        sums, counts = (from_text(row[name], 68) for name in ("losses", "counts"))
        assert sums.shape == counts.shape
        assert np.exp(sums.sum() / counts.sum()) == pytest.approx(row["value"], rel=1e-5)
    recall = next(row for row in rows if row["task"] == "recall" and row["arm"] == MELODI)
    assert recall["right"].keys() == recall["passkeys"].keys() == {"1", "16"}
    assert len(recall["passkeys"]["16"][0]) == 3


def test_the_report_has_every_table_of_what_was_run(rows: list[dict]):
    """Tables and targets are there; without rows it says that there is nothing."""
    text = report(rows)
    for name in (*LANGUAGE, *RECALL):
        assert f"| {name} |" in text
    assert "Targets" in text
    assert report([]) == "Nothing has been run yet."


def test_arms_have_equal_weights_and_their_own_memories():
    """At both sizes every arm that learns from nothing has Transformer-XL's weights to 1 %."""
    for size in SIZES.values():
        for task, base in (("language", size.language), ("recall", size.recall)):
            configs = {
                name: make_config(arm, base) for name, arm in arms(task).items() if not arm.start
            }
            wanted = count_weights(configs[TRANSFORMER_XL])
            allowed = 0.01 * wanted
            for name, config in configs.items():
                assert abs(count_weights(config) - wanted) <= allowed, name
            assert configs[MELODI].num_long_tokens * 8 == base.window
            assert configs[MELODI].num_short_tokens * 4 == base.window


def test_every_arm_can_be_trained():
    """A text of some windows has a loss, and a gradient reaches the bottom of every model."""
    texts = torch.randint(256, (2, 3 * SHAPE.window), generator=torch.Generator().manual_seed(0))
    for name, arm in arms("language").items():
        if arm.start is None:
            model = model_of(make_config(arm, SHAPE)).train()
            model(texts, None, texts).loss.backward()
            gradient = model.stack.blocks()[0].heads.query.weight.grad
            assert 0 < gradient.norm() < 100, name


def test_keys_name_what_others_start_from_first():
    """An arm that goes on from another comes after it, and the short run lacks none of them."""
    for only_deciding in (True, False):
        names = [key["arm"] for key in keys(("language",), 1, only_deciding=only_deciding)]
        for name in names:
            start = arms("language")[name].start
            assert start is None or names.index(start) < names.index(name)
    assert len(keys(("language", "recall"), 3, only_deciding=False)) > 3 * 20


def test_losses_by_document_sum_to_those_of_all():
    """Whatever is read side by side, and however long a segment is."""
    _, held_out = split(documents(), 150)
    model = model_of(make_config(arms("language")[MELODI], SHAPE))
    found = score_each(model, held_out, num_streams=5, segment_windows=3)
    wanted = score_documents(model, held_out)
    assert found.counts.sum(axis=1).tolist() == (held_out.lengths - 1).tolist()
    assert found.sums.sum() / found.counts.sum() == pytest.approx(wanted.loss, rel=1e-5)
    columns = found.sums.sum(axis=0) / found.counts.sum(axis=0)
    assert columns == pytest.approx([bucket.loss for bucket in wanted.buckets], rel=1e-5)
    assert [windows_of(number) for number in range(4)] == ["0", "1", "2-3", "4-7"]


def test_an_emptied_queue_changes_later_windows_alone():
    """Window 0 has no queue; after it, what is predicted depends on it."""
    _, held_out = split(documents(), 150)
    model = model_of(make_config(arms("language")[MELODI], SHAPE))
    kept = score_each(model, held_out, alter=lambda state: state)
    emptied = score_each(model, held_out, alter=empty_queue)
    assert emptied.sums[:, 0] == pytest.approx(kept.sums[:, 0], rel=1e-6)
    assert (np.abs(emptied.sums - kept.sums).sum(axis=0)[1:] > 1e-4).all()


def test_a_compressed_queue_holds_what_the_codec_decodes():
    """In every slot, whatever the segment; and training still reaches the mixer."""
    config = make_config(arms("language")[MELODI], SHAPE)
    plain, coded = model_of(config), model_of(config)
    train, _ = split(documents(), 150)
    entries = sample_entries(plain, train, 400)
    assert entries.shape == (400, config.dim)
    codec = fit_codec(entries, 8, seed=0)
    assert codec.num_subspaces == config.dim * 2 // 8
    bottleneck = compress_queue(coded, codec, decay=0.9)
    tokens = torch.from_numpy(train[0][: config.window].astype(np.int64))[None]
    wrote = plain(tokens).state.queue[0, -config.num_long_tokens :].numpy()
    decoded = codec.decode(codec.encode(wrote), dtype="float32")
    held = coded(tokens).state.queue[0, -config.num_long_tokens :].numpy()
    # Not to the bit: two libraries multiply by the rotation.
    np.testing.assert_allclose(held, decoded, rtol=1e-5, atol=1e-6)
    coded.train()
    two = torch.from_numpy(train[0][: 3 * config.window].astype(np.int64))[None]
    coded(two, None, two).loss.backward()
    layer = coded.stack.layers[config.long_index]
    assert layer.to_long.mix.weight.grad.abs().sum() > 0
    assert bottleneck.num_updates > 0


def test_what_is_ablated_is_not_learnt():
    """The gate stays at a half; without gradients of memory nothing teaches what makes it."""
    config = make_config(arms("language")[MELODI], SHAPE)
    train, _ = split(documents(), 150)
    tokens = torch.from_numpy(train[0][: 3 * config.window].astype(np.int64))[None]
    learnt = {}
    for ablation in (None, "gate", "gradients"):
        model = model_of(config)
        if ablation is not None:
            ablate(model, ablation)
        model(tokens, None, tokens).loss.backward()
        layer = model.stack.layers[config.long_index]
        learnt[ablation] = [
            part.grad is not None and bool(part.grad.abs().sum() > 0)
            for part in (layer.block.gate, layer.to_long.mix.weight, layer.to_short.mix.weight)
        ]
        if ablation == "gate":
            assert not layer.block.gate.any()
    assert learnt == {
        None: [True, True, True],
        "gate": [False, True, True],
        "gradients": [True, False, False],
    }


def test_documents_are_held_out_whole_and_by_source():
    """No held-out text is trained on, and web text is all trained on."""
    texts = documents()
    train, held_out = hold_out(texts)
    assert len(held_out) == 24 + 24 + 12 + 8
    assert sorted(train + held_out) == sorted(text.text for text in texts)
    assert not set(train) & set(held_out)
    web = {text.text for text in texts if text.document_id.startswith("webtext")}
    assert web <= set(train)
    assert hold_out(texts) == (train, held_out)


def test_a_tokenizer_of_the_training_text_loses_nothing(tmp_path: Path):
    """It has as many ids as asked for, shortens the text, and reads what it never saw."""
    train, held_out = hold_out(documents())
    file = tmp_path / "tokenizer.json"
    file.write_text(make_tokenizer(train, 300), encoding="utf-8")
    tokenizer = open_tokenizer(str(file))
    assert tokenizer.vocab_size == 300
    assert 0 < len(tokenizer.encode(held_out[0])) < len(held_out[0])
    assert len(tokenizer.encode("é")) == 2


def test_what_was_trained_is_found_again(rows: list[dict], tmp_path: Path):
    """Two arms that read with one model train it once."""
    workshop = Workshop(SIZE, tmp_path, None)
    first = workshop.run({"task": "recall", "arm": MELODI, "seed": 3})
    (model,) = tmp_path.glob("recall/*/model/model.safetensors")
    written = model.stat().st_mtime_ns
    second = workshop.run({"task": "recall", "arm": ZEROED, "seed": 3})
    assert model.stat().st_mtime_ns == written
    assert first["training_seconds"] == second["training_seconds"]


def test_other_processes_run_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An arm that there is not fails there as it would here; the process lives on."""
    runner = Runner(open_workshop, ("cpu", tmp_path, None), 2)
    assert not open_workshop.__module__.endswith("__main__")  # which other processes cannot import
    wanted: list[Key] = [{"task": "recall", "arm": "none", "seed": 0}]
    assert run_missing(ResultLog(tmp_path / "cpu.jsonl"), wanted, runner, num_workers=2) == 1
    assert "KeyError" in capsys.readouterr().err
