"""Tokens per second of the whole encoding job over those of the bare encoder, same passages."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import (
    Context,
    Outcome,
    Table,
    Timings,
    check,
    measure,
    quotient,
    rate,
    spread,
)
from encoder_jobs.job import encode
from encoder_jobs.stages import tokenize, use_all_cores
from examples.docstrings import write_corpus
from memstore import open_store
from memstore.codec import ProductCodec, choose_layout
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.text import open_corpus, scan
from memstore.types import MemoryEncoder, TokenizedPassage

_BARE = "bare encoder, passages tokenized before"
_LARGE = "job, 24 subspaces of 4,096, codec given"
_AUTO = "job, the layout of `auto`, codec given"
_TRAINED = "job, `auto`: trains its codec on a sample first"
_PARTITION_BYTES = 1 << 16
_GATE = "decoded records equal decode(encode(bare encoder's memories)) bit by bit"
Partitions = Sequence[Sequence[TokenizedPassage]]


@dataclass(frozen=True, slots=True)
class _Job:
    """`memstore encode` in this process, into a new store at each call."""

    corpus: Path
    work: Path
    codec: str

    def __call__(self, _turn: int) -> Path:
        """Run the job; return the store's folder."""
        store = Path(tempfile.mkdtemp(dir=self.work))
        encode(
            self.corpus,
            store=store,
            quiet=True,
            codec=self.codec,
            partition_bytes=_PARTITION_BYTES,
        )
        return store


def run(context: Context) -> Outcome:
    """Encode docstrings of the standard library by each way, in turns."""
    num_documents, num_sampled, rounds = (60, 8_192, 2) if context.quick else (2_000, 50_000, 5)
    use_all_cores()  # as the job does, so that the bare encoder has the same threads
    encoder = load_encoder(EncoderOptions())
    corpus = context.work / "corpus.jsonl"
    write_corpus(corpus, num_documents)
    partitions = _tokenized(corpus)
    passages = [passage for partition in partitions for passage in partition]
    num_tokens = sum(len(passage.token_ids) for passage in passages)
    memories = _sample(encoder, passages, num_sampled, context.seed)
    codecs = _codecs(memories, context.seed)
    for name, codec in codecs.items():
        codec.save(context.work / name)
    jobs = {
        _LARGE: _Job(corpus, context.work, str(context.work / "large")),
        _AUTO: _Job(corpus, context.work, str(context.work / "auto")),
        _TRAINED: _Job(corpus, context.work, "auto"),
    }
    gates = check(
        {f"{name}: {_GATE}": _same(job, encoder, partitions) for name, job in jobs.items()}
    )
    ways: dict[str, Callable[[int], object]] = {
        _BARE: lambda _turn: sum(len(batch.memories) for batch in encoder.encode(passages)),
        **jobs,
    }
    seconds = measure(ways, rounds=rounds, warmups=0)  # the gates were the warm-up
    return Outcome(
        gates=gates,
        settings={
            "documents": num_documents,
            "passages": len(passages),
            "tokens": num_tokens,
            "partitions": len(partitions),
            "codec_training_tokens": len(memories),
            "rounds": rounds,
        },
        tables=[_rates(seconds, num_tokens), _parts(corpus, codecs, memories, num_tokens)],
        notes=[
            "A job is all of `memstore encode` in this process: scan, plan, load the encoder, "
            "read, split, encode, quantize, write shards and receipts, commit. The bare encoder is "
            "loaded, has all passages at once, and keeps nothing.",
            "Training its codec costs `auto` one pass over at most 131,072 tokens and k-means, "
            "however long the corpus is.",
        ],
    )


def _tokenized(corpus: Path) -> list[list[TokenizedPassage]]:
    found = scan(open_corpus(corpus), partition_bytes=_PARTITION_BYTES, max_bad_fraction=0.0)
    splitter = load_splitter(EncoderOptions())
    return [
        tokenize(partition, splitter, found.metadata_columns).passages
        for partition in found.partitions
    ]


def _sample(
    encoder: MemoryEncoder, passages: Sequence[TokenizedPassage], num_tokens: int, seed: int
) -> np.ndarray:
    """Return (about num_tokens, D) float32 memories of passages chosen at random."""
    order = np.random.default_rng(seed).permutation(len(passages))
    lengths = np.cumsum([len(passages[row].token_ids) for row in order])
    chosen = order[: int(np.searchsorted(lengths, num_tokens)) + 1]
    return np.concatenate([b.memories for b in encoder.encode([passages[row] for row in chosen])])


def _codecs(memories: np.ndarray, seed: int) -> dict[str, ProductCodec]:
    auto = choose_layout(memories.shape[1], len(memories))
    layouts = {
        "large": (24, 4_096),
        "auto": (auto.num_subspaces, auto.codebook_size),
    }
    return {
        name: ProductCodec.train(memories, num_subspaces=subspaces, codebook_size=size, seed=seed)
        for name, (subspaces, size) in layouts.items()
    }


def _same(job: _Job, encoder: MemoryEncoder, partitions: Partitions) -> Callable[[], bool]:
    def holds() -> bool:
        store = open_store(job(0))
        codec = store.codec()
        for passages in partitions:  # the encoder's batches are formed inside a partition
            for batch in encoder.encode(passages):
                wanted = np.split(codec.decode(codec.encode(batch.memories)), batch.offsets[1:-1])
                ids = [passages[row].passage.passage_id for row in batch.rows]
                stored = store.fetch(ids).memories
                if not all(map(np.array_equal, (each.decode() for each in stored), wanted)):
                    return False
        return store.collection_info().num_passages == sum(map(len, partitions))

    return holds


def _rates(seconds: Timings, num_tokens: int) -> Table:
    return Table(
        title=f"{num_tokens:,} tokens, all-MiniLM-L6-v2 on the processor",
        columns=("way", "rate", "of the bare encoder's", "aim"),
        rows=[
            (
                name,
                rate(taken, num_tokens, "tokens/s"),
                quotient(seconds[_BARE], taken),
                "≥ 0.8" if name == _LARGE else "",
            )
            for name, taken in seconds.items()
        ],
    )


def _parts(
    corpus: Path, codecs: Mapping[str, ProductCodec], memories: np.ndarray, num_tokens: int
) -> Table:
    """Time the cheap stages alone, to see where the rest of a job's time goes."""
    stages: dict[str, tuple[Callable[[], object], int]] = {
        "scan, read, split": (partial(_tokenized, corpus), num_tokens)
    }
    for codec in codecs.values():
        name = f"quantize, {codec.num_subspaces} subspaces of {codec.codebook_size:,}"
        stages[name] = partial(codec.encode, memories), len(memories)
    seconds = measure(
        {name: partial(_ignoring_turn, stage) for name, (stage, _) in stages.items()}, rounds=3
    )
    rows = [
        (
            name,
            rate(seconds[name], amount, "tokens/s"),
            spread(1e6 * seconds[name][:, 0] / amount, "s"),
        )
        for name, (_, amount) in stages.items()
    ]
    return Table(title="Stages alone", columns=("stage", "rate", "a million tokens"), rows=rows)


def _ignoring_turn(stage: Callable[[], object], _turn: int) -> object:
    return stage()
