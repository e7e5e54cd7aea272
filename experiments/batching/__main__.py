"""`python -m experiments.batching [--data DIR]`: memories alone against memories in batches.

Prints the tables of docs/results/batching.md, then one JSON line with the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from experiments.batching.corpus import read_documents, save_random_t5
from memstore.codec import ProductCodec
from memstore.encoders import DEFAULT_SOURCE, EncoderOptions, load_splitter
from memstore.encoders.batching import plan_batches
from memstore.encoders.huggingface import CPU_TOKEN_BUDGET
from memstore.encoders.identity import plan_encoder
from memstore.encoders.stack import EncoderStack

SUBSPACE_DIM = 8
CODEBOOK_SIZE = 256  # one byte a code: records compare byte by byte
TOKEN_BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)
NUM_TIMINGS = 5

Batches = Sequence[Sequence[int]]


def encode(stack: EncoderStack, sequences: Sequence[np.ndarray], batches: Batches) -> np.ndarray:
    """Return (T, D) float32: the memories of the batched sequences, in the order of sequences."""
    memories: dict[int, np.ndarray] = {}
    for rows in batches:
        output = stack.forward([sequences[row] for row in rows]).memories
        ends = np.cumsum([len(sequences[row]) for row in rows])
        memories.update(zip(rows, np.split(output, ends[:-1]), strict=True))
    return np.concatenate([memories[row] for row in sorted(memories)])


def groups(rows: Sequence[int], size: int) -> Batches:
    """Cut rows into batches of one size."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def batchings(lengths: Sequence[int]) -> dict[str, Batches]:
    """Return the ways of batching that are compared, by name."""
    by_length = sorted(range(len(lengths)), key=lambda row: lengths[row])
    shuffled = random.Random(0).sample(by_length, len(by_length))
    own = plan_batches(lengths, CPU_TOKEN_BUDGET)
    halves = [by_length[::2], by_length[1::2]]
    return {
        "alone, again": groups(by_length, 1),
        "8 of like length": groups(by_length, 8),
        "32 of like length": groups(by_length, 32),
        "32 of any length": groups(shuffled, 32),
        "the encoder's own": own,
        "the encoder's own, halves of the corpus": [
            [half[row] for row in batch]
            for half in halves
            for batch in plan_batches([lengths[row] for row in half], CPU_TOKEN_BUDGET)
        ],
    }


def difference(got: np.ndarray, alone: np.ndarray, codec: ProductCodec) -> dict[str, float]:
    """Compare memories (T, D) with those of passages encoded alone."""
    error = got.astype(np.float64) - alone
    codes, expected = codec.encode(got).view(np.uint8), codec.encode(alone).view(np.uint8)
    return {
        "max": float(np.abs(error).max() / np.sqrt(np.square(alone, dtype=np.float64).mean())),
        "rms": float(np.linalg.norm(error) / np.linalg.norm(alone.astype(np.float64))),
        "equal_rows": float((error == 0).all(axis=1).mean()),
        "changed_codes": float((codes != expected).mean()),
    }


def compare_batchings(stack: EncoderStack, sequences: Sequence[np.ndarray]) -> dict[str, Any]:
    """Measure every batching, and the encoder's own again and on one thread."""
    alone = encode(stack, sequences, groups(range(len(sequences)), 1))
    codec = ProductCodec.train(
        alone, num_subspaces=alone.shape[1] // SUBSPACE_DIM, codebook_size=CODEBOOK_SIZE, seed=0
    )
    ways = batchings([len(ids) for ids in sequences])
    rows = {
        name: difference(encode(stack, sequences, batches), alone, codec)
        for name, batches in ways.items()
    }
    own = encode(stack, sequences, ways["the encoder's own"])
    again = encode(stack, sequences, ways["the encoder's own"])
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one_thread = encode(stack, sequences, ways["the encoder's own"])
    torch.set_num_threads(num_threads)
    return {
        "rows": rows,
        "own_twice_same_bytes": own.tobytes() == again.tobytes(),
        f"own_1_and_{num_threads}_threads_same_bytes": own.tobytes() == one_thread.tobytes(),
    }


def compare_budgets(stack: EncoderStack, sequences: Sequence[np.ndarray]) -> dict[int, Any]:
    """Measure padding and speed by the most padded tokens in a batch.

    Rounds are interleaved and the fastest counts: other work on the machine only slows one down.
    """
    lengths = [len(ids) for ids in sequences]
    plans = {budget: plan_batches(lengths, budget) for budget in TOKEN_BUDGETS}
    rates: dict[int, list[float]] = {budget: [] for budget in plans}
    for _ in range(NUM_TIMINGS):
        for budget, batches in plans.items():
            start = time.perf_counter()
            encode(stack, sequences, batches)
            rates[budget].append(sum(lengths) / (time.perf_counter() - start))
    padded = {
        budget: sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
        for budget, batches in plans.items()
    }
    return {
        budget: {
            "batches": len(batches),
            "padding": 1 - sum(lengths) / padded[budget],
            "tokens_per_s": round(max(rates[budget])),
        }
        for budget, batches in plans.items()
    }


def measure(source: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run both comparisons for one encoder."""
    options = EncoderOptions(source=source)
    plan = plan_encoder(options)
    stack = EncoderStack(plan.checkpoint, device=arguments.device, tap_layer=plan.num_frozen_layers)
    splitter = load_splitter(options)
    passages = (p for document in read_documents(arguments.data) for p in splitter.split(document))
    sequences = [passage.token_ids for passage in islice(passages, arguments.passages)]
    print(f"{source}: {len(sequences)} passages", file=sys.stderr)
    return {
        "passages": len(sequences),
        "tokens": sum(map(len, sequences)),
        "batching": compare_batchings(stack, sequences),
        "budgets": compare_budgets(stack, sequences) if source == DEFAULT_SOURCE else {},
    }


def print_tables(name: str, result: dict[str, Any]) -> None:
    """Print the figures of one encoder as Markdown."""
    print(f"\n### {name}: {result['passages']} passages, {result['tokens']} tokens\n")
    print("| batches | max / rms of memory | rms, relative | rows equal | codes changed |")
    print("|---|---|---|---|---|")
    for way, row in result["batching"].pop("rows").items():
        print(
            f"| {way} | {row['max']:.1e} | {row['rms']:.1e} | {row['equal_rows']:.1%} | "
            f"{row['changed_codes']:.4%} |"
        )
        result["batching"][way] = row
    if not result["budgets"]:
        return
    print("\n| most padded tokens in a batch | batches | padding | tokens/s |")
    print("|---|---|---|---|")
    for budget, row in result["budgets"].items():
        print(f"| {budget} | {row['batches']} | {row['padding']:.1%} | {row['tokens_per_s']} |")


def main() -> None:
    """Measure MiniLM and a random T5."""
    parser = argparse.ArgumentParser(prog="python -m experiments.batching", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of .txt files; default: docstrings")
    parser.add_argument("--passages", type=int, default=250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_random_t5(Path(folder))
        sources = {DEFAULT_SOURCE: DEFAULT_SOURCE, "random T5-v1.1 small": folder}
        results = {name: measure(source, arguments) for name, source in sources.items()}
    for name, result in results.items():
        print_tables(name, result)
    machine = {
        "device": arguments.device,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    json.dump({"experiment": "batching", **machine, "results": results}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
