"""The product quantizer and its two linear stages: vectors to records and back, the codec as files.

An encoded vector is `x = undo(rotation, centroids + prediction)`, near enough. Both stages are
optional; without them the codec is that of MEMORY-VQ.

Source: MEMORY-VQ (arXiv 2308.14903), product quantization of token memories; product quantization
is Jégou et al. 2011, the rotation Ge et al. 2013.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from memstore.codec import arguments, folder, tensorfile
from memstore.codec.buffers import aligned_empty
from memstore.codec.config import CONFIG_FILE, TENSOR_FILE, CodecConfig, PredictorShape
from memstore.codec.passages import blocks
from memstore.codec.predictor import TokenPredictor
from memstore.codec.rotation import Rotation
from memstore.errors import ConfigError, CorruptionError, ShapeError

# What the kernels copy are bits, whatever they mean.
_BITS: dict[int, np.dtype[Any]] = {2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}
_ENCODED_ROWS = 1 << 13  # that pass through the stages at a time
_DECODED_BYTES = 16 << 20  # of float32 vectors, likewise: what is rotated back is still in a cache


class ProductCodec:
    """A codebook for each of M subspaces; a token's record names one centroid in each.

    A codec never changes, may be used from any number of threads at once, and equals another of the
    same id.

    Args:
        codebook: (M, K, D/M) float32 or bfloat16, finite, 2 <= K <= 65,536. Copied.
        rotation: of D dimensions: the codebook is of rotated vectors.
        predictor: of D dimensions, in the basis of the codebook: the codebook is of what it leaves.

    Raises:
        ShapeError: if the codebook is not such an array, or a stage of another width.
    """

    def __init__(
        self,
        codebook: np.ndarray,
        *,
        rotation: Rotation | None = None,
        predictor: TokenPredictor | None = None,
    ) -> None:
        arguments.check_codebook(codebook)
        num_subspaces, codebook_size, width = codebook.shape
        arguments.check_stages(num_subspaces * width, rotation, predictor)
        parts = {"codebook": codebook}
        if rotation is not None:
            parts |= {"rotation.blocks": rotation.blocks, "rotation.order": rotation.order}
        if predictor is not None:
            parts |= predictor.tensors()
        tensors = tensorfile.serialize(parts)
        config = CodecConfig(
            dim=num_subspaces * width,
            num_subspaces=num_subspaces,
            codebook_size=codebook_size,
            dtype=codebook.dtype.name,
            predictor=PredictorShape(*predictor.shape) if predictor is not None else None,
            rotation_block=rotation.blocks.shape[1] if rotation is not None else 0,
            tensor_bytes=len(tensors),
            tensor_sha256=hashlib.sha256(tensors.data).hexdigest(),
        )
        self._open(config, config.to_bytes(), tensors, where="codec")

    def _open(
        self, config: CodecConfig, content: bytes, tensors: np.ndarray, *, where: str
    ) -> None:
        self._config = config
        self._files = content, tensors
        self._id = hashlib.sha256(content).hexdigest()
        parts = tensorfile.parse(tensors, where=where)
        found = {name: (part.shape, part.dtype.name) for name, part in parts.items()}
        if found != config.tensors:
            raise CorruptionError(
                f"{where}: {TENSOR_FILE} holds {found}, but {CONFIG_FILE} promises "
                f"{config.tensors}; restore the codec",
                object=where,
            )
        for part in parts.values():
            part.flags.writeable = False
        self._codebook = parts["codebook"]
        self._rotation = self._predictor = None
        if config.rotation_block:
            self._rotation = Rotation(parts["rotation.blocks"], parts["rotation.order"])
            if not self._rotation.is_permuted():
                raise CorruptionError(f"{where}: the rotation's order is no permutation")
        if config.predictor:
            self._predictor = TokenPredictor.from_tensors(parts)
        self._lock = threading.Lock()
        self._searches: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {}
        self._tables: dict[str, np.ndarray] = {config.dtype: self._codebook}

    @classmethod
    def train(
        cls,
        vectors: np.ndarray,
        *,
        num_subspaces: int,
        codebook_size: int = 65_536,
        token_ids: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        vocabulary: np.ndarray | int | None = None,
        rotation: str | None = None,
        rotation_block: int | None = None,
        predictor: str | None = None,
        seed: int = 0,
        dtype: str = "bfloat16",
        progress: Callable[[int, int], None] | None = None,
    ) -> ProductCodec:
        """Train a codec on a sample.

        Args:
            vectors: (N, D) float16, bfloat16 or float32, finite, N >= codebook_size; may be a
                memory map.
            num_subspaces: M, a divisor of D.
            codebook_size: K.
            token_ids: (N,) integers, for a predictor.
            offsets: (P + 1,): passage i is rows `offsets[i]:offsets[i + 1]`; None: one passage.
            vocabulary: for a predictor: V, or better a (V, F) array of something that is known of
                every token, such as its memory when it stands alone: the prediction of a token
                that is rare in the sample leans on it.
            rotation: "pca", "opq" or None.
            rotation_block: width of the blocks of a block-diagonal "pca"; None: dense.
            predictor: "token" (id and place), "context" (neighbours and passage as well) or None.
            seed: the same seed, vectors and machine give the same codec.
            dtype: in which the codebook is kept, "bfloat16" or "float32".
            progress: called with the number of subspaces done and M.

        Raises:
            ConfigError, ShapeError: if the options or vectors are not such.
        """
        from memstore.codec import fitting
        from memstore.codec.sample import Sample

        stored_dtype = arguments.check_dtype(dtype, arguments.CODEBOOK_DTYPES)
        fitted = fitting.fit(
            Sample(vectors, token_ids, offsets, vocabulary),
            fitting.Stages(rotation, rotation_block, predictor),
            num_subspaces,
            codebook_size,
            seed=seed,
            progress=progress,
        )
        return cls(
            fitted.codebook.astype(stored_dtype),
            rotation=fitted.rotation,
            predictor=fitted.predictor,
        )

    @classmethod
    def from_faiss(cls, quantizer: Any, rotation: Any = None) -> ProductCodec:
        """Take over a quantizer that faiss has trained; see `interchange.from_faiss`."""
        from memstore.codec import interchange

        return interchange.from_faiss(quantizer, rotation)

    def to_faiss(self) -> Any:
        """Return an empty faiss index that encodes alike; see `interchange.to_faiss`."""
        from memstore.codec import interchange

        return interchange.to_faiss(self)

    @classmethod
    def load(cls, path: str | Path, *, codec_id: str | None = None) -> ProductCodec:
        """Open the codec that `save` left in a folder; its codebook is mapped, not copied.

        Args:
            path: the folder.
            codec_id: which codec this must be.

        Raises:
            CodecNotFoundError: if there is no codec.
            CorruptionError: if the files are not those of the codec, or not of `codec_id`.
            FormatVersionError: if they were written by a newer version.
            StorageError: if they cannot be read.
        """
        content = folder.read_config(Path(path))
        tensors = tensorfile.map_file(Path(path) / TENSOR_FILE)
        return cls.from_bytes(content, tensors, codec_id=codec_id, where=str(path))

    @classmethod
    def from_bytes(
        cls,
        config: bytes,
        tensors: bytes | memoryview | np.ndarray,
        *,
        codec_id: str | None = None,
        where: str = "codec",
    ) -> ProductCodec:
        """Open a codec from the contents of its two files; digests are checked before parsing.

        Args:
            config: of `config.json`.
            tensors: of `codec.safetensors`; kept, not copied, and not to be changed afterwards.
            codec_id: which codec this must be.
            where: what the codec is called in an error.

        Raises:
            CorruptionError, FormatVersionError: as `load`.
        """
        folder.check_id(config, codec_id, where=where)
        parsed = CodecConfig.from_bytes(config, where=where)
        buffer = np.frombuffer(tensors, np.uint8)
        folder.check_tensors(buffer, parsed, where=where)
        codec = cls.__new__(cls)
        codec._open(parsed, config, buffer, where=where)
        return codec

    def files(self) -> dict[str, bytes | memoryview]:
        """Return the contents of the codec's files by name; the codebook is not copied."""
        content, tensors = self._files
        return {CONFIG_FILE: content, TENSOR_FILE: tensors.data}

    def save(self, path: str | Path) -> None:
        """Write the codec to a folder, which is made; a crash leaves the whole codec or none.

        Raises:
            AlreadyExistsError: if the folder holds another codec.
            StorageFullError, StorageError: if it cannot be written.
        """
        folder.write(Path(path), self.files())

    @property
    def id(self) -> str:
        """sha256 of `config.json`, which holds the digest of the codebook."""
        return self._id

    @property
    def dim(self) -> int:
        """D, the width of a vector."""
        return self._config.dim

    @property
    def num_subspaces(self) -> int:
        """M."""
        return self._config.num_subspaces

    @property
    def codebook_size(self) -> int:
        """K, centroids in a subspace."""
        return self._config.codebook_size

    @property
    def record_words(self) -> int:
        """W, 16-bit words in a record; bytes per token = 2 W."""
        return self._config.record.num_words

    @property
    def rotation(self) -> Rotation | None:
        """The change of basis before the quantizer, if there is one."""
        return self._rotation

    @property
    def predictor(self) -> TokenPredictor | None:
        """What is subtracted before the quantizer, if anything."""
        return self._predictor

    @property
    def needs_token_ids(self) -> bool:
        """Whether `encode` must be told the token ids."""
        return self._predictor is not None

    @property
    def codebook(self) -> np.ndarray:
        """(M, K, D/M) in the dtype that it was given in, read-only."""
        return self._codebook

    def encode(
        self,
        vectors: np.ndarray,
        token_ids: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        *,
        search: str = "exact",
    ) -> np.ndarray:
        """Map each vector to its nearest centroid in every subspace.

        Without stages, a vector's record does not depend on the batch that it is in. A rotation is
        a matrix product, whose last bit may; a predictor looks at the passage.

        Args:
            vectors: (T, D) float32, or float16, bfloat16, float64, which are cast; finite.
            token_ids: (T,) integers, for a codec that `needs_token_ids`; others ignore them.
            offsets: (P + 1,): passage i is rows `offsets[i]:offsets[i + 1]`; None: one passage.
            search: "exact": the nearest of all centroids, of equals the lowest code. "fast": of a
                large codebook the most promising part is searched; the squared error is at most
                about 1 % larger (docs/results/codec.md).

        Returns:
            (T, W) uint16 records.

        Raises:
            ShapeError: if a shape or dtype differs, or a value is not finite (the first such row
                is named).
            ConfigError: if the search is neither.

        Cost: exact, 2 T K D integer or floating-point operations, and 2 T D b to rotate. The first
        call lays the codebook out for the search, and keeps that.
        """
        if search not in ("exact", "fast"):
            raise ConfigError(f"search: got {search!r}, wanted 'exact' or 'fast'")
        arguments.check_vectors(vectors, self.dim)
        if self._predictor is not None:
            size = self._predictor.vocabulary_size
            token_ids = arguments.check_token_ids(token_ids, len(vectors), size)
        offsets = arguments.as_offsets(offsets, len(vectors))
        records = self._config.record.empty(len(vectors))
        if not len(vectors):
            return records
        find = self._search(search)
        for rows, passages in _blocks(offsets, _ENCODED_ROWS, whole=self._predictor is not None):
            # A float64 beyond float32 becomes infinite, and is refused below.
            with np.errstate(over="ignore", invalid="ignore"):
                rotated = np.ascontiguousarray(vectors[rows], dtype=np.float32)
                if self._rotation is not None:
                    rotated = self._rotation.apply(rotated)
            if self._predictor is not None and token_ids is not None:
                self._config.record.put_token_ids(records[rows], token_ids[rows])
                rotated = rotated - self._predictor.predict(token_ids[rows], passages)
            if not find(rotated, self._config.record.codes(records[rows])):
                row = rows.start + int(np.flatnonzero(~np.isfinite(rotated).all(axis=1))[0])
                raise ShapeError(
                    f"vectors: row {row} holds NaN or infinity, or nearly; only finite values are "
                    "encoded",
                    row=row,
                )
        return records

    def decode(
        self,
        records: np.ndarray,
        offsets: np.ndarray | None = None,
        *,
        dtype: str = "float32",
        out: np.ndarray | None = None,
        rotated: bool = False,
    ) -> np.ndarray:
        """Put the centroids that the records name side by side, and undo the stages.

        Args:
            records: (T, W) uint16, or int16 of the same bits.
            offsets: (P + 1,): passage i is rows `offsets[i]:offsets[i + 1]`; None: one passage.
                Only a codec with a predictor looks at them, and it needs whole passages.
            dtype: "bfloat16" (of ml_dtypes), "float16" or "float32".
            out: (T, D) of that dtype, C-contiguous, to fill instead of a new array. Undefined after
                an error.
            rotated: leave the vectors in the codebook's basis, for a reader that has folded
                `rotation.matrix()` into its weights.

        Returns:
            (T, D) vectors. Without stages their bits are the codebook's, cast; sums of the stages
            are float32, cast at the end.

        Raises:
            ShapeError: if records, offsets or `out` are not such arrays.
            ConfigError: if the dtype is none of these, or too narrow for the codebook's values.
            CorruptionError: if a record names a centroid or a token that does not exist.
        """
        wanted = arguments.check_dtype(dtype, tuple(arguments.DTYPES))
        records = arguments.as_records(records, self.record_words)
        offsets = arguments.as_offsets(offsets, len(records))
        if out is None:
            out = aligned_empty((len(records), self.dim), wanted)
        arguments.check_out(out, (len(records), self.dim), wanted)
        if not len(records):
            return out
        self._config.record.check_pad(records)
        rotation = None if rotated else self._rotation
        if self._predictor is None and rotation is None:
            self._gather(records, offsets, dtype, out, first_row=0)
            return out
        step = max(1, _DECODED_BYTES // (4 * self.dim))
        for rows, passages in _blocks(offsets, step, whole=self._predictor is not None):
            if rotation is not None:
                vectors = aligned_empty((rows.stop - rows.start, self.dim), np.float32)
                self._gather(records[rows], passages, "float32", vectors, first_row=rows.start)
                out[rows] = rotation.undo(vectors)
            else:
                self._gather(records[rows], passages, dtype, out[rows], first_row=rows.start)
        return out

    def _gather(
        self, records: np.ndarray, offsets: np.ndarray, dtype: str, out: np.ndarray, first_row: int
    ) -> None:
        """Fill `out` with centroids and predictions, in the codebook's basis."""
        from memstore.codec.kernels import gather

        codes = self._config.record.codes(records)
        if self._predictor is None:
            table = self._table(dtype)
            bits = _BITS[table.itemsize], _BITS[out.itemsize]
            row = gather.gather(codes, table.view(bits[0]), out.view(bits[1]))
        else:
            token_ids = self._config.record.token_ids(records)
            # An id beyond the vocabulary is refused by the kernel; until then any other will do.
            known_ids = np.minimum(token_ids, self._predictor.vocabulary_size - 1)
            addend, addend_rows = self._predictor.surroundings(known_ids, offsets)
            row = gather.gather_sum(
                codes,
                self._codebook,
                out,
                rows=token_ids,
                row_table=self._predictor.tokens,
                addend=addend,
                addend_rows=addend_rows,
            )
        if row >= 0:
            what = f"a centroid beyond the codec's {self.codebook_size}"
            if self._predictor is not None:
                what += f" or a token beyond its {self._predictor.vocabulary_size}"
            raise CorruptionError(
                f"record {first_row + row} names {what}; the records are damaged or of another "
                "codec",
                row=first_row + row,
            )

    def _search(self, search: str) -> Callable[[np.ndarray, np.ndarray], bool]:
        from memstore.codec.kernels import cpu

        with self._lock:
            if search not in self._searches:
                self._searches[search] = cpu.searcher(self._codebook, search)
            return self._searches[search]

    def _table(self, dtype: str) -> np.ndarray:
        """Return the codebook cast to `dtype`, and keep it.

        For float32 it is the codebook itself: the kernel widens bfloat16 as it copies.
        """
        if dtype == "float32":
            return self._codebook
        with self._lock:
            if dtype not in self._tables:
                table = aligned_empty(self._codebook.shape, arguments.DTYPES[dtype])
                with np.errstate(over="ignore"):
                    table[...] = self._codebook
                if not np.isfinite(table).all():
                    raise ConfigError(
                        f"dtype: the codebook holds values beyond {dtype}; decode to float32"
                    )
                self._tables[dtype] = table
            return self._tables[dtype]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProductCodec) and self._id == other._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return (
            f"ProductCodec(dim={self.dim}, num_subspaces={self.num_subspaces}, codebook_size="
            f"{self.codebook_size}, rotation={self._config.rotation_block}, predictor="
            f"{self.needs_token_ids}, dtype={self._config.dtype!r}, id={self._id[:12]!r})"
        )


def _blocks(
    offsets: np.ndarray, num_rows: int, *, whole: bool
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of about `num_rows` and the offsets in each; `whole`: passages are not cut."""
    if not whole:
        for start in range(0, int(offsets[-1]), num_rows):
            stop = min(start + num_rows, int(offsets[-1]))
            yield slice(start, stop), np.array([0, stop - start])
        return
    for first, last in blocks(offsets, num_rows):
        start, stop = int(offsets[first]), int(offsets[last])
        yield slice(start, stop), offsets[first : last + 1] - start
