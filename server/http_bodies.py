"""What travels in HTTP bodies: the requests as pydantic models, the answers as JSON objects."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict
from starlette.responses import Response

from memstore.client.rows import CODES
from memstore.errors import InvalidInputError
from memstore.types import FetchResult, Hit, Memory, Passage, QueryResult, SearchResult

MAX_JSON_MEMORY_BYTES = 64 << 20

Decode = Literal["bfloat16", "float16", "float32"]


def _check_text(text: str) -> str:
    text.encode()  # JSON can spell half of a surrogate pair, which is no text
    return text


Text = Annotated[str, AfterValidator(_check_text)]


class Body(BaseModel):
    """A request's body: its fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchBody(Body):
    """A question: text, or a retrieval vector."""

    query: Text | list[float]
    top_k: int = 8
    where: Text | None = None
    version: int | None = None
    rerank: int = 0


class QueryBody(SearchBody):
    """A question whose answer has memories: codes, or vectors of the dtype `decode`."""

    decode: Decode | None = None


class FetchBody(Body):
    """Passages by id, with codes, or with vectors of the dtype `decode`."""

    passage_ids: list[Text]
    version: int | None = None
    decode: Decode | None = None


class DeleteBody(Body):
    """What to delete: exactly one of the three."""

    passage_ids: list[Text] | None = None
    document_ids: list[Text] | None = None
    where: Text | None = None


def json_response(value: object, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def search_json(result: SearchResult) -> dict[str, Any]:
    """Return hits without memories."""
    return {
        "collection": result.collection,
        "version": result.version,
        "hits": [_passage_json(hit) for hit in result.hits],
    }


def memories_json(result: QueryResult | FetchResult, dtype: str) -> dict[str, Any]:
    """Return passages with their memories in base64, little-endian, as codes or vectors of `dtype`.

    Raises:
        InvalidInputError: if the memories have more than `MAX_JSON_MEMORY_BYTES`.
    """
    is_query = isinstance(result, QueryResult)
    passages = result.hits if isinstance(result, QueryResult) else result.passages
    return {
        "collection": result.collection,
        "version": result.version,
        "encoder_id": result.encoder_id,
        "codec_id": result.codec_id,
        "hits" if is_query else "passages": [_passage_json(passage) for passage in passages],
        "memories": _memories(result.memories, dtype),
    }


def _memories(memories: tuple[Memory, ...], dtype: str) -> list[dict[str, Any]]:
    found = []
    num_bytes = 0
    for memory in memories:
        rows = memory.records if dtype == CODES else memory.decode(dtype)
        num_bytes += rows.nbytes
        if num_bytes > MAX_JSON_MEMORY_BYTES:
            raise InvalidInputError(
                f"answer: more than {MAX_JSON_MEMORY_BYTES:,} bytes of memories in JSON; ask for "
                "fewer passages, or send Accept: application/vnd.apache.arrow.stream",
                limit_bytes=MAX_JSON_MEMORY_BYTES,
            )
        found.append(
            {
                "passage_id": memory.passage_id,
                "shape": rows.shape,
                "dtype": dtype,
                "data": base64.b64encode(rows.tobytes()).decode(),
            }
        )
    return found


def _passage_json(passage: Passage) -> dict[str, Any]:
    fields = {
        "passage_id": passage.passage_id,
        "document_id": passage.document_id,
        "number": passage.number,
        "title": passage.title,
        "text": passage.text,
        "start": passage.start,
        "end": passage.end,
        "num_tokens": passage.num_tokens,
        "metadata": dict(passage.metadata),
    }
    if isinstance(passage, Hit):
        fields["score"] = passage.score
    return fields
