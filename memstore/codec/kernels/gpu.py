"""The codec on a GPU: codes and vectors are torch tensors in its memory, and never leave it.

This module is the door to the `gpu_*` modules; it needs torch and Triton, and says so without them.

Does not: move records or vectors to the device; the caller does, codes being a sixteenth of what
they stand for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from memstore.errors import ConfigError, CorruptionError, MissingDependencyError, ShapeError

try:
    import torch

    from memstore.codec.kernels.gpu_assign import assign, half_norms
    from memstore.codec.kernels.gpu_compiler import open_device
    from memstore.codec.kernels.gpu_gather import Prediction as Prediction
    from memstore.codec.kernels.gpu_gather import gather
    from memstore.codec.kernels.gpu_maxsim import max_similarity
    from memstore.codec.kernels.gpu_training import Step as Step
    from memstore.codec.kernels.gpu_training import kmeans_step as kmeans_step
    from memstore.codec.kernels.gpu_training import train_codebook_gpu as train_codebook_gpu
except ModuleNotFoundError as err:
    raise MissingDependencyError(
        f'the codec on a GPU needs {err.name}, which is not installed; run "pip install '
        'memstore[gpu]"',
        extra="gpu",
    ) from err

if TYPE_CHECKING:
    from memstore.codec.product import ProductCodec

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_MAX_WIDTH = 512  # more does not fit in a multiprocessor's shared memory
_VECTOR_DTYPES = (*_DTYPES.values(), torch.float64)


class GpuCodec:
    """A codec whose tensors lie on a GPU; may be used from any number of threads.

    Args:
        codec: what to decode and encode with.
        device: "cuda" or "cuda:1"; with Triton's interpreter also "cpu".

    Raises:
        ConfigError: if there is no such device, a subspace is wider than 512, or the codec has
            stages besides the quantizer.

    Cost: the codebook in the device's memory, 1/width more for the search, and its copy in each
    narrower dtype that is decoded to.
    """

    def __init__(self, codec: ProductCodec, device: str = "cuda") -> None:
        if codec.rotation is not None or codec.predictor is not None:
            raise ConfigError(
                "codec: has a rotation or a predictor; GpuCodec holds plain codecs: decode with "
                "ProductCodec"
            )
        width = codec.dim // codec.num_subspaces
        if width > _MAX_WIDTH:
            raise ConfigError(
                f"codec: subspaces are {width} wide, wanted at most {_MAX_WIDTH} on a GPU"
            )
        self._codec = codec
        self._device = open_device(device)
        self._codebook = _tensor(codec.codebook).to(self._device)
        self._norms = half_norms(self._codebook)
        self._tables = {torch.float32: self._codebook, self._codebook.dtype: self._codebook}

    @property
    def codec(self) -> ProductCodec:
        """The codec that this one equals."""
        return self._codec

    def decode(
        self,
        records: torch.Tensor,
        *,
        dtype: str = "bfloat16",
        prediction: Prediction | None = None,
    ) -> torch.Tensor:
        """Put the centroids that the records name side by side, add what was predicted, and cast.

        Args:
            records: (T, W) uint16, or int16 of the same bits, on the device.
            dtype: "bfloat16", "float16" or "float32".
            prediction: added in float32 before the cast; its tensors are on the device.

        Returns:
            (T, D) vectors on the device; without a prediction, those of `ProductCodec.decode` bit
            for bit.

        Raises:
            ShapeError: if the records or the prediction are not such tensors.
            ConfigError: if the dtype is none of these, or too narrow for the codebook's values.
            CorruptionError: if a record or a token id names what does not exist.
        """
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype: got {dtype!r}, wanted {' or '.join(_DTYPES)}")
        codes = self._codes(records)
        out = torch.empty(
            (len(records), self._codec.dim), dtype=_DTYPES[dtype], device=self._device
        )
        if not len(records):
            return out
        if prediction is None:
            bad_row = gather(codes, self._table(dtype), out)
        else:
            self._check_prediction(prediction, len(records))
            bad_row = gather(codes, self._codebook, out, prediction)
        self._check_records(bad_row, len(records))
        return out

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map each vector to its nearest centroid in every subspace, as `ProductCodec.encode`.

        The search is exhaustive, by float32 scores; equal scores go to the lowest code. Where two
        scores differ by less than their rounding, the code may differ from the processor's.

        Args:
            vectors: (T, D) float16, bfloat16, float32 or float64 (which is cast), finite, on the
                device. From a bfloat16 codebook, narrower vectors are encoded faster.

        Returns:
            (T, W) uint16 records on the device.

        Raises:
            ShapeError: if they are not such a tensor, or a value is not finite (the first such row
                is named).
        """
        self._check_tensor("vectors", vectors, self._codec.dim, _VECTOR_DTYPES)
        if vectors.dtype == torch.float64:
            vectors = vectors.float()  # what is beyond float32 becomes infinite, and is refused
        shape = len(vectors), self._codec.record_words
        records = torch.zeros(shape, dtype=torch.uint16, device=self._device)
        if not len(vectors):
            return records
        bad_row = assign(vectors.contiguous(), self._codebook, self._norms, self._codes(records))
        row = int(bad_row)
        if row < len(vectors):
            raise ShapeError(
                f"vectors: row {row} holds NaN or infinity; only finite values are encoded", row=row
            )
        return records

    def max_similarity(
        self, queries: torch.Tensor, records: torch.Tensor, offsets: torch.Tensor
    ) -> torch.Tensor:
        """Score passages for a question by late interaction, equal to decoding them first.

        Args:
            queries: (Q, D) float32 or bfloat16, the question's vectors.
            records: (T, W) uint16 or int16, the passages' one after another.
            offsets: (P + 1,) int64, rising from 0 to T: where each passage starts, and the end.

        Returns:
            (P,) float32: the sum over the question's vectors of the largest inner product with one
            of the passage's; -inf for a passage without records.

        Raises:
            ShapeError: if they are not such tensors.
            CorruptionError: if a record names a centroid that does not exist.
        """
        self._check_tensor("queries", queries, self._codec.dim, (torch.float32, torch.bfloat16))
        codes = self._codes(records)
        is_rising = offsets.dtype == torch.int64 and offsets.ndim == 1 and len(offsets) > 0
        if not is_rising or offsets.device != codes.device:
            raise ShapeError(
                "offsets: wanted an int64 tensor (P + 1,) on the device of the records"
            )
        if int(offsets[0]) or int(offsets[-1]) != len(records) or bool((offsets.diff() < 0).any()):
            raise ShapeError(f"offsets: wanted values that rise from 0 to {len(records)}")
        scores = torch.empty(len(offsets) - 1, dtype=torch.float32, device=self._device)
        if len(scores):
            bad_row = max_similarity(queries.contiguous(), codes, offsets, self._codebook, scores)
            self._check_records(bad_row, len(records))
        return scores

    def _codes(self, records: torch.Tensor) -> torch.Tensor:
        """View records as their codes, uint8 (two a word, the first in the low byte) or uint16."""
        self._check_tensor(
            "records", records, self._codec.record_words, (torch.uint16, torch.int16)
        )
        has_bytes = self._codec.codebook_size <= 256
        return records.contiguous().view(torch.uint8 if has_bytes else torch.uint16)

    def _table(self, dtype: str) -> torch.Tensor:
        """Return the codebook cast to `dtype`, and keep it: a copy from it is narrower, and faster.

        For float32 it is the codebook itself: the kernel widens bfloat16 as it copies.
        """
        wanted = _DTYPES[dtype]
        if wanted not in self._tables:
            table = self._codebook.to(wanted)
            if not bool(torch.isfinite(table).all()):
                raise ConfigError(
                    f"dtype: the codebook holds values beyond {dtype}; decode to float32"
                )
            self._tables[wanted] = table
        return self._tables[wanted]

    def _check_records(self, bad_row: torch.Tensor, num_rows: int) -> None:
        row = int(bad_row)
        if row < num_rows:
            raise CorruptionError(
                f"record {row} names a centroid beyond the codec's {self._codec.codebook_size} or "
                "a token id beyond the predictor's, or its pad byte is not zero; the records are "
                "damaged or of another codec",
                row=row,
            )

    def _check_prediction(self, prediction: Prediction, num_rows: int) -> None:
        floats = torch.bfloat16, torch.float32
        self._check_tensor("prediction table", prediction.table, self._codec.dim, floats)
        ids = prediction.token_ids
        if (
            ids.dtype != torch.int32
            or ids.shape != (num_rows,)
            or ids.device != self._codebook.device
        ):
            raise ShapeError(f"token ids: wanted an int32 tensor ({num_rows},) on {self._device}")
        addend = prediction.addend
        if addend is not None:
            self._check_tensor("addend", addend, self._codec.dim, (torch.float32,))
            if len(addend) != num_rows:
                raise ShapeError(f"addend: got {len(addend)} rows, wanted {num_rows}")
        for tensor in (prediction.table, ids, addend):
            if tensor is not None and not tensor.is_contiguous():
                raise ShapeError("prediction: wanted contiguous tensors")

    def _check_tensor(
        self, name: str, tensor: Any, num_columns: int, dtypes: tuple[torch.dtype, ...]
    ) -> None:
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in dtypes:
            got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ShapeError(f"{name}: got {got}, wanted a torch tensor of {names}")
        if tensor.ndim != 2 or tensor.shape[1] != num_columns:
            raise ShapeError(f"{name}: got shape {tuple(tensor.shape)}, wanted (T, {num_columns})")
        if tensor.device != self._codebook.device:
            raise ShapeError(
                f"{name}: got a tensor on {tensor.device}, wanted one on {self._device}"
            )


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Return a copy of a float32 or bfloat16 array, which may be a read-only map, as a tensor."""
    if array.dtype == np.float32:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
