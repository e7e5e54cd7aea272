"""The product quantizer: vectors to records and back, and the codec as files.

Source: MEMORY-VQ (arXiv 2308.14903), product quantization of token memories; product quantization
is Jégou et al. 2011.

Does not: rotate, predict or normalise vectors before they are quantized. Such stages have their
place in the record and in `config.json`, and a codec that names one is refused.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memstore.codec import arguments, folder, tensorfile
from memstore.codec.config import CODEBOOK_TENSOR, CONFIG_FILE, TENSOR_FILE, CodecConfig
from memstore.errors import ConfigError, CorruptionError, ShapeError

if TYPE_CHECKING:
    import faiss

# What the kernels copy are bits, whatever they mean.
_BITS: dict[int, np.dtype[Any]] = {2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}


class ProductCodec:
    """A codebook for each of M subspaces; a token's record names one centroid in each.

    A codec never changes, may be used from any number of threads at once, and equals another of the
    same id.

    Args:
        codebook: (M, K, D/M) float32 or bfloat16, finite, 2 <= K <= 65,536. Copied.

    Raises:
        ShapeError: if the codebook is not such an array.
    """

    def __init__(self, codebook: np.ndarray) -> None:
        arguments.check_codebook(codebook)
        tensors = tensorfile.serialize({CODEBOOK_TENSOR: codebook})
        num_subspaces, codebook_size, width = codebook.shape
        config = CodecConfig(
            dim=num_subspaces * width,
            num_subspaces=num_subspaces,
            codebook_size=codebook_size,
            dtype=codebook.dtype.name,
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
        codebook = tensorfile.parse(tensors, where=where).get(CODEBOOK_TENSOR)
        wanted = (config.codebook_shape, config.dtype)
        if codebook is None or (codebook.shape, codebook.dtype.name) != wanted:
            raise CorruptionError(
                f"{where}: no codebook of shape {config.codebook_shape} and {config.dtype}, which "
                f"{CONFIG_FILE} promises",
                object=where,
            )
        codebook.flags.writeable = False
        self._codebook = codebook
        self._lock = threading.Lock()
        self._tiles: np.ndarray | None = None
        self._tables: dict[str, np.ndarray] = {config.dtype: codebook}

    @classmethod
    def train(
        cls,
        vectors: np.ndarray,
        *,
        num_subspaces: int,
        codebook_size: int = 65_536,
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
            seed: the same seed, vectors and machine give the same codec.
            dtype: in which the codebook is kept, "bfloat16" or "float32".
            progress: called with the number of subspaces done and M.

        Raises:
            ConfigError, ShapeError: if the options or vectors are not such.
        """
        from memstore.codec.training import train_codebook

        stored_dtype = arguments.check_dtype(dtype, arguments.CODEBOOK_DTYPES)
        codebook = train_codebook(
            vectors, num_subspaces, codebook_size, seed=seed, progress=progress
        )
        return cls(codebook.astype(stored_dtype))

    @classmethod
    def from_faiss(cls, quantizer: faiss.ProductQuantizer) -> ProductCodec:
        """Take over a trained `faiss.ProductQuantizer` of at most 16 bits a code, without loss.

        Returns:
            A codec of float32 centroids; its `decode` equals faiss's bit for bit.

        Raises:
            ConfigError: if it is something else, or not trained.
            ShapeError: if its codes are wider than 16 bits, or its centroids not finite.
        """
        import faiss

        if not isinstance(quantizer, faiss.ProductQuantizer):
            raise ConfigError(f"got a {type(quantizer).__name__}, wanted a faiss.ProductQuantizer")
        shape = (quantizer.M, quantizer.ksub, quantizer.dsub)
        centroids = faiss.vector_to_array(quantizer.centroids)
        if not centroids.any():
            raise ConfigError(
                "the faiss.ProductQuantizer is not trained: all its centroids are zero"
            )
        return cls(centroids.reshape(shape))

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
    def codebook(self) -> np.ndarray:
        """(M, K, D/M) in the dtype that it was given in, read-only."""
        return self._codebook

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Map each vector to its nearest centroid in every subspace.

        The search is exhaustive, by float32 scores; equal scores go to the lowest code. A vector's
        record does not depend on the batch that it is in.

        Args:
            vectors: (T, D) float32, or float16, bfloat16, float64, which are cast; finite.

        Returns:
            (T, W) uint16 records.

        Raises:
            ShapeError: if the shape or dtype differs, or a value is not finite (the first such row
                is named).

        Cost: 2 T K D floating-point operations. The first call lays the codebook out for the
        search: 4 (1 + M/D) bytes of memory for each of its K D values, kept.
        """
        arguments.check_vectors(vectors, self.dim)
        # A float64 beyond float32 becomes infinite, and is refused below.
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        records = self._config.record.empty(len(vectors))
        if not len(vectors):
            return records
        from memstore.codec.kernels import cpu

        if not cpu.assign(vectors, self._assign_tiles(), self._config.record.codes(records)):
            row = np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0]
            raise ShapeError(
                f"vectors: row {row} holds NaN or infinity; only finite values are encoded", row=row
            )
        return records

    def decode(
        self, records: np.ndarray, *, dtype: str = "float32", out: np.ndarray | None = None
    ) -> np.ndarray:
        """Put the centroids that the records name side by side, cast to `dtype`.

        Args:
            records: (T, W) uint16, or int16 of the same bits.
            dtype: "bfloat16" (of ml_dtypes), "float16" or "float32".
            out: (T, D) of that dtype, C-contiguous, to fill instead of a new array. Undefined after
                an error.

        Returns:
            (T, D) vectors.

        Raises:
            ShapeError: if records or `out` are not such arrays.
            ConfigError: if the dtype is none of these, or too narrow for the codebook's values.
            CorruptionError: if a record names a centroid that does not exist.
        """
        wanted = arguments.check_dtype(dtype, tuple(arguments.DTYPES))
        records = arguments.as_records(records, self.record_words)
        if out is None:
            out = np.empty((len(records), self.dim), wanted)
        arguments.check_out(out, (len(records), self.dim), wanted)
        if not len(records):
            return out
        from memstore.codec.kernels import cpu

        layout = self._config.record
        layout.check_pad(records)
        table = self._table(dtype)
        row = cpu.gather(
            layout.codes(records),
            table.view(_BITS[table.itemsize]),
            out.view(_BITS[out.itemsize]),
        )
        if row >= 0:
            raise CorruptionError(
                f"record {row} names a centroid beyond the codec's {self.codebook_size}; "
                "the records are damaged or of another codec",
                row=row,
            )
        return out

    def _assign_tiles(self) -> np.ndarray:
        from memstore.codec.kernels import cpu

        with self._lock:
            if self._tiles is None:
                self._tiles = cpu.prepare(self._codebook)
            return self._tiles

    def _table(self, dtype: str) -> np.ndarray:
        """Return the codebook cast to `dtype`, and keep it.

        For float32 it is the codebook itself: the kernel widens bfloat16 as it copies.
        """
        if dtype == "float32":
            return self._codebook
        with self._lock:
            if dtype not in self._tables:
                with np.errstate(over="ignore"):
                    table = self._codebook.astype(arguments.DTYPES[dtype])
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
            f"{self.codebook_size}, dtype={self._config.dtype!r}, id={self._id[:12]!r})"
        )
