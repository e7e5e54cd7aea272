"""The cut is exact: the frozen bottom, then the live top, is the whole encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from memstore.encoders.checkpoint import open_checkpoint
from memstore.encoders.families import FAMILIES
from memstore.encoders.stack import EncoderStack
from memstore.errors import ConfigError, CorruptionError, ShapeError

SaveCheckpoint = Callable[..., Path]
HUGGING_FACE = sorted(name for name, family in FAMILIES.items() if family.architecture)
IDS = np.array([4, 9, 7, 12, 6, 15, 5, 8, 10])


def _reference(folder: Path) -> Any:
    """The same checkpoint as transformers alone loads it."""
    kind = FAMILIES[transformers.AutoConfig.from_pretrained(folder).model_type]
    return getattr(transformers, kind.architecture).from_pretrained(folder).eval()


def _memory(folder: Path, tap_layer: int | None) -> np.ndarray:
    stack = EncoderStack(open_checkpoint(str(folder)), device="cpu", tap_layer=tap_layer)
    return stack.forward([IDS]).memories


@pytest.mark.parametrize("num_frozen", [0, 1, 2, 3])
@pytest.mark.parametrize("model_type", HUGGING_FACE)
def test_memory_is_the_hidden_state_after_the_frozen_layers(
    save_checkpoint: SaveCheckpoint, model_type: str, num_frozen: int
) -> None:
    """From the embeddings (0) to the encoder's output (3), in every family."""
    folder = save_checkpoint(model_type)
    with torch.inference_mode():
        output = _reference(folder)(torch.from_numpy(IDS)[None], output_hidden_states=True)

    memory = _memory(folder, num_frozen)

    np.testing.assert_allclose(memory, output.hidden_states[num_frozen][0], atol=1e-6)


@pytest.mark.parametrize("num_frozen", [0, 1, 2])
def test_live_top_of_bert_completes_the_memory(
    save_checkpoint: SaveCheckpoint, num_frozen: int
) -> None:
    """A reader that runs the upper layers on the memory gets the encoder's own output."""
    folder = save_checkpoint("bert")
    model = _reference(folder)
    hidden = torch.from_numpy(_memory(folder, num_frozen))[None]  # (1, T, D)

    with torch.inference_mode():
        for layer in model.encoder.layer[num_frozen:]:
            hidden = layer(hidden)
        expected = model(torch.from_numpy(IDS)[None]).last_hidden_state

    np.testing.assert_allclose(hidden, expected, atol=1e-6)


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
@pytest.mark.parametrize("num_frozen", [0, 1, 2])
def test_live_top_of_t5_completes_the_memory(
    save_checkpoint: SaveCheckpoint, num_frozen: int, feed_forward: str
) -> None:
    """T5 (relu) and T5-v1.1 (gated-gelu): layer 0 lends its position bias to the live layers."""
    folder = save_checkpoint("t5", feed_forward_proj=feed_forward)
    encoder = _reference(folder).encoder
    hidden = torch.from_numpy(_memory(folder, num_frozen))[None]  # (1, T, D)

    with torch.inference_mode():
        attention = encoder.block[0].layer[0].SelfAttention
        bias = attention.compute_bias(len(IDS), len(IDS))  # (1, heads, T, T)
        for block in encoder.block[num_frozen:]:
            hidden = block(hidden, position_bias=bias)[0]
        hidden = encoder.final_layer_norm(hidden)
        expected = encoder(torch.from_numpy(IDS)[None]).last_hidden_state

    np.testing.assert_allclose(hidden, expected, atol=1e-6)


@pytest.mark.parametrize("model_type", HUGGING_FACE)
def test_padding_does_not_reach_the_memory(
    save_checkpoint: SaveCheckpoint, model_type: str
) -> None:
    """Alone or beside a longer one, a sequence has the same memory and vector up to rounding."""
    stack = EncoderStack(open_checkpoint(str(save_checkpoint(model_type))), device="cpu")

    alone = stack.forward([IDS[:4]])
    padded = stack.forward([IDS, IDS[:4]])

    assert padded.memories.shape == (len(IDS) + 4, 32)
    np.testing.assert_allclose(padded.memories[len(IDS) :], alone.memories, atol=1e-5)
    np.testing.assert_allclose(padded.pooled[1], alone.pooled[0], atol=1e-5)


def test_width_of_t5_xxl_works(save_checkpoint: SaveCheckpoint) -> None:
    """D = 4,096 is the width that MEMORY-VQ compresses."""
    folder = save_checkpoint("t5", d_model=4096, num_layers=2, feed_forward_proj="gated-gelu")

    assert _memory(folder, 1).shape == (len(IDS), 4096)


@pytest.mark.parametrize("tap_layer", [0, 2, 3])
def test_dropping_the_top_leaves_the_memory_as_it_was(
    save_checkpoint: SaveCheckpoint, tap_layer: int
) -> None:
    """With another model for retrieval the upper layers need not run."""
    checkpoint = open_checkpoint(str(save_checkpoint("t5")))
    whole = EncoderStack(checkpoint, device="cpu", tap_layer=tap_layer)

    bottom = EncoderStack(checkpoint, device="cpu", tap_layer=tap_layer, runs_top=False)

    expected, memory = whole.forward([IDS]).memories, bottom.forward([IDS]).memories
    assert memory.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("bert", "BertForMaskedLM"),
        ("bert", "BertModel"),
        ("t5", "T5ForConditionalGeneration"),
        ("mt5", "MT5ForConditionalGeneration"),
        ("roberta", "RobertaForSequenceClassification"),
    ],
)
def test_heads_beside_the_encoder_are_ignored(
    save_checkpoint: SaveCheckpoint, model_type: str, architecture: str
) -> None:
    """A full model's checkpoint gives its encoder; decoders and heads are not read."""
    folder = save_checkpoint(model_type, architecture=architecture)

    assert _memory(folder, 1).shape == (len(IDS), 32)


@pytest.mark.parametrize("model_type", ["bert", "t5"])
def test_missing_weights_are_refused(save_checkpoint: SaveCheckpoint, model_type: str) -> None:
    """A tensor that would be filled with random numbers is an error, not a warning."""
    folder = save_checkpoint(model_type)
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in sorted(weights) if FAMILIES[model_type].layers in name)
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ConfigError, match=f"lack 1 tensors.*{gone}"):
        EncoderStack(open_checkpoint(str(folder)), device="cpu")


def test_layers_that_the_config_does_not_count_are_refused(save_checkpoint: SaveCheckpoint) -> None:
    """Weights of three layers under a config of two would be another encoder, silently."""
    folder = save_checkpoint("bert")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"num_hidden_layers": 3', '"num_hidden_layers": 2')
    )

    with pytest.raises(ConfigError, match="too many"):
        EncoderStack(open_checkpoint(str(folder)), device="cpu")


def test_weights_of_other_shapes_are_refused(save_checkpoint: SaveCheckpoint) -> None:
    """A config of another width than the weights is refused."""
    folder = save_checkpoint("bert")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"hidden_size": 32', '"hidden_size": 16'))

    with pytest.raises(ConfigError, match="make no model together"):
        EncoderStack(open_checkpoint(str(folder)), device="cpu")


def test_weights_cut_short_are_corruption(save_checkpoint: SaveCheckpoint) -> None:
    """Half a file is refused before any of it is used."""
    folder = save_checkpoint("bert")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    with pytest.raises(CorruptionError, match="cut short"):
        EncoderStack(open_checkpoint(str(folder)), device="cpu")


def test_loading_prints_nothing(
    save_checkpoint: SaveCheckpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    """No bars or reports of another library in the logs of a job."""
    folder = save_checkpoint("t5", architecture="T5ForConditionalGeneration")
    capfd.readouterr()

    EncoderStack(open_checkpoint(str(folder)), device="cpu")

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "without tokens"),
        ([4] * 141, "141 tokens, wanted at most 140"),
        ([4, 99], "ids from 4 to 99"),
        ([-1, 4], "ids from -1 to 4"),
    ],
)
def test_sequences_that_the_model_cannot_read_are_refused(
    save_checkpoint: SaveCheckpoint, ids: list[int], message: str
) -> None:
    """Refused before the model sees them: on a GPU a bad id would end the process."""
    stack = EncoderStack(open_checkpoint(str(save_checkpoint("bert"))), device="cpu")

    with pytest.raises(ShapeError, match=message):
        stack.forward([np.array(ids, np.int64)])
