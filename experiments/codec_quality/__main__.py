"""`python -m experiments.codec_quality --data DIR --cache DIR`: which codec, on real memories.

Memories are those of MiniLM's layer 4 over running English text; whole documents are held out, and
Cranfield, which is about something else, is never trained on but in the last rows. Prints one JSON
line a codec, then the table of docs/results/codec.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.running_text import read_text
from benchmarks.trec import read_cranfield
from experiments.codec_quality import activations
from experiments.codec_quality.reader import CranfieldReader, Ranking, overlap
from memstore.codec import ProductCodec
from memstore.codec.passages import rows_of
from memstore.codec.quality import measure as measure_error

HELD_OUT_EVERY = 50  # documents


@dataclass(frozen=True, slots=True)
class Part:
    """Memories of some documents."""

    vectors: np.ndarray
    token_ids: np.ndarray
    offsets: np.ndarray
    owners: np.ndarray

    @classmethod
    def load(cls, stem: Path) -> Part:
        """Map what `activations.encode` saved."""
        arrays = [np.load(f"{stem}.{name}.npy") for name in ("ids", "offsets", "documents")]
        return cls(np.load(f"{stem}.vectors.npy", mmap_mode="r"), *arrays)

    def some(self, num_tokens: int, seed: int) -> Part:
        """Return random passages of about so many tokens."""
        num_passages = len(self.owners) * num_tokens // len(self.vectors)
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(self.owners))[: max(1, num_passages)])
        return self.passages(chosen)

    def passages(self, chosen: np.ndarray) -> Part:
        """Return the chosen passages."""
        rows, offsets = rows_of(self.offsets, chosen)
        return Part(self.vectors[rows], self.token_ids[rows], offsets, self.owners[chosen])


@dataclass(frozen=True, slots=True)
class Family:
    """A codec to train."""

    name: str
    num_subspaces: int
    codebook_size: int = 256
    stages: Mapping[str, Any] = field(default_factory=dict)
    is_alone: bool = True  # the memory of every token alone is known

    def train(self, part: Part, vocabulary: np.ndarray, seed: int) -> ProductCodec:
        """Train on a part of the text."""
        return ProductCodec.train(
            part.vectors,
            num_subspaces=self.num_subspaces,
            codebook_size=self.codebook_size,
            token_ids=part.token_ids,
            offsets=part.offsets,
            vocabulary=vocabulary if self.is_alone else len(vocabulary),
            seed=seed,
            **self.stages,
        )


PCA = {"rotation": "pca"}
TOKEN = {"rotation": "pca", "predictor": "token"}
CONTEXT = {"rotation": "pca", "predictor": "context"}
FAMILIES = [
    *(Family(f"plain {m}x8", m) for m in (96, 48, 24)),
    *(Family(f"pca {m}x8", m, 256, PCA) for m in (96, 48, 24)),
    Family("opq 48x8", 48, 256, {"rotation": "opq"}),
    *(
        Family(f"pca in blocks of {b} 48x8", 48, 256, PCA | {"rotation_block": b})
        for b in (64, 128)
    ),
    Family("token, nothing known, 48x8", 48, 256, TOKEN, is_alone=False),
    Family("token without rotation 48x8", 48, 256, {"predictor": "token"}),
    *(Family(f"token + pca {m}x8", m, 256, TOKEN) for m in (48, 24, 12)),
    *(Family(f"context + pca {m}x8", m, 256, CONTEXT) for m in (48, 24, 16, 12)),
]
WIDE_FAMILIES = [
    Family("plain 24x16 (MEMORY-VQ)", 24, 65_536),
    Family("pca 24x16", 24, 65_536, PCA),
    *(Family(f"context + pca {m}x16", m, 65_536, CONTEXT) for m in (24, 12, 8, 6)),
]


class Bench:
    """The held-out parts, and what a reader makes of them uncompressed."""

    def __init__(self, cache: Path, data: Path) -> None:
        self.train = Part.load(cache / "train")
        self.held_out = Part.load(cache / "test")
        self.cranfield = Part.load(cache / "cran")
        self.vocabulary = np.load(cache / "vocabulary.npy")
        self.reader = CranfieldReader(data)
        self.reference = self._rank(self.cranfield.vectors)

    def measure(self, codec: ProductCodec) -> dict[str, float]:
        """Return bytes a token, errors in and out of domain, and what a ranking keeps."""
        found: dict[str, float] = {"bytes": 2 * codec.record_words}
        for name, part in (("held out", self.held_out), ("cranfield", self.cranfield)):
            began = time.perf_counter()
            records = codec.encode(part.vectors, part.token_ids, part.offsets)
            seconds = time.perf_counter() - began
            decoded = codec.decode(records, part.offsets)
            error = measure_error([(part.vectors, decoded)])
            found |= {
                f"{name} error": error.relative_mse,
                f"{name} error after LayerNorm": error.layer_norm_mse,
                f"{name} cosine": error.cosine,
                "encode tokens/s": len(records) / seconds,
            }
        ranking = self._rank(decoded)
        found |= {"ndcg@10": ranking.ndcg, "top 10 kept": overlap(ranking, self.reference)}
        return found

    def _rank(self, memories: np.ndarray) -> Ranking:
        return self.reader.rank(memories, self.cranfield.offsets, self.cranfield.owners)


def run(bench: Bench, num_tokens: int, families: list[Family], seed: int) -> Iterator[dict]:
    """Train each family on a part of the text; yield what was measured."""
    part = bench.train.some(num_tokens, seed)
    for family in families:
        began = time.perf_counter()
        codec = family.train(part, bench.vocabulary, seed)
        seconds = time.perf_counter() - began
        yield {
            "family": family.name,
            "tokens": len(part.vectors),
            "seed": seed,
            "codec bytes": sum(len(content) for content in codec.files().values()),
            "train seconds": seconds,
            **bench.measure(codec),
        }


def run_in_domain(bench: Bench, families: list[Family], seed: int) -> Iterator[dict]:
    """Train each family on half of Cranfield's documents and on as much text; measure the rest."""
    of_half = bench.cranfield.owners % 2 == 0
    half = bench.cranfield.passages(np.flatnonzero(of_half))
    rest = bench.cranfield.passages(np.flatnonzero(~of_half))
    parts = {"Cranfield": half, "text": bench.train.some(len(half.vectors), seed)}
    for family in families:
        for name, part in parts.items():
            codec = family.train(part, bench.vocabulary, seed)
            records = codec.encode(rest.vectors, rest.token_ids, rest.offsets)
            error = measure_error([(rest.vectors, codec.decode(records, rest.offsets))])
            yield {
                "family": family.name,
                "trained on": name,
                "tokens": len(part.vectors),
                "seed": seed,
                "bytes": 2 * codec.record_words,
                "other half of cranfield error": error.relative_mse,
            }


def prepare(cache: Path, data: Path) -> None:
    """Encode what is not there yet: about an hour on two cores."""
    documents = list(read_text(data / "text"))
    parts = {
        "test": documents[::HELD_OUT_EVERY],
        "cran": read_cranfield(data).documents,
        "train": [d for i, d in enumerate(documents) if i % HELD_OUT_EVERY],
    }
    cache.mkdir(parents=True, exist_ok=True)
    for name, chosen in parts.items():
        if not Path(f"{cache / name}.documents.npy").exists():
            activations.encode(chosen, cache / name)
    if not (cache / "vocabulary.npy").exists():
        np.save(cache / "vocabulary.npy", activations.encode_vocabulary())


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m experiments.codec_quality")
    parser.add_argument("--data", type=Path, required=True, help="the evaluation data")
    parser.add_argument("--cache", type=Path, required=True, help="keeps the memories, 3.5 GB")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--wide", action="store_true", help="the 65,536-centroid families")
    parser.add_argument(
        "--in-domain", action="store_true", help="what training on the corpus itself is worth"
    )
    parser.add_argument("--only", default="", help="families whose names hold this text")
    options = parser.parse_args()
    prepare(options.cache, options.data)
    bench = Bench(options.cache, options.data / "cranfield")
    families = WIDE_FAMILIES if options.wide else FAMILIES
    families = [family for family in families if options.only in family.name]
    for seed in range(options.seeds):
        if options.in_domain:
            rows = run_in_domain(bench, families, seed)
        else:
            rows = run(bench, options.tokens, families, seed)
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
