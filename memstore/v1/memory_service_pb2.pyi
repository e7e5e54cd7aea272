from memstore.v1 import memory_pb2 as _memory_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WriteMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WRITE_MODE_UNSPECIFIED: _ClassVar[WriteMode]
    WRITE_MODE_APPEND: _ClassVar[WriteMode]
    WRITE_MODE_UPSERT: _ClassVar[WriteMode]
    WRITE_MODE_REPLACE: _ClassVar[WriteMode]
WRITE_MODE_UNSPECIFIED: WriteMode
WRITE_MODE_APPEND: WriteMode
WRITE_MODE_UPSERT: WriteMode
WRITE_MODE_REPLACE: WriteMode

class Vector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("collection", "version", "text", "vector", "top_k", "where", "rerank")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    RERANK_FIELD_NUMBER: _ClassVar[int]
    collection: str
    version: int
    text: str
    vector: Vector
    top_k: int
    where: str
    rerank: int
    def __init__(self, collection: _Optional[str] = ..., version: _Optional[int] = ..., text: _Optional[str] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., top_k: _Optional[int] = ..., where: _Optional[str] = ..., rerank: _Optional[int] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("question",)
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    question: Question
    def __init__(self, question: _Optional[_Union[Question, _Mapping]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("collection", "version", "hits")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    version: int
    hits: _containers.RepeatedCompositeFieldContainer[_memory_pb2.Hit]
    def __init__(self, collection: _Optional[str] = ..., version: _Optional[int] = ..., hits: _Optional[_Iterable[_Union[_memory_pb2.Hit, _Mapping]]] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("question", "dtype")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    question: Question
    dtype: _memory_pb2.Dtype
    def __init__(self, question: _Optional[_Union[Question, _Mapping]] = ..., dtype: _Optional[_Union[_memory_pb2.Dtype, str]] = ...) -> None: ...

class QueryHeader(_message.Message):
    __slots__ = ("snapshot", "num_hits", "hits")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    NUM_HITS_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    snapshot: _memory_pb2.Snapshot
    num_hits: int
    hits: _containers.RepeatedCompositeFieldContainer[_memory_pb2.Hit]
    def __init__(self, snapshot: _Optional[_Union[_memory_pb2.Snapshot, _Mapping]] = ..., num_hits: _Optional[int] = ..., hits: _Optional[_Iterable[_Union[_memory_pb2.Hit, _Mapping]]] = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: QueryHeader
    chunk: _memory_pb2.MemoryChunk
    def __init__(self, header: _Optional[_Union[QueryHeader, _Mapping]] = ..., chunk: _Optional[_Union[_memory_pb2.MemoryChunk, _Mapping]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("collection", "version", "passage_ids", "dtype")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_IDS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    collection: str
    version: int
    passage_ids: _containers.RepeatedScalarFieldContainer[str]
    dtype: _memory_pb2.Dtype
    def __init__(self, collection: _Optional[str] = ..., version: _Optional[int] = ..., passage_ids: _Optional[_Iterable[str]] = ..., dtype: _Optional[_Union[_memory_pb2.Dtype, str]] = ...) -> None: ...

class FetchHeader(_message.Message):
    __slots__ = ("snapshot", "num_passages", "passages")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    NUM_PASSAGES_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    snapshot: _memory_pb2.Snapshot
    num_passages: int
    passages: _containers.RepeatedCompositeFieldContainer[_memory_pb2.Passage]
    def __init__(self, snapshot: _Optional[_Union[_memory_pb2.Snapshot, _Mapping]] = ..., num_passages: _Optional[int] = ..., passages: _Optional[_Iterable[_Union[_memory_pb2.Passage, _Mapping]]] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: FetchHeader
    chunk: _memory_pb2.MemoryChunk
    def __init__(self, header: _Optional[_Union[FetchHeader, _Mapping]] = ..., chunk: _Optional[_Union[_memory_pb2.MemoryChunk, _Mapping]] = ...) -> None: ...

class GetCodecRequest(_message.Message):
    __slots__ = ("collection", "codec_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    CODEC_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    codec_id: str
    def __init__(self, collection: _Optional[str] = ..., codec_id: _Optional[str] = ...) -> None: ...

class CodecFile(_message.Message):
    __slots__ = ("name", "num_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_bytes: int
    def __init__(self, name: _Optional[str] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class CodecHeader(_message.Message):
    __slots__ = ("codec_id", "files")
    CODEC_ID_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    codec_id: str
    files: _containers.RepeatedCompositeFieldContainer[CodecFile]
    def __init__(self, codec_id: _Optional[str] = ..., files: _Optional[_Iterable[_Union[CodecFile, _Mapping]]] = ...) -> None: ...

class CodecChunk(_message.Message):
    __slots__ = ("file_name", "offset", "data", "crc32c")
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    file_name: str
    offset: int
    data: bytes
    crc32c: int
    def __init__(self, file_name: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., crc32c: _Optional[int] = ...) -> None: ...

class GetCodecResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: CodecHeader
    chunk: CodecChunk
    def __init__(self, header: _Optional[_Union[CodecHeader, _Mapping]] = ..., chunk: _Optional[_Union[CodecChunk, _Mapping]] = ...) -> None: ...

class WriteHeader(_message.Message):
    __slots__ = ("collection", "mode", "encoder_id", "dim", "num_passages")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    NUM_PASSAGES_FIELD_NUMBER: _ClassVar[int]
    collection: str
    mode: WriteMode
    encoder_id: str
    dim: int
    num_passages: int
    def __init__(self, collection: _Optional[str] = ..., mode: _Optional[_Union[WriteMode, str]] = ..., encoder_id: _Optional[str] = ..., dim: _Optional[int] = ..., num_passages: _Optional[int] = ...) -> None: ...

class NewPassage(_message.Message):
    __slots__ = ("passage", "embedding")
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    passage: _memory_pb2.Passage
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, passage: _Optional[_Union[_memory_pb2.Passage, _Mapping]] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class NewPassages(_message.Message):
    __slots__ = ("passages",)
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    passages: _containers.RepeatedCompositeFieldContainer[NewPassage]
    def __init__(self, passages: _Optional[_Iterable[_Union[NewPassage, _Mapping]]] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("header", "passages", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: WriteHeader
    passages: NewPassages
    chunk: _memory_pb2.MemoryChunk
    def __init__(self, header: _Optional[_Union[WriteHeader, _Mapping]] = ..., passages: _Optional[_Union[NewPassages, _Mapping]] = ..., chunk: _Optional[_Union[_memory_pb2.MemoryChunk, _Mapping]] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("commit",)
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    commit: _memory_pb2.Commit
    def __init__(self, commit: _Optional[_Union[_memory_pb2.Commit, _Mapping]] = ...) -> None: ...

class Ids(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("collection", "passage_ids", "document_ids", "where")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_IDS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_IDS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    collection: str
    passage_ids: Ids
    document_ids: Ids
    where: str
    def __init__(self, collection: _Optional[str] = ..., passage_ids: _Optional[_Union[Ids, _Mapping]] = ..., document_ids: _Optional[_Union[Ids, _Mapping]] = ..., where: _Optional[str] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("commit",)
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    commit: _memory_pb2.Commit
    def __init__(self, commit: _Optional[_Union[_memory_pb2.Commit, _Mapping]] = ...) -> None: ...

class ListCollectionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCollectionsResponse(_message.Message):
    __slots__ = ("collections",)
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[_memory_pb2.CollectionInfo]
    def __init__(self, collections: _Optional[_Iterable[_Union[_memory_pb2.CollectionInfo, _Mapping]]] = ...) -> None: ...

class GetCollectionRequest(_message.Message):
    __slots__ = ("collection", "version")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    version: int
    def __init__(self, collection: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetCollectionResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: _memory_pb2.CollectionInfo
    def __init__(self, collection: _Optional[_Union[_memory_pb2.CollectionInfo, _Mapping]] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("collection", "page_size", "page_token")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    collection: str
    page_size: int
    page_token: str
    def __init__(self, collection: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[_memory_pb2.CollectionInfo]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[_memory_pb2.CollectionInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
