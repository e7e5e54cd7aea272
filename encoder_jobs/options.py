"""What a user asks of an encoding job."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memstore.encoders import DEFAULT_SOURCE, EncoderOptions
from memstore.errors import ConfigError
from memstore.storage import WRITE_MODES, WriteMode

DEFAULT_PARTITION_BYTES = 1 << 20
DEFAULT_CODEC_SAMPLE_TOKENS = 131_072
_ENCODER_FIELDS = (
    "live_fraction",
    "window_tokens",
    "stride_tokens",
    "template",
    "retriever",
    "pool_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What to encode and how.

    Attributes:
        layout, id_field, text_field, title_field: see `memstore.text.open_corpus`.
        codec: `"auto"` (the collection's, or one trained on a sample), a codec's id in the
            collection, or a codec's folder.
        codec_sample_tokens: memories that a new codec is trained on.
        codec_search: `"exact"`, or `"fast"`: at most 1 % more squared error, in a fraction of the
            time where a codebook has tens of thousands of centroids (`ProductCodec.encode`).
        partition_bytes: text in one partition, which becomes one shard: what a crash can lose.
        max_bad_fraction: a corpus with a larger share of unreadable records is refused.
    """

    collection: str = "default"
    mode: WriteMode = "append"
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    codec: str = "auto"
    codec_sample_tokens: int = DEFAULT_CODEC_SAMPLE_TOKENS
    codec_search: str = "exact"
    layout: str = "auto"
    id_field: str | None = None
    text_field: str | None = None
    title_field: str | None = None
    partition_bytes: int = DEFAULT_PARTITION_BYTES
    max_bad_fraction: float = 0.001

    def __post_init__(self) -> None:
        if self.mode not in WRITE_MODES:
            raise ConfigError(f"mode {self.mode!r}; wanted one of {', '.join(WRITE_MODES)}")
        if self.codec_search not in ("exact", "fast"):
            raise ConfigError(f"codec_search {self.codec_search!r}; wanted 'exact' or 'fast'")
        if self.partition_bytes < 1 or self.codec_sample_tokens < 1:
            raise ConfigError("partition_bytes and codec_sample_tokens must be at least 1")

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> EncodeOptions:
        """Build from the JSON values of `dataclasses.asdict`."""
        return cls(**{**value, "encoder": EncoderOptions.from_dict(value["encoder"])})


def make_options(*, encoder: str | None = None, **options: Any) -> EncodeOptions:
    """Build `EncodeOptions` from flat keywords: its own fields, `encoder` (the source) and the
    fields of `EncoderOptions`. Checkpoint folders become absolute: a reader of the collection may
    stand elsewhere.
    """
    chosen = {name: options.pop(name) for name in _ENCODER_FIELDS if name in options}
    if encoder is not None:
        chosen["source"] = encoder
    for name in {"source", "retriever"} & chosen.keys():
        chosen[name] = _absolute(chosen[name])
    return EncodeOptions(encoder=EncoderOptions(**chosen), **options)


def _absolute(source: Any) -> Any:
    """Return the absolute path of a folder; names, hub ids and what is no source as they are."""
    if not isinstance(source, str) or source in ("", DEFAULT_SOURCE) or not Path(source).is_dir():
        return source
    return str(Path(source).absolute())
