"""A folded model reads rotated memories as the model it came from reads plain ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from memstore.codec.rotation import Rotation
from memstore.errors import ConfigError
from memstore.models.folding import fold_rotation, rotation_digest
from memstore.models.lumen import Lumen
from tests.tiny_t5 import DIM, save_t5

VARIANTS = pytest.mark.parametrize("is_gated", [False, True], ids=["v1.0", "v1.1"])


def _rotation(*, num_blocks: int = 1, seed: int = 0) -> Rotation:
    """A codec's rotation: dense, or of blocks over dimensions in another order."""
    rng = np.random.default_rng(seed)
    width = DIM // num_blocks
    squares = rng.standard_normal((num_blocks, width, width))
    blocks = np.stack([np.linalg.qr(square)[0] for square in squares]).astype(np.float32)
    return Rotation(blocks, rng.permutation(DIM).astype(np.int32))


def _model(tmp_path: Path, *, is_gated: bool = False, live_fraction: str = "1/2") -> Lumen:
    folder = save_t5(tmp_path / "t5", is_gated=is_gated)
    return Lumen.from_pretrained(folder, live_fraction=live_fraction)


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and masks of four questions and of three passages each, some of no tokens."""
    torch.manual_seed(1)
    question_mask = torch.arange(6) < torch.tensor([[6], [3], [5], [2]])
    memory_mask = (
        torch.arange(9) < torch.tensor([[9, 4, 2], [7, 9, 0], [1, 0, 0], [0, 0, 0]])[..., None]
    )
    return (
        torch.randint(3, 30, (4, 6)),
        question_mask,
        torch.randint(3, 30, (12, 9)),
        memory_mask,
    )


def _rotated(memories: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    flat = memories.reshape(-1, DIM).numpy()
    return torch.from_numpy(rotation.apply(flat)).reshape(memories.shape)


@VARIANTS
@pytest.mark.parametrize("live_fraction", ["1", "1/2", "0"])
@pytest.mark.parametrize("num_blocks", [1, 4])
@torch.no_grad()
def test_folding_equals_undoing_the_rotation(
    tmp_path: Path, is_gated: bool, live_fraction: str, num_blocks: int
) -> None:
    """The same logits to rounding, and the same answers."""
    model = _model(tmp_path, is_gated=is_gated, live_fraction=live_fraction)
    rotation = _rotation(num_blocks=num_blocks)
    ids, mask, passage_ids, memory_mask = _inputs()
    memories = model.encode_memories(passage_ids, memory_mask.reshape(12, 9)).reshape(4, 3, 9, DIM)
    rotated = _rotated(memories, rotation)
    labels = torch.randint(1, 30, (4, 5))

    folded = fold_rotation(model, rotation.matrix())

    wanted = model(ids, mask, memories, memory_mask, labels)
    got = folded(ids, mask, rotated, memory_mask, labels)
    torch.testing.assert_close(got.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    answers = model.generate(ids, mask, memories, memory_mask, max_new_tokens=6)
    assert torch.equal(folded.generate(ids, mask, rotated, memory_mask, max_new_tokens=6), answers)
    assert len({tuple(answer) for answer in answers.tolist()}) > 1
    # Without the fold the rotated memories are noise: the comparison above can fail.
    unfolded = model(ids, mask, rotated, memory_mask, labels)
    assert float((unfolded.logits - wanted.logits)[:3].abs().max()) > 0.1


@torch.no_grad()
def test_a_folded_model_makes_rotated_memories(tmp_path: Path) -> None:
    """Its own memory encoder and its live layers are in one basis."""
    model, rotation = _model(tmp_path), _rotation()
    ids = torch.randint(3, 30, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)

    folded = fold_rotation(model, rotation.matrix())

    wanted = _rotated(model.encode_memories(ids, mask), rotation)
    torch.testing.assert_close(folded.encode_memories(ids, mask), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_model_that_is_folded_stays_as_it_was(tmp_path: Path) -> None:
    """The fold is a copy."""
    model = _model(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    fold_rotation(model, _rotation().matrix())

    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@VARIANTS
@pytest.mark.parametrize("live_fraction", ["1", "1/2", "0"])
@torch.no_grad()
def test_a_folded_model_is_saved_and_loaded(
    tmp_path: Path, is_gated: bool, live_fraction: str
) -> None:
    """Its config names the rotation; weights and answers are the same to the bit."""
    rotation = _rotation()
    folded = fold_rotation(
        _model(tmp_path, is_gated=is_gated, live_fraction=live_fraction), rotation.matrix()
    )

    folded.save_pretrained(tmp_path / "folded", None)
    loaded = Lumen.from_pretrained(tmp_path / "folded")

    before, after = folded.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.config.rotation_sha256 == rotation_digest(rotation.matrix())
    ids, mask, passage_ids, memory_mask = _inputs()
    memories = folded.encode_memories(passage_ids, memory_mask.reshape(12, 9)).reshape(4, 3, 9, DIM)
    batch = (ids, mask, memories, memory_mask)
    assert torch.equal(
        loaded.generate(*batch, max_new_tokens=6), folded.generate(*batch, max_new_tokens=6)
    )


def test_the_digest_names_the_rotation() -> None:
    """Not how its bytes lie: order in memory, the sign of zero, a wider dtype."""
    matrix = _rotation(num_blocks=4).matrix()
    negative = np.where(matrix == 0, np.float32(-0.0), matrix)

    digest = rotation_digest(matrix)

    assert rotation_digest(np.asfortranarray(matrix)) == digest
    assert rotation_digest(negative) == digest
    assert rotation_digest(matrix.astype(np.float64)) == digest
    assert rotation_digest(matrix.T) != digest


def test_a_matrix_that_is_not_orthogonal_is_refused(tmp_path: Path) -> None:
    """Stretched, or with a NaN."""
    model, matrix = _model(tmp_path), _rotation().matrix()
    broken = matrix.copy()
    broken[3, 4] = np.nan

    for each in (matrix * 1.01, broken, np.zeros_like(matrix)):
        with pytest.raises(ConfigError, match="wanted an orthogonal one"):
            fold_rotation(model, each)


@pytest.mark.parametrize("shape", [(8, 8), (16, 8), (256,)])
def test_a_rotation_of_another_width_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Another encoder's codec."""
    with pytest.raises(ConfigError, match=r"wanted \(16, 16\)"):
        fold_rotation(_model(tmp_path), np.zeros(shape, np.float32))


def test_a_folded_model_is_not_folded_cut_or_exported_again(tmp_path: Path) -> None:
    """Each would mix two bases; the model it came from is there for that."""
    matrix = _rotation().matrix()
    folded = fold_rotation(_model(tmp_path), matrix)

    with pytest.raises(ConfigError, match="has one folded in"):
        fold_rotation(folded, matrix)
    with pytest.raises(ConfigError, match="without to cut"):
        folded.with_live_fraction("0")
    with pytest.raises(ConfigError, match="without to export"):
        folded.export_encoder(tmp_path / "encoder", tmp_path / "t5" / "tokenizer.json")
