"""Records of ragged passages become one padded tensor."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from memstore.client.plain import PlainCodec
from memstore.codec import ProductCodec
from memstore.errors import CodecMismatchError, ConfigError, CorruptionError
from memstore.models.folding import rotation_digest
from memstore.models.lumen_config import LumenConfig
from memstore.readers.decoding import MemoryDecoder
from memstore.types import Codec, Memory
from tests.tiny_t5 import DIM
from tests.unit.readers.material import make_codec, make_memory

CONFIG = LumenConfig({"d_model": DIM, "num_layers": 4}, 2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codec() -> ProductCodec:
    """A codec without stages."""
    return make_codec()


@pytest.fixture(scope="module")
def rotated_codec() -> ProductCodec:
    """A codec that turns the basis."""
    return make_codec(rotation="pca")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_memory_lies_in_its_place(codec: ProductCodec, dtype: torch.dtype) -> None:
    """Bit for bit what the codec decodes; the mask says where."""
    memories = [[make_memory(i, num, codec) for i, num in enumerate(row)] for row in [[3, 5], [4]]]

    padded = MemoryDecoder(CONFIG, CPU, dtype).decode(memories)

    assert padded.vectors.shape == (2, 2, 5, DIM)
    assert padded.vectors.dtype == dtype
    assert padded.mask.sum(2).tolist() == [[3, 5], [4, 0]]
    name = str(dtype).removeprefix("torch.")
    wanted = [memory.to_torch(dtype=name) for row in memories for memory in row]
    assert torch.equal(padded.vectors[padded.mask], torch.cat(wanted))


def test_there_may_be_no_passage_and_no_token(codec: ProductCodec) -> None:
    """Nothing found for any question; a passage without records among others."""
    decoder = MemoryDecoder(CONFIG, CPU, torch.float32)
    assert decoder.decode([[], []]).vectors.shape == (2, 0, 0, DIM)
    empty = Memory("doc#0", np.empty((0, codec.record_words), np.uint16), codec)
    assert decoder.decode([[empty]]).mask.shape == (1, 1, 0)
    padded = decoder.decode([[empty, make_memory(1, 2, codec)], []])
    assert padded.mask.sum(2).tolist() == [[0, 2], [0, 0]]


def test_memories_of_several_codecs_may_stand_beside_each_other(codec: ProductCodec) -> None:
    """As when a collection is replaced between two questions, or vectors came decoded."""
    plain = PlainCodec(DIM, "bfloat16")
    memories = [make_memory(0, 3, codec), make_memory(1, 2, plain)]
    padded = MemoryDecoder(CONFIG, CPU, torch.float32).decode([[each] for each in memories])
    wanted = torch.cat([memory.to_torch(dtype="float32") for memory in memories])
    assert torch.equal(padded.vectors[padded.mask], wanted)


def test_a_folded_reader_gets_vectors_in_the_rotated_basis(rotated_codec: ProductCodec) -> None:
    """They are left as they were coded."""
    rotation = rotated_codec.rotation
    assert rotation is not None
    folded = replace(CONFIG, rotation_sha256=rotation_digest(rotation.matrix()))
    memory = make_memory(0, 4, rotated_codec)
    padded = MemoryDecoder(folded, CPU, torch.float32).decode([[memory]])
    wanted = rotated_codec.decode(memory.records, rotated=True)
    np.testing.assert_array_equal(padded.vectors[0, 0].numpy(), wanted)


@pytest.mark.parametrize("other", ["no rotation", "another rotation", "decoded elsewhere"])
def test_a_folded_reader_refuses_what_its_rotation_was_not_made_for(
    codec: ProductCodec, rotated_codec: ProductCodec, other: str
) -> None:
    """Memories of another basis would be read as noise."""
    rotation = rotated_codec.rotation
    assert rotation is not None
    codecs: dict[str, Codec] = {
        "no rotation": codec,
        "another rotation": make_codec(rotation="opq"),
        "decoded elsewhere": PlainCodec(DIM, "float32"),
    }
    folded = replace(CONFIG, rotation_sha256=rotation_digest(rotation.matrix()))
    decoder = MemoryDecoder(folded, CPU, torch.float32)
    decoder.decode([[make_memory(0, 4, rotated_codec)]])
    with pytest.raises(CodecMismatchError, match="ask for the codes of that codec"):
        decoder.decode([[make_memory(0, 4, codecs[other])]])


def test_a_damaged_record_is_refused(codec: ProductCodec) -> None:
    """A code that names no centroid."""
    records = np.full((3, codec.record_words), 0xFFFF, np.uint16)
    with pytest.raises(CorruptionError, match="names a centroid beyond"):
        MemoryDecoder(CONFIG, CPU, torch.float32).decode([[Memory("doc#0", records, codec)]])


def test_a_model_of_doubles_is_refused() -> None:
    """No codec decodes to float64."""
    with pytest.raises(ConfigError, match="float64, wanted bfloat16 or"):
        MemoryDecoder(CONFIG, CPU, torch.float64)


@pytest.mark.gpu
@pytest.mark.parametrize("stages", [{}, {"rotation": "pca"}], ids=["plain", "rotated"])
def test_a_gpu_gives_what_the_processor_gives(stages: dict[str, Any]) -> None:
    """The same places and values; only records travel to the device."""
    if importlib.util.find_spec("triton") is None or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and Triton")
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("needs compiled kernels")
    codec = make_codec(**stages)
    memories = [[make_memory(i, num, codec) for i, num in enumerate(row)] for row in [[3, 0], [4]]]
    wanted = MemoryDecoder(CONFIG, CPU, torch.bfloat16).decode(memories)

    got = MemoryDecoder(CONFIG, torch.device("cuda"), torch.bfloat16).decode(memories)

    assert got.vectors.device.type == "cuda"
    assert torch.equal(got.mask.cpu(), wanted.mask)
    vectors = got.vectors[got.mask].cpu().float().numpy()
    nearly = wanted.vectors[wanted.mask].float().numpy()
    np.testing.assert_allclose(vectors, nearly, rtol=2**-7)  # one last bit of bfloat16
