from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Dtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[Dtype]
    DTYPE_CODES_UINT16: _ClassVar[Dtype]
    DTYPE_BFLOAT16: _ClassVar[Dtype]
    DTYPE_FLOAT16: _ClassVar[Dtype]
    DTYPE_FLOAT32: _ClassVar[Dtype]
DTYPE_UNSPECIFIED: Dtype
DTYPE_CODES_UINT16: Dtype
DTYPE_BFLOAT16: Dtype
DTYPE_FLOAT16: Dtype
DTYPE_FLOAT32: Dtype

class Value(_message.Message):
    __slots__ = ("string_value", "int64_value", "double_value", "bool_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    int64_value: int
    double_value: float
    bool_value: bool
    def __init__(self, string_value: _Optional[str] = ..., int64_value: _Optional[int] = ..., double_value: _Optional[float] = ..., bool_value: bool = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("document_id", "number", "title", "text", "start", "end", "num_tokens", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    number: int
    title: str
    text: str
    start: int
    end: int
    num_tokens: int
    metadata: _containers.MessageMap[str, Value]
    def __init__(self, document_id: _Optional[str] = ..., number: _Optional[int] = ..., title: _Optional[str] = ..., text: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., num_tokens: _Optional[int] = ..., metadata: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("passage", "score")
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    passage: Passage
    score: float
    def __init__(self, passage: _Optional[_Union[Passage, _Mapping]] = ..., score: _Optional[float] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("collection", "version", "encoder_id", "codec_id", "record_words", "dim")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    CODEC_ID_FIELD_NUMBER: _ClassVar[int]
    RECORD_WORDS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    collection: str
    version: int
    encoder_id: str
    codec_id: str
    record_words: int
    dim: int
    def __init__(self, collection: _Optional[str] = ..., version: _Optional[int] = ..., encoder_id: _Optional[str] = ..., codec_id: _Optional[str] = ..., record_words: _Optional[int] = ..., dim: _Optional[int] = ...) -> None: ...

class MemoryChunk(_message.Message):
    __slots__ = ("first_row", "shape", "dtype", "codec_id", "data", "crc32c")
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CODEC_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    first_row: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: Dtype
    codec_id: str
    data: bytes
    crc32c: int
    def __init__(self, first_row: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[Dtype, str]] = ..., codec_id: _Optional[str] = ..., data: _Optional[bytes] = ..., crc32c: _Optional[int] = ...) -> None: ...

class CollectionInfo(_message.Message):
    __slots__ = ("name", "version", "created_at", "operation", "encoder_id", "encoder_source", "codec_id", "memory_dim", "embedding_dim", "record_bytes", "num_passages", "num_tokens", "num_deleted", "num_shards", "shard_bytes", "metadata_columns")
    class MetadataColumnsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    ENCODER_SOURCE_FIELD_NUMBER: _ClassVar[int]
    CODEC_ID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_DIM_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIM_FIELD_NUMBER: _ClassVar[int]
    RECORD_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_PASSAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_DELETED_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARD_BYTES_FIELD_NUMBER: _ClassVar[int]
    METADATA_COLUMNS_FIELD_NUMBER: _ClassVar[int]
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
    metadata_columns: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., created_at: _Optional[str] = ..., operation: _Optional[str] = ..., encoder_id: _Optional[str] = ..., encoder_source: _Optional[str] = ..., codec_id: _Optional[str] = ..., memory_dim: _Optional[int] = ..., embedding_dim: _Optional[int] = ..., record_bytes: _Optional[int] = ..., num_passages: _Optional[int] = ..., num_tokens: _Optional[int] = ..., num_deleted: _Optional[int] = ..., num_shards: _Optional[int] = ..., shard_bytes: _Optional[int] = ..., metadata_columns: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("collection", "version", "num_added", "num_deleted")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_ADDED_FIELD_NUMBER: _ClassVar[int]
    NUM_DELETED_FIELD_NUMBER: _ClassVar[int]
    collection: str
    version: int
    num_added: int
    num_deleted: int
    def __init__(self, collection: _Optional[str] = ..., version: _Optional[int] = ..., num_added: _Optional[int] = ..., num_deleted: _Optional[int] = ...) -> None: ...
