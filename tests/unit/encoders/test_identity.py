"""The identity follows from options and files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memstore.encoders import EncoderOptions, read_identity
from memstore.encoders.checkpoint import open_checkpoint
from memstore.errors import ConfigError

SaveCheckpoint = Callable[..., Path]


def test_identity_of_the_default_encoder() -> None:
    """MiniLM with a third of its layers live keeps four frozen."""
    identity = read_identity(EncoderOptions())

    assert (identity.family, identity.num_layers, identity.num_frozen_layers) == ("bert", 6, 4)
    assert (identity.memory_dim, identity.embedding_dim) == (384, 384)
    assert (identity.pooling, identity.special_tokens) == ("mean", "kept")


@pytest.mark.parametrize(("live_fraction", "num_frozen"), [("0", 3), ("1/3", 2), ("1", 0)])
def test_live_fraction_counts_layers_from_the_top(
    save_checkpoint: SaveCheckpoint, live_fraction: str, num_frozen: int
) -> None:
    """The frozen bottom is what the live fraction leaves."""
    options = EncoderOptions(
        source=str(save_checkpoint("t5")), live_fraction=live_fraction, window_tokens=32
    )

    assert read_identity(options).num_frozen_layers == num_frozen


def test_live_fraction_must_cut_whole_layers() -> None:
    """The error lists the nearest fractions that do."""
    with pytest.raises(ConfigError, match=r"1\.50 of 6 layers.*nearest are 1/6 and 1/3"):
        read_identity(EncoderOptions(live_fraction="1/4"))


def test_window_must_fit_the_positions() -> None:
    """MiniLM has 512 positions."""
    with pytest.raises(ConfigError, match="window_tokens: got 513, wanted at most 512"):
        read_identity(EncoderOptions(window_tokens=513))


def test_any_window_fits_relative_positions(save_checkpoint: SaveCheckpoint) -> None:
    """T5 has no table of positions to run out of."""
    options = EncoderOptions(source=str(save_checkpoint("t5")), window_tokens=4096)

    assert read_identity(options).window_tokens == 4096


def test_retriever_is_part_of_the_identity(save_checkpoint: SaveCheckpoint) -> None:
    """Another retriever gives another id and its own width; naming the encoder itself does not."""
    source = str(save_checkpoint("t5"))
    retriever = str(save_checkpoint("bert", hidden_size=16))
    plain = read_identity(EncoderOptions(source=source))

    same = read_identity(EncoderOptions(source=source, retriever=source))
    other = read_identity(EncoderOptions(source=source, retriever=retriever))

    assert same == plain
    assert other.id != plain.id
    assert (other.memory_dim, other.embedding_dim) == (32, 16)
    assert other.retriever_sha256 == open_checkpoint(retriever).sha256


def test_identity_does_not_depend_on_where_the_checkpoint_lies(
    save_checkpoint: SaveCheckpoint,
) -> None:
    """A copy of a checkpoint is the same encoder."""
    first, second = save_checkpoint("bert", name="here"), save_checkpoint("bert", name="there")

    ids = {read_identity(EncoderOptions(source=str(f))).id for f in (first, second)}

    assert len(ids) == 1


def test_identity_and_splitter_need_no_torch() -> None:
    """A client that only checks the identity does not pay for torch."""
    program = (
        "import sys\n"
        "from memstore.encoders import EncoderOptions, load_splitter, read_identity\n"
        "read_identity(EncoderOptions())\n"
        "load_splitter(EncoderOptions())\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)\n"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_identity_changes_with_the_config_but_not_with_its_provenance(
    save_checkpoint: SaveCheckpoint,
) -> None:
    """The same weights under another activation are another encoder; another file name is not."""
    folder = save_checkpoint("bert")
    options = EncoderOptions(source=str(folder))
    before = read_identity(options).id
    path = folder / "config.json"
    config = json.loads(path.read_text())

    path.write_text(json.dumps({**config, "_name_or_path": "elsewhere"}))
    renamed = read_identity(options).id
    path.write_text(json.dumps({**config, "hidden_act": "relu"}))
    changed = read_identity(options).id

    assert renamed == before
    assert changed != before
