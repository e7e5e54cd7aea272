"""How much work an encoding job is, from a few documents of each of some partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from memstore.text import Partition, read_partition
from memstore.types import Document, EncoderIdentity, PassageSplitter

_DOCUMENTS_EACH = 25
_TEXT_RATIO = 3  # text shrinks about so much under zstd with a dictionary


@dataclass(frozen=True, slots=True)
class Estimate:
    """What encoding will make: memories of tokens, passages, bytes of shards."""

    num_tokens: int
    num_passages: int
    num_bytes: int


def estimate_work(
    partitions: Sequence[Partition],
    looked_at: Sequence[Partition],
    splitter: PassageSplitter,
    identity: EncoderIdentity,
    record_bytes: int,
) -> Estimate:
    """Extrapolate from the documents at the head of `looked_at` to the text of `partitions`."""
    num_tokens = num_passages = num_text_bytes = 0
    for partition in looked_at:
        items = (item for item in read_partition(partition) if isinstance(item, Document))
        for document in islice(items, _DOCUMENTS_EACH):
            passages = splitter.split(document)
            num_text_bytes += len(document.text.encode())
            num_passages += len(passages)
            num_tokens += sum(each.passage.num_tokens for each in passages)
    total = sum(partition.num_text_bytes for partition in partitions)
    share = total / max(num_text_bytes, 1)
    stored_bytes = (
        num_tokens * record_bytes
        + num_passages * 2 * identity.embedding_dim
        + num_text_bytes / _TEXT_RATIO
    )
    return Estimate(int(share * num_tokens), int(share * num_passages), int(share * stored_bytes))
