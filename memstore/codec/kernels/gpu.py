"""The codec on a GPU: codes and vectors are torch tensors in its memory, and never leave it.

This module is the door to the `gpu_*` modules; it needs torch and Triton, and says so without them.

Does not: move records or vectors to the device; the caller does, codes being a sixteenth of what
they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from memstore.codec import arguments
from memstore.codec.records import RecordLayout
from memstore.errors import ConfigError, CorruptionError, MissingDependencyError, ShapeError

try:
    import torch

    from memstore.codec.kernels.gpu_assign import assign, half_norms
    from memstore.codec.kernels.gpu_compiler import open_device
    from memstore.codec.kernels.gpu_gather import gather
    from memstore.codec.kernels.gpu_maxsim import max_similarity
    from memstore.codec.kernels.gpu_stages import (
        Expectation,
        GpuPredictor,
        GpuRotation,
        float32_products,
        to_device,
    )
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
_BLOCK_VALUES = 1 << 27  # that pass through the stages at a time: 512 MiB as float32


class GpuCodec:
    """A codec whose tensors lie on a GPU; may be used from any number of threads.

    Args:
        codec: what to decode and encode with.
        device: "cuda" or "cuda:1"; with Triton's interpreter also "cpu".

    Raises:
        ConfigError: if there is no such device, or a subspace is wider than 512.

    Cost: the codebook and the stages' tables in the device's memory, 1/width of the codebook more
    for the search, and its copy in each narrower dtype that is decoded to. A codec with stages
    works in blocks of 2^27 values, of which a few lie in memory as float32.
    """

    def __init__(self, codec: ProductCodec, device: str = "cuda") -> None:
        width = codec.dim // codec.num_subspaces
        if width > _MAX_WIDTH:
            raise ConfigError(
                f"codec: subspaces are {width} wide, wanted at most {_MAX_WIDTH} on a GPU"
            )
        self._codec = codec
        self._device = there = open_device(device)
        self._codebook = to_device(codec.codebook, there)
        self._norms = half_norms(self._codebook)
        self._tables = {torch.float32: self._codebook, self._codebook.dtype: self._codebook}
        self._rotation = GpuRotation.of(codec.rotation, there) if codec.rotation else None
        self._predictor = GpuPredictor.of(codec.predictor, there) if codec.predictor else None
        self._record = RecordLayout.for_codebook(
            codec.num_subspaces,
            codec.codebook_size,
            codec.predictor.vocabulary_size if codec.predictor else 0,
        )

    @property
    def codec(self) -> ProductCodec:
        """The codec that this one equals."""
        return self._codec

    def decode(
        self,
        records: torch.Tensor,
        offsets: torch.Tensor | None = None,
        *,
        dtype: str = "bfloat16",
        rotated: bool = False,
    ) -> torch.Tensor:
        """Put the centroids that the records name side by side, and undo the stages.

        Args:
            records: (T, W) uint16, or int16 of the same bits, on the device.
            offsets: (P + 1,) int64 on the device: passage i is rows `offsets[i]:offsets[i + 1]`;
                None: one passage. Only a codec with a predictor looks at them, and it needs whole
                passages.
            dtype: "bfloat16", "float16" or "float32".
            rotated: leave the vectors in the codebook's basis, for a reader that has folded
                `rotation.matrix()` into its weights.

        Returns:
            (T, D) vectors on the device. Without stages those of `ProductCodec.decode` bit for bit;
            sums of the stages are float32, cast at the end.

        Raises:
            ShapeError: if records or offsets are not such tensors.
            ConfigError: if the dtype is none of these, or too narrow for the codebook's values.
            CorruptionError: if a record names a centroid or a token that does not exist.
        """
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype: got {dtype!r}, wanted {' or '.join(_DTYPES)}")
        codes = self._codes(records)
        expected = self._expected(records, offsets)
        out = self._empty(len(records), self._codec.dim, dtype=_DTYPES[dtype])
        rotation = None if rotated else self._rotation
        for rows in self._blocks(len(records), whole=rotation is None and expected is None):
            if rotation is None:
                self._gather(codes, expected, rows, out[rows])
            else:
                vectors = self._empty(len(out[rows]), self._codec.dim)
                self._gather(codes, expected, rows, vectors)
                out[rows] = rotation.undo(vectors)
        return out

    def encode(
        self,
        vectors: torch.Tensor,
        token_ids: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map each vector to its nearest centroid in every subspace, as `ProductCodec.encode`.

        The search is exhaustive, by float32 scores; equal scores go to the lowest code. Where two
        scores differ by less than their rounding, the code may differ from the processor's.

        Args:
            vectors: (T, D) float16, bfloat16, float32 or float64 (which is cast), finite, on the
                device. From a bfloat16 codebook without stages, narrower vectors are encoded
                faster.
            token_ids: (T,) int32 or int64 on the device, for a codec that `needs_token_ids`; others
                ignore them.
            offsets: (P + 1,) int64 on the device: passage i is rows `offsets[i]:offsets[i + 1]`;
                None: one passage.

        Returns:
            (T, W) uint16 records on the device.

        Raises:
            ShapeError: if they are not such tensors, or a value is not finite (the first such row
                is named).
        """
        self._check_tensor("vectors", vectors, self._codec.dim, _VECTOR_DTYPES)
        shape = len(vectors), self._record.num_words
        records = torch.zeros(shape, dtype=torch.uint16, device=self._device)
        if self._predictor is not None:
            self._put_token_ids(records, token_ids, len(self._predictor.tokens))
        expected = self._expected(records, offsets)
        codes = self._codes(records)
        has_stages = self._rotation is not None or expected is not None
        for rows in self._blocks(len(vectors), whole=not has_stages):
            block = vectors[rows].detach()
            if has_stages or block.dtype == torch.float64:
                block = block.float()  # what is beyond float32 becomes infinite, and is refused
            if self._rotation is not None:
                block = self._rotation.apply(block)
            if expected is not None:
                block = block - expected.vectors(rows)
            bad_row = assign(block.contiguous(), self._codebook, self._norms, codes[rows])
            row = rows.start + int(bad_row)
            if row < rows.stop:
                raise ShapeError(
                    f"vectors: row {row} holds NaN or infinity, or nearly; only finite values are "
                    "encoded",
                    row=row,
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
            CorruptionError: if a record names a centroid or a token that does not exist.

        Cost: with a predictor, vectors are decoded to memory, a block at a time; without, never.
        """
        self._check_tensor("queries", queries, self._codec.dim, (torch.float32, torch.bfloat16))
        codes = self._codes(records)
        expected = self._expected(records, offsets)
        queries = queries.detach()
        if self._rotation is not None:  # keeps inner products as they are
            queries = self._rotation.apply(queries.float())
        if expected is not None:
            products = self._products(queries.float(), codes, expected)
            return torch.segment_reduce(products, "max", offsets=offsets).sum(dim=1)
        scores = self._empty(len(offsets) - 1)
        if len(scores):
            bad_row = max_similarity(queries.contiguous(), codes, offsets, self._codebook, scores)
            self._check_row(bad_row, slice(0, len(records)))
        return scores

    def _products(
        self, queries: torch.Tensor, codes: torch.Tensor, expected: Expectation
    ) -> torch.Tensor:
        """Return (T, Q) float32, the inner products of decoded vectors with rotated queries."""
        products = self._empty(len(codes), len(queries))
        for rows in self._blocks(len(codes), whole=False):
            vectors = self._empty(len(products[rows]), self._codec.dim)
            self._gather(codes, expected, rows, vectors)
            with float32_products(self._device):
                torch.mm(vectors, queries.T, out=products[rows])
        return products

    def _gather(
        self, codes: torch.Tensor, expected: Expectation | None, rows: slice, out: torch.Tensor
    ) -> None:
        """Fill `out` with the centroids and predictions of these rows, in the codebook's basis."""
        if expected is None:
            bad_row = gather(codes[rows], self._table(out.dtype), out)
        else:
            bad_row = gather(codes[rows], self._codebook, out, expected.prediction(rows))
        self._check_row(bad_row, rows)

    def _blocks(self, num_rows: int, *, whole: bool) -> Iterator[slice]:
        """Yield slices of the rows; `whole`: nothing but the kernel runs, and all go at once."""
        step = max(1, num_rows if whole else _BLOCK_VALUES // self._codec.dim)
        for start in range(0, num_rows, step):
            yield slice(start, min(start + step, num_rows))

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)

    def _expected(self, records: torch.Tensor, offsets: torch.Tensor | None) -> Expectation | None:
        """Return what is predicted from the token ids in the records, if anything is."""
        if offsets is not None:
            self._check_offsets(offsets, len(records))
        if self._predictor is None:
            return None
        if offsets is None:
            offsets = torch.tensor([0, len(records)], device=self._device)
        words = records.view(torch.int16)[:, self._record.num_code_words :].int() & 0xFFFF
        token_ids = words[:, 0].contiguous()
        if self._record.token_id_words == 2:
            token_ids |= words[:, 1] << 16  # what becomes negative is refused like all unknown ids
        return self._predictor.expect(token_ids, offsets)

    def _put_token_ids(self, records: torch.Tensor, token_ids: Any, vocabulary_size: int) -> None:
        """Check the ids of the vectors, and write them into the records."""
        if token_ids is None:
            raise ShapeError("token_ids: got none; the codec predicts from them, one a vector")
        self._check_vector("token_ids", token_ids, (torch.int32, torch.int64))
        if len(token_ids) != len(records):
            raise ShapeError(f"token_ids: got {len(token_ids)}, wanted {len(records)}")
        bad_rows = torch.nonzero((token_ids < 0) | (token_ids >= vocabulary_size))
        if len(bad_rows):
            row = int(bad_rows[0])
            raise ShapeError(
                f"token_ids: row {row} is {int(token_ids[row])}, wanted 0 to {vocabulary_size - 1}",
                row=row,
            )
        words = records.view(torch.int16)[:, self._record.num_code_words :]
        for word in range(self._record.token_id_words):
            words[:, word] = (token_ids >> 16 * word).to(torch.int16)  # keeps the low bits

    def _codes(self, records: torch.Tensor) -> torch.Tensor:
        """View records as their codes, uint8 (two a word, the first in the low byte) or uint16."""
        self._check_tensor("records", records, self._record.num_words, (torch.uint16, torch.int16))
        words = records.contiguous()[:, : self._record.num_code_words]
        return words.view(torch.uint8 if self._record.code_bits == 8 else torch.uint16)

    def _table(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the codebook cast to `dtype`, and keep it: a copy from it is narrower, and faster.

        For float32 it is the codebook itself: the kernel widens bfloat16 as it copies.
        """
        if dtype not in self._tables:
            table = self._codebook.to(dtype)
            if not bool(torch.isfinite(table).all()):
                raise ConfigError(
                    f"dtype: the codebook holds values beyond {_name(dtype)}; decode to float32"
                )
            self._tables[dtype] = table
        return self._tables[dtype]

    def _check_row(self, bad_row: torch.Tensor, rows: slice) -> None:
        """Refuse the row that a kernel found bad among these, if it found one."""
        row = rows.start + int(bad_row)
        if row < rows.stop:
            raise CorruptionError(
                f"record {row} names a centroid beyond the codec's {self._codec.codebook_size} or "
                "a token id beyond the predictor's, or its pad byte is not zero; the records are "
                "damaged or of another codec",
                row=row,
            )

    def _check_offsets(self, offsets: Any, num_rows: int) -> None:
        self._check_vector("offsets", offsets, (torch.int64,))
        arguments.as_offsets(offsets.cpu().numpy(), num_rows)

    def _check_tensor(
        self, name: str, tensor: Any, num_columns: int, dtypes: tuple[torch.dtype, ...]
    ) -> None:
        self._check_kind(name, tensor, dtypes)
        if tensor.ndim != 2 or tensor.shape[1] != num_columns:
            raise ShapeError(f"{name}: got shape {tuple(tensor.shape)}, wanted (T, {num_columns})")

    def _check_vector(self, name: str, tensor: Any, dtypes: tuple[torch.dtype, ...]) -> None:
        self._check_kind(name, tensor, dtypes)
        if tensor.ndim != 1:
            raise ShapeError(f"{name}: got shape {tuple(tensor.shape)}, wanted one dimension")

    def _check_kind(self, name: str, tensor: Any, dtypes: tuple[torch.dtype, ...]) -> None:
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in dtypes:
            got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            names = ", ".join(_name(dtype) for dtype in dtypes)
            raise ShapeError(f"{name}: got {got}, wanted a torch tensor of {names}")
        if tensor.device != self._codebook.device:
            raise ShapeError(
                f"{name}: got a tensor on {tensor.device}, wanted one on {self._device}"
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
