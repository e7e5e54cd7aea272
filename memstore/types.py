"""The values that travel along the dataflow, and the protocols at its joints.

Documents are cut into passages; an encoder turns a passage's tokens into a memory (one D-wide
vector a token) and one retrieval vector; the store answers with hits and memories. All values are
frozen.

Does not: compute, read or write anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch

MetadataValue = str | int | float | bool | None
Metadata = Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an id that is unique in its corpus."""

    document_id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The unit of retrieval: a span of one document.

    `start` and `end` are character offsets into the document's text; `num_tokens` counts memory
    rows, the encoder's special tokens included.
    """

    document_id: str
    number: int
    text: str
    title: str = ""
    start: int = 0
    end: int = 0
    num_tokens: int = 0
    metadata: Metadata = field(default_factory=dict)

    @property
    def passage_id(self) -> str:
        """`<document_id>#<number>`."""
        return f"{self.document_id}#{self.number}"


@dataclass(frozen=True, slots=True)
class TokenizedPassage:
    """A passage with the token ids that its encoder reads.

    Attributes:
        passage: what was tokenized.
        token_ids: (T,) int32, special tokens included.
        is_last: its document ends with it. An encoder that reads documents whole knows by this that
            it has all of one.
    """

    passage: Passage
    token_ids: np.ndarray
    is_last: bool = True


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """What an encoder makes of some passages of one call.

    Attributes:
        rows: positions of the passages in the sequence that was given to `encode`, in the order of
            this batch.
        memories: (T, D) float32, the passages' memories one after another.
        offsets: (len(rows) + 1,) int64; passage i of the batch owns
            `memories[offsets[i]:offsets[i + 1]]`.
        embeddings: (len(rows), E) float32, unit length: the retrieval vectors.
    """

    rows: list[int]
    memories: np.ndarray
    offsets: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderIdentity:
    """All that decides an encoder's output, apart from numerics.

    Two encoders with one identity are interchangeable.

    Attributes:
        weights_sha256, config_sha256, tokenizer_sha256: digests of the model's weight files, its
            `config.json` (apart from names and versions) and its `tokenizer.json`.
        num_layers, num_frozen_layers: depth of the stack and of the frozen bottom whose output is
            the memory.
        memory_dim, embedding_dim: D and E.
        window_tokens, stride_tokens: passage length (special tokens included) and step, in tokens.
        template: what a window is made of, `"{text}"` or `"{title} {text}"`.
        special_tokens: `"kept"`: special tokens have memories like any other token.
        pooling: `"mean"` or `"cls"`, of the top of the retriever, then scaled to unit length.
        retriever_sha256: weights digest of another model that makes the retrieval vectors; empty:
            the same forward pass.
        pool_tokens: so many consecutive tokens of a passage have one vector of its memory.
    """

    family: str
    weights_sha256: str
    config_sha256: str
    tokenizer_sha256: str
    num_layers: int
    num_frozen_layers: int
    memory_dim: int
    embedding_dim: int
    window_tokens: int
    stride_tokens: int
    template: str
    special_tokens: str
    pooling: str
    retriever_sha256: str = ""
    pool_tokens: int = 1

    @property
    def id(self) -> str:
        """sha256 of the canonical JSON of `to_dict`."""
        return hashlib.sha256(canonical_json(self.to_dict())).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `pool_tokens` unless it is 1.

        The field is younger than the ids of encoders that do not pool.
        """
        values = asdict(self)
        if self.pool_tokens == 1:
            del values["pool_tokens"]
        return values


def canonical_json(value: object) -> bytes:
    """Serialize to the one JSON text whose digest names the value.

    Its keys are sorted; it has no spaces and no NaN, and is UTF-8.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


class PassageSplitter(Protocol):
    """Cuts documents into windows of one tokenizer's tokens; needs no model."""

    def split(self, document: Document) -> list[TokenizedPassage]:
        """Return the document's passages in order; none for a document without tokens."""
        ...

    def vocabulary(self) -> list[TokenizedPassage]:
        """Return every token alone between the special tokens, in order of id."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """V: token ids are below it."""
        ...

    @property
    def num_prefix_tokens(self) -> int:
        """Special tokens before the text of a token that stands alone."""
        ...

    @property
    def is_document_wide(self) -> bool:
        """The passages of a document are spans of one text, which is read whole: none of them is
        encoded without the others.
        """
        ...


class MemoryEncoder(Protocol):
    """A frozen model: token ids in, memories and retrieval vectors out."""

    @property
    def identity(self) -> EncoderIdentity:
        """What this encoder is, whatever machine it runs on."""
        ...

    def encode(self, passages: Sequence[TokenizedPassage]) -> Iterator[EncodedBatch]:
        """Encode passages in batches by length.

        The batches and their order depend on `passages` alone.
        """
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the retrieval vectors of questions: (len(texts), E) float32, unit length."""
        ...


@runtime_checkable
class QuestionEncoder(MemoryEncoder, Protocol):
    """A `MemoryEncoder` that also reads questions token by token, as reranking needs."""

    def question(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a question's retrieval vector, (E,) float32, and its memory, (T, D) float32."""
        ...


class Codec(Protocol):
    """Turns vectors into records of W 16-bit words and back."""

    @property
    def id(self) -> str:
        """Digest of all that the codec is made of."""
        ...

    @property
    def dim(self) -> int:
        """D, the width of a vector."""
        ...

    @property
    def record_words(self) -> int:
        """W, 16-bit words in a record; bytes per token = 2 W."""
        ...

    @property
    def needs_token_ids(self) -> bool:
        """Whether `encode` must be told the token ids."""
        ...

    def encode(
        self,
        vectors: np.ndarray,
        token_ids: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
    ) -> np.ndarray:
        """(T, D) float32 vectors of passages to (T, W) uint16 records."""
        ...

    def decode(
        self,
        records: np.ndarray,
        offsets: np.ndarray | None = None,
        *,
        dtype: str = "float32",
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(T, W) uint16 records of passages to (T, D) vectors of `dtype` ("bfloat16", "float16",
        "float32").
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """The compressed memory of one passage, and the codec that opens it.

    Attributes:
        passage_id: whose memory this is.
        records: (T, W) uint16, read-only.
        codec: decodes the records.
    """

    passage_id: str
    records: np.ndarray
    codec: Codec

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.records.shape[0])

    def decode(self, dtype: str = "float32") -> np.ndarray:
        """Return the (T, D) vectors in `dtype`: "bfloat16", "float16" or "float32"."""
        return self.codec.decode(self.records, dtype=dtype)

    def to_torch(self, device: str = "cpu", dtype: str = "bfloat16") -> torch.Tensor:
        """Return the (T, D) vectors as a tensor on `device`."""
        import torch

        vectors = self.decode(dtype)
        if dtype == "bfloat16":  # torch does not read ml_dtypes: same bits, told so
            return torch.from_numpy(vectors.view(np.int16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(vectors).to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit(Passage):
    """A passage with its score for a question: the inner product of unit retrieval vectors, or
    after reranking the mean of that and of the passage's MaxSim.
    """

    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits in falling order of score, and the snapshot that they were read from."""

    collection: str
    version: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult(SearchResult):
    """Hits with their memories, `memories[i]` of `hits[i]`."""

    encoder_id: str
    codec_id: str
    memories: tuple[Memory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """Passages asked for by id, in the order asked, with their memories."""

    collection: str
    version: int
    encoder_id: str
    codec_id: str
    passages: tuple[Passage, ...]
    memories: tuple[Memory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitResult:
    """What a write or delete did: the version it made, the passages it added and removed."""

    collection: str
    version: int
    num_added: int
    num_deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """A collection at one version, in figures."""

    name: str
    version: int
    created_at: str
    operation: str
    encoder_id: str
    encoder_source: str
    codec_id: str
    memory_dim: int
    embedding_dim: int
    record_bytes: int
    num_passages: int
    num_tokens: int
    num_deleted: int
    num_shards: int
    shard_bytes: int
    metadata_columns: Mapping[str, str]


class MemorySource(Protocol):
    """Where a reader gets memories from: a `Store`, a `Client`, or a user's own class."""

    def query(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
    ) -> QueryResult:
        """Return the `top_k` best passages for a question, with their memories."""
        ...

    def fetch(self, passage_ids: Sequence[str], *, collection: str = "default") -> FetchResult:
        """Return passages and memories by id."""
        ...
