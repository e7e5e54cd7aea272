"""`config.json`, the part of a codec that names all others: its sha256 is the codec's id."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from memstore.codec.records import RecordLayout
from memstore.errors import CorruptionError, FormatVersionError
from memstore.types import canonical_json

CONFIG_FILE = "config.json"
TENSOR_FILE = "codec.safetensors"
FORMAT_VERSION = 1
MAX_CONFIG_BYTES = 1 << 20
MAX_CONTEXT = 1 << 12

_STAGE_FIELDS = {
    "token_predictor": {"kind", "vocabulary_size", "num_places", "context_width"},
    "rotation": {"kind", "block"},
}


@dataclass(frozen=True, slots=True)
class PredictorShape:
    """What a token predictor is made of: V ids, L places, r features of a neighbour."""

    vocabulary_size: int
    num_places: int
    context_width: int


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """What a product codec is: its shape, and the length and digest of its tensors.

    Attributes:
        dim, num_subspaces, codebook_size: D, M and K.
        dtype: of the codebook as stored, "bfloat16" or "float32".
        predictor: the stage that comes first, if there is one.
        rotation_block: width of the rotation's blocks, D if it is dense; 0: no rotation.
        tensor_bytes, tensor_sha256: of the file `codec.safetensors`.
    """

    dim: int
    num_subspaces: int
    codebook_size: int
    dtype: str
    predictor: PredictorShape | None
    rotation_block: int
    tensor_bytes: int
    tensor_sha256: str

    @property
    def record(self) -> RecordLayout:
        """Where the codes are in a record."""
        vocabulary_size = self.predictor.vocabulary_size if self.predictor else 0
        return RecordLayout.for_codebook(self.num_subspaces, self.codebook_size, vocabulary_size)

    @property
    def tensors(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each tensor in `codec.safetensors`, by name."""
        dim = self.dim
        shape = self.num_subspaces, self.codebook_size, dim // self.num_subspaces
        tensors: dict[str, tuple[tuple[int, ...], str]] = {"codebook": (shape, self.dtype)}
        if self.rotation_block:
            width = self.rotation_block
            tensors["rotation.blocks"] = (dim // width, width, width), "float32"
            tensors["rotation.order"] = (dim,), "int32"
        if self.predictor:
            tensors["predictor.tokens"] = (self.predictor.vocabulary_size, dim), "bfloat16"
            tensors["predictor.positions"] = (self.predictor.num_places, dim), "float32"
            width = self.predictor.context_width
            if width:
                tensors["predictor.features"] = (self.predictor.vocabulary_size, width), "float32"
                tensors["predictor.context"] = (5 * width, dim), "float32"
        return tensors

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        record = self.record
        return canonical_json(
            {
                "format_version": FORMAT_VERSION,
                "kind": "product",
                "dim": self.dim,
                "num_subspaces": self.num_subspaces,
                "codebook_size": self.codebook_size,
                "dtype": self.dtype,
                "stages": self._stages(),
                "record": {
                    "code_bits": record.code_bits,
                    "token_id_words": record.token_id_words,
                    "norm_words": 0,
                },
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
            stages = _stages_by_kind(values["stages"], where)
            config = cls(
                dim=_count(values["dim"]),
                num_subspaces=_count(values["num_subspaces"]),
                codebook_size=_count(values["codebook_size"]),
                dtype=values["dtype"],
                predictor=_predictor(stages.get("token_predictor")),
                rotation_block=_count(stages["rotation"]["block"]) if "rotation" in stages else 0,
                tensor_bytes=_count(tensors[TENSOR_FILE]["num_bytes"]),
                tensor_sha256=tensors[TENSOR_FILE]["sha256"],
            )
        except (KeyError, TypeError, ValueError) as err:
            raise _damaged(where, "a field is missing or of the wrong type") from err
        fits = config.dim % config.num_subspaces == 0 and 2 <= config.codebook_size <= 65_536
        if not fits or (config.rotation_block and config.dim % config.rotation_block):
            raise _damaged(where, "no codec has this shape")
        # What a later version adds stands in a part that this one writes as a constant, or is not
        # there at all.
        if values != json.loads(config.to_bytes()) or config.dtype not in ("bfloat16", "float32"):
            raise _newer(where, "stages, record words or fields that are not known here")
        return config

    def _stages(self) -> list[dict[str, Any]]:
        """Return the stages in the order of encoding."""
        stages: list[dict[str, Any]] = []
        if self.predictor:
            stages.append({"kind": "token_predictor", **asdict(self.predictor)})
        if self.rotation_block:
            stages.append({"kind": "rotation", "block": self.rotation_block})
        return stages


def _stages_by_kind(stages: list[dict[str, Any]], where: str) -> dict[str, dict[str, Any]]:
    """Return the stages; refuse those that a later version may have written."""
    for stage in stages:
        if set(stage) != _STAGE_FIELDS.get(stage["kind"]):
            raise _newer(where, f"a stage {stage['kind']!r} that is not known here")
    return {stage["kind"]: stage for stage in stages}


def _predictor(stage: dict[str, Any] | None) -> PredictorShape | None:
    if stage is None:
        return None
    if type(stage["context_width"]) is not int or not 0 <= stage["context_width"] <= MAX_CONTEXT:
        raise ValueError("not a width of the context")
    vocabulary_size = _count(stage["vocabulary_size"])
    return PredictorShape(vocabulary_size, _count(stage["num_places"]), stage["context_width"])


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
