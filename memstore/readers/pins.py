"""A reader understands the memories that it was trained on, and no others.

Vectors of another encoder, or through another codec, would give answers all the same, and nobody
would see that they are worse; so they are refused.
"""

from __future__ import annotations

from typing import Any

from memstore.errors import CodecMismatchError, EncoderMismatchError, InvalidInputError
from memstore.models.lumen_config import LumenConfig
from memstore.readers.sources import AsyncMemorySource, is_async
from memstore.types import MemorySource, QueryResult

_SHOWN_DIGITS = 16


def check_collection(
    config: LumenConfig, source: MemorySource | AsyncMemorySource, collection: str
) -> None:
    """Compare a collection with what a model was trained on before any question is asked.

    Only sources that describe their collections are asked, as a `Store` and a `Client` do; what
    the others hold shows with their first answer.

    Raises:
        EncoderMismatchError, CodecMismatchError: as `check_pins`.
        MemstoreError: as the source.
    """
    describe: Any = getattr(source, "collection_info", None)
    if describe is None or is_async(source):
        return
    info = describe(collection)
    check_pins(
        config,
        collection=collection,
        encoder_id=info.encoder_id,
        codec_id=info.codec_id,
        memory_dims={info.memory_dim},
        encoder_source=info.encoder_source,
    )


def check_result(config: LumenConfig, result: QueryResult) -> None:
    """Compare what a source answers with what a model was trained on.

    Raises:
        EncoderMismatchError, CodecMismatchError: as `check_pins`.
        InvalidInputError: if the source does not give one memory a hit.
    """
    if len(result.hits) != len(result.memories):
        raise InvalidInputError(
            f"the source of memories gave {len(result.hits)} hits and {len(result.memories)} "
            "memories; wanted one memory a hit"
        )
    check_pins(
        config,
        collection=result.collection,
        encoder_id=result.encoder_id,
        codec_id=result.codec_id,
        memory_dims={memory.codec.dim for memory in result.memories},
    )


def check_pins(
    config: LumenConfig,
    *,
    collection: str,
    encoder_id: str,
    codec_id: str,
    memory_dims: set[int],
    encoder_source: str = "",
) -> None:
    """Refuse a collection that is not what a model was trained on, and say all that differs.

    Args:
        config: holds the pins; an empty one is not compared.
        collection: what is refused, for the error.
        encoder_id: of the encoder that made its memories.
        codec_id: of the codec that they went through.
        memory_dims: how wide they are.
        encoder_source: where the encoder came from, for the error.

    Raises:
        EncoderMismatchError: if the encoder or the width differs.
        CodecMismatchError: if only the codec differs.
    """
    differences = []
    if config.encoder_id not in ("", encoder_id):
        origin = f" ({encoder_source})" if encoder_source else ""
        differences.append(
            f"its encoder is {_short(encoder_id)}{origin}, wanted {_short(config.encoder_id)}"
        )
    differences += [
        f"its memories are {dim} wide, wanted {config.dim}"
        for dim in sorted(memory_dims - {config.dim})
    ]
    error = EncoderMismatchError if differences else CodecMismatchError
    if config.codec_id not in ("", codec_id):
        differences.append(f"its codec is {_short(codec_id)}, wanted {_short(config.codec_id)}")
    if differences:
        raise error(
            f"collection {collection!r} is not what the reader was trained on: "
            f"{'; '.join(differences)}; name a collection that was encoded with the reader's "
            "encoder and codec, or the reader that was trained on this one",
            collection=collection,
            encoder_id=encoder_id,
            codec_id=codec_id,
            wanted_encoder_id=config.encoder_id,
            wanted_codec_id=config.codec_id,
        )


def _short(digest: str) -> str:
    return f"{digest[:_SHOWN_DIGITS]}…" if digest else "none"
