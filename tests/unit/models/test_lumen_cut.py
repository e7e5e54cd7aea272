"""Where the stack is cut: memories are those of `memstore encode`, and the cut moves up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from memstore.encoders import EncoderOptions, load_encoder
from memstore.errors import (
    ConfigError,
)
from memstore.models.lumen import Lumen
from memstore.types import Passage, TokenizedPassage
from tests.tiny_t5 import (
    PASSAGES,
    pad,
    save_t5,
)

FRACTIONS = ["1", "2/3", "1/3", "0"]


@pytest.fixture(scope="module", params=[False, True], ids=["v1.0", "v1.1"])
def t5_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of either variant."""
    return save_t5(tmp_path_factory.mktemp("t5") / "t5", is_gated=request.param)


@pytest.mark.parametrize("live_fraction", FRACTIONS)
@torch.no_grad()
def test_memories_are_those_that_encode_stores(t5_folder: Path, live_fraction: str) -> None:
    """The encoder of the same checkpoint and fraction gives the same vectors."""
    model = Lumen.from_pretrained(t5_folder, live_fraction=live_fraction)

    _assert_same_memories(model, t5_folder)


def _assert_same_memories(model: Lumen, folder: Path) -> None:
    options = EncoderOptions(source=str(folder), live_fraction=str(model.config.live_fraction))
    encoder = load_encoder(options, device="cpu")
    sequences = [passage for row in PASSAGES for passage in row]
    stored = encoder.encode(
        [
            TokenizedPassage(
                Passage(document_id="d", number=number, text="", num_tokens=len(ids)),
                np.array(ids, np.int32),
            )
            for number, ids in enumerate(sequences)
        ]
    )
    ids, mask = pad(sequences, 12)
    memories = model.encode_memories(ids, mask)
    for batch in stored:
        own = torch.cat([memories[row][mask[row]] for row in batch.rows])
        np.testing.assert_allclose(batch.memories, own.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("live_fraction", FRACTIONS)
@torch.no_grad()
def test_the_exported_encoder_makes_the_same_memories(
    t5_folder: Path, tmp_path: Path, live_fraction: str
) -> None:
    """After training the memory encoder, too: `memstore encode` reads the folder."""
    model = Lumen.from_pretrained(t5_folder, live_fraction=live_fraction)
    for parameter in model.memory_encoder.parameters():
        parameter.mul_(1.1)

    model.export_encoder(tmp_path / "encoder", t5_folder / "tokenizer.json")

    _assert_same_memories(model, tmp_path / "encoder")


@torch.no_grad()
def test_the_exported_encoder_of_an_untrained_cut_is_t5s(t5_folder: Path, tmp_path: Path) -> None:
    """Its top, for retrieval vectors, is the live layers on the frozen ones."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")

    model.export_encoder(tmp_path / "encoder", t5_folder / "tokenizer.json")

    texts = ["the ship over cold water", "ice"]
    got, wanted = (
        load_encoder(EncoderOptions(source=str(folder), live_fraction="1/2"), device="cpu")
        for folder in (tmp_path / "encoder", t5_folder)
    )
    np.testing.assert_allclose(got.embed(texts), wanted.embed(texts), atol=1e-6)


@pytest.mark.parametrize("live_fraction", ["2/3", "1/3", "0"])
def test_a_trained_fid_is_cut_like_a_t5(
    t5_folder: Path, tmp_path: Path, live_fraction: str
) -> None:
    """In one step or in two, in memory or when a saved one is loaded: the same weights."""
    fid = Lumen.from_pretrained(t5_folder, live_fraction="1")
    fid.save_pretrained(tmp_path / "fid", None)

    wanted = Lumen.from_pretrained(t5_folder, live_fraction=live_fraction).state_dict()
    for cut in (
        fid.with_live_fraction(live_fraction),
        fid.with_live_fraction("2/3").with_live_fraction(live_fraction),
        Lumen.from_pretrained(tmp_path / "fid", live_fraction=live_fraction),
    ):
        got = cut.state_dict()
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_a_cut_model_shares_nothing_with_its_origin(t5_folder: Path) -> None:
    """Training the one leaves the other."""
    fid = Lumen.from_pretrained(t5_folder, live_fraction="1")
    cut = fid.with_live_fraction("1/2")

    own = {each.data_ptr() for each in fid.parameters()}

    assert not own & {each.data_ptr() for each in cut.parameters()}
    parts = (cut.memory_encoder, cut.question_encoder)
    first, second = ({each.data_ptr() for each in part.parameters()} for part in parts)
    assert not first & second


def test_frozen_layers_do_not_become_live(t5_folder: Path) -> None:
    """Memory and question encoder may have parted since."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")

    with pytest.raises(ConfigError, match="got 2/3, wanted at most 1/2"):
        model.with_live_fraction("2/3")
