"""Samples: splitting by document, files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from memstore.codec.sample import Sample, check_absent, read_sample, write_sample
from memstore.errors import (
    AlreadyExistsError,
    CorruptionError,
    NotFoundError,
    ShapeError,
    StorageError,
)


def _tensors(**changed: Any) -> dict[str, Any]:
    """Return a sample of 7 vectors in 4 passages of 3 documents; None leaves a part out."""
    tensors = {
        "vectors": np.arange(21, dtype=np.float16).reshape(7, 3),
        "token_ids": np.array([0, 1, 2, 3, 4, 0, 1], np.int32),
        "offsets": np.array([0, 2, 3, 3, 7], np.int64),
        "documents": np.array([5, 5, 6, 9], np.int32),
        "vocabulary": np.ones((5, 2), np.float32),
    }
    tensors |= changed
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_a_sample_comes_back_as_it_was_written(tmp_path: Path, dtype: Any) -> None:
    """All its parts, also where an odd number of values would put the next off its alignment."""
    tensors = _tensors(vectors=np.arange(21).reshape(7, 3).astype(dtype))

    write_sample(tmp_path / "new" / "sample.safetensors", Sample(**tensors))
    sample = read_sample(tmp_path / "new" / "sample.safetensors")

    for name, tensor in tensors.items():
        assert getattr(sample, name).dtype == tensor.dtype
        np.testing.assert_array_equal(getattr(sample, name), tensor)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sample.safetensors"]


def test_vectors_alone_are_a_sample(tmp_path: Path) -> None:
    """Both as a tensor file and as a bare array."""
    vectors = np.ones((4, 2), np.float32)
    save_file({"vectors": vectors}, tmp_path / "sample")
    np.save(tmp_path / "sample.npy", vectors)

    for name in ("sample", "sample.npy"):
        sample = read_sample(tmp_path / name)
        np.testing.assert_array_equal(sample.vectors, vectors)
        assert sample.token_ids is sample.offsets is sample.documents is sample.vocabulary is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vectors": None}, "no tensor 'vectors'"),
        ({"vectors": np.ones((7, 3), np.int32)}, "vectors: got int32, wanted float16 or"),
        ({"vectors": np.ones(7, np.float16)}, r"vectors: got shape \(7,\), wanted \(N, D\)"),
        ({"ids": np.ones(7, np.int32)}, "a tensor 'ids', wanted none but vectors, token_ids"),
        ({"token_ids": np.ones(7, np.float32)}, "token_ids: got float32, wanted int32 or int64"),
        ({"token_ids": np.ones(6, np.int32)}, "token_ids: got 6 for 7 vectors"),
        ({"token_ids": np.array([0, 0, 5, 0, 0, 0, 0], np.int32)}, "row 2 is 5, wanted 0 to 4"),
        (
            {"token_ids": np.array([0, -1, 0, 0, 0, 0, 0], np.int32), "vocabulary": None},
            "row 1 is -1, wanted ids from 0 on",
        ),
        ({"offsets": np.array([0, 2, 3, 3, 8])}, "offsets: got 0 to 8, wanted 0 to 7"),
        ({"offsets": np.array([0])}, "offsets: got 0 to 0, wanted 0 to 7"),
        ({"offsets": np.array([0, 4, 3, 3, 7])}, "passage 1 ends before it begins"),
        ({"documents": np.ones(3, np.int32)}, "documents: got 3 for 4 passages"),
        ({"offsets": None}, "documents: got 4 for 0 passages"),
        ({"vocabulary": np.ones((5, 2), np.float16)}, "vocabulary: got float16, wanted float32"),
        (
            {"vocabulary": np.array([[0], [1], [2], [np.inf], [4]], np.float32)},
            "vocabulary: row 3 holds NaN or infinity",
        ),
        (
            {"vectors": np.where(np.arange(21) == 16, np.nan, 1).astype(np.float16).reshape(7, 3)},
            "vectors: row 5 holds NaN or infinity",
        ),
    ],
)
def test_a_malformed_sample_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    """With the part, and the row where there is one."""
    save_file(_tensors(**changed), tmp_path / "sample")

    with pytest.raises(ShapeError, match=message):
        read_sample(tmp_path / "sample")


def test_a_file_of_another_format_is_damaged(tmp_path: Path) -> None:
    """Neither safetensors nor an array."""
    for name in ("sample", "sample.npy"):
        (tmp_path / name).write_bytes(b"no such thing")

        with pytest.raises(CorruptionError, match="not a"):
            read_sample(tmp_path / name)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    """Such a file can hold code."""
    np.save(tmp_path / "sample.npy", np.array([{}], object))

    with pytest.raises(CorruptionError, match=r"not a \.npy array of numbers"):
        read_sample(tmp_path / "sample.npy")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    """The message says what makes one."""
    with pytest.raises(NotFoundError, match="memstore codec sample makes one"):
        read_sample(tmp_path / "sample")


def test_a_sample_is_not_written_over_a_file(tmp_path: Path) -> None:
    """Which can be asked before the work is done."""
    (tmp_path / "sample").write_bytes(b"")

    for refuse in (check_absent, lambda path: write_sample(path, Sample(**_tensors()))):
        with pytest.raises(AlreadyExistsError, match="write the sample to another file"):
            refuse(tmp_path / "sample")


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    """The same checks stand on both sides."""
    with pytest.raises(ShapeError, match="row 2 is 5"):
        write_sample(
            tmp_path / "sample", Sample(**_tensors(token_ids=np.array([0, 0, 5, 0, 0, 0, 0])))
        )

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    """Here a file stands where the folder would."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match="the sample cannot be written"):
        write_sample(tmp_path / "file" / "sample", Sample(**_tensors()))


def _numbered(lengths: list[int], documents: list[int] | None) -> Sample:
    """Return vectors that hold their row's number, with token ids that do too."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.arange(offsets[-1])
    return Sample(
        np.stack([rows, rows], axis=1).astype(np.float32),
        rows.astype(np.int32),
        offsets,
        1000,
        np.array(documents, np.int32) if documents else None,
    )


@pytest.mark.parametrize("seed", range(5))
def test_documents_are_held_out_whole(seed: int) -> None:
    """Every row is on one side, with its passage; no document is on both."""
    lengths, documents = [3, 0, 2, 4, 1, 5, 2, 3], [7, 7, 2, 2, 7, 4, 9, 4]
    sample = _numbered(lengths, documents)
    assert sample.offsets is not None

    training, held_out = sample.split(0.2, seed)

    passages = []
    for part in (training, held_out):
        assert part.offsets is not None
        assert part.token_ids is not None
        assert part.documents is not None
        assert part.vocabulary == 1000
        np.testing.assert_array_equal(part.vectors[:, 0], part.token_ids)
        spans = zip(part.offsets[:-1], part.offsets[1:], part.documents, strict=True)
        passages.append([(part.token_ids[a:b].tolist(), int(d)) for a, b, d in spans])
    whole = zip(sample.offsets[:-1], sample.offsets[1:], documents, strict=True)
    assert sorted(passages[0] + passages[1]) == sorted((list(range(a, b)), d) for a, b, d in whole)
    assert not {d for _, d in passages[0]} & {d for _, d in passages[1]}
    assert len(held_out.vectors) >= 0.2 * sum(lengths)


def test_a_split_depends_on_its_seed_alone() -> None:
    """The same seed holds out the same rows; another holds out others."""
    sample = _numbered([2] * 40, None)

    chosen = [sample.split(0.1, seed)[1].vectors[:, 0].tolist() for seed in (0, 0, 1)]

    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 8


def test_rows_are_held_out_where_nothing_is_known_of_them() -> None:
    """A bare array can be split too."""
    training, held_out = Sample(np.arange(20, dtype=np.float32)[:, None]).split(0.25, 3)

    assert len(held_out.vectors) == 5
    assert sorted([*training.vectors[:, 0], *held_out.vectors[:, 0]]) == list(range(20))


def test_one_document_cannot_be_split() -> None:
    """Nothing would be left to train on."""
    with pytest.raises(ShapeError, match="all of it is one document"):
        _numbered([3, 2], [4, 4]).split()


def test_blocks_do_not_cut_passages() -> None:
    """They cover the sample in order; a passage longer than a block is one."""
    sample = _numbered([3, 2, 9, 0, 1, 4, 0], None)

    blocks = list(sample.blocks(5))

    assert [len(block.vectors) for block in blocks] == [5, 9, 5]
    np.testing.assert_array_equal(
        np.concatenate([block.vectors for block in blocks]), sample.vectors
    )
    for block in blocks:
        assert block.offsets is not None
        assert (block.offsets[0], block.offsets[-1]) == (0, len(block.vectors))


def test_rows_without_passages_are_cut_anywhere_unless_they_are_one_passage() -> None:
    """Token ids without offsets are one passage, as for `ProductCodec.encode`."""
    vectors = np.zeros((7, 1), np.float32)

    assert [len(b.vectors) for b in Sample(vectors).blocks(3)] == [3, 3, 1]
    ids = np.zeros(7, np.int32)
    assert [len(b.vectors) for b in Sample(vectors, ids).blocks(3)] == [7]
