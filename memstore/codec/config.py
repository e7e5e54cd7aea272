"""`config.json`, the part of a codec that names all others: its sha256 is the codec's id."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from memstore.codec.records import RecordLayout
from memstore.errors import CorruptionError, FormatVersionError
from memstore.types import canonical_json

CONFIG_FILE = "config.json"
TENSOR_FILE = "codec.safetensors"
CODEBOOK_TENSOR = "codebook"
FORMAT_VERSION = 1
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """What a product codec is: its shape, and the length and digest of its tensors.

    Attributes:
        dim, num_subspaces, codebook_size: D, M and K.
        dtype: of the codebook as stored, "bfloat16" or "float32".
        tensor_bytes, tensor_sha256: of the file `codec.safetensors`.
    """

    dim: int
    num_subspaces: int
    codebook_size: int
    dtype: str
    tensor_bytes: int
    tensor_sha256: str

    @property
    def record(self) -> RecordLayout:
        """Where the codes are in a record."""
        return RecordLayout.for_codebook(self.num_subspaces, self.codebook_size)

    @property
    def codebook_shape(self) -> tuple[int, int, int]:
        """(M, K, D/M)."""
        return self.num_subspaces, self.codebook_size, self.dim // self.num_subspaces

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return canonical_json(
            {
                **self._fixed_part(),
                "dim": self.dim,
                "num_subspaces": self.num_subspaces,
                "codebook_size": self.codebook_size,
                "dtype": self.dtype,
                "tensors": {
                    TENSOR_FILE: {"num_bytes": self.tensor_bytes, "sha256": self.tensor_sha256}
                },
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str) -> CodecConfig:
        """Read what `to_bytes` wrote.

        Args:
            content: the bytes of `config.json`.
            where: what the codec is called in an error.

        Raises:
            CorruptionError: if this is not the configuration of a codec.
            FormatVersionError: if it is, but of a version or with a part that this code does not
                know.
        """
        values = _parse(content, where)
        try:
            tensors = values["tensors"]
            config = cls(
                dim=_count(values["dim"]),
                num_subspaces=_count(values["num_subspaces"]),
                codebook_size=_count(values["codebook_size"]),
                dtype=values["dtype"],
                tensor_bytes=_count(tensors[TENSOR_FILE]["num_bytes"]),
                tensor_sha256=tensors[TENSOR_FILE]["sha256"],
            )
        except (KeyError, TypeError, ValueError) as err:
            raise _damaged(where, "a field is missing or of the wrong type") from err
        fits = config.dim % config.num_subspaces == 0 and 2 <= config.codebook_size <= 65_536
        if not fits:
            raise _damaged(where, f"no codec has the shape {config.codebook_shape}")
        # What a later version adds stands in a part that this one writes as a constant, or is not
        # there at all.
        if values != json.loads(config.to_bytes()) or config.dtype not in ("bfloat16", "float32"):
            raise _newer(where, "stages, record words or fields that are not known here")
        return config

    def _fixed_part(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "kind": "product",
            "stages": [],
            "record": {"code_bits": self.record.code_bits, "token_id_words": 0, "norm_words": 0},
        }


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as err:
        raise _damaged(where, "not JSON") from err
    if not isinstance(values, dict) or type(values.get("format_version")) is not int:
        raise _damaged(where, "no format_version")
    if values["format_version"] > FORMAT_VERSION:
        raise _newer(
            where, f"format version {values['format_version']}, this code reads {FORMAT_VERSION}"
        )
    return values


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("not a positive integer")
    return value


def _damaged(where: str, what: str) -> CorruptionError:
    return CorruptionError(
        f"{where}: {CONFIG_FILE} is damaged: {what}; restore the codec",
        object=f"{where}/{CONFIG_FILE}",
    )


def _newer(where: str, what: str) -> FormatVersionError:
    return FormatVersionError(
        f"{where}: written by a newer memstore: {what}; upgrade memstore",
        object=f"{where}/{CONFIG_FILE}",
    )
