"""`python -m experiments.longvq.gradients`: how should keys learn from queries far away?

Through codes alone a query gives a key no gradient. Every option of `KeyGradient` trains the same
small causal model on two tasks, and prints what it reached and what a step cost:

- recall: pairs of symbols, then filler longer than the near blocks, then the first symbols again in
  another order; the second ones are to be given. A model must attend far to do better than 1 of 4.
- bytes: the source of Python's standard library, byte by byte; loss in bits a byte, held-out files.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from experiments.results import Key, ResultLog, Row, run_missing, table
from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import KeyGradient, LongVQConfig

_RESULTS = Path(__file__).parent / "gradients.jsonl"
_PAIRS, _FILLER, _SYMBOLS = 4, 16, 16
_LENGTH = 256  # bytes of a text
_STEPS = {"recall": 1000, "bytes": 300}
# `moments` is exact; a number is what values, 32 and 64 wide, are projected to.
_GRADIENTS = ("local", "means", "learned", "moments", "moments-8", "moments-4", "dense")
_WARMUP = 50
_RATE = 5e-3
_IGNORED = -100

Batch = tuple[torch.Tensor, torch.Tensor]


def recall_batch(size: int, generator: torch.Generator) -> Batch:
    """Return (size, 32) tokens, and targets where a symbol is asked for."""
    noise = torch.rand(size, _SYMBOLS, generator=generator)
    keys = noise.argsort(1)[:, :_PAIRS]
    values = torch.randint(_SYMBOLS, (size, _PAIRS), generator=generator) + _SYMBOLS
    order = torch.rand(size, _PAIRS, generator=generator).argsort(1)
    shown = torch.stack([keys, values], dim=2).flatten(1)
    asked = torch.stack([keys.gather(1, order), values.gather(1, order)], dim=2).flatten(1)
    filler = torch.full((size, _FILLER), 2 * _SYMBOLS)
    tokens = torch.cat([shown, filler, asked], dim=1)
    targets = torch.full_like(tokens, _IGNORED)
    targets[:, -2 * _PAIRS :: 2] = asked[:, 1::2]
    return tokens, targets


def byte_batches(seed: int) -> tuple[Iterator[Batch], Callable[[], Batch]]:
    """Return batches of 8 texts for training, and what makes one of 32 of other files."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    held_out, rest = files[::8], [each for number, each in enumerate(files) if number % 8]
    generator = torch.Generator().manual_seed(seed)

    def batch(text: torch.Tensor, size: int, draw: torch.Generator) -> Batch:
        starts = torch.randint(len(text) - _LENGTH - 1, (size, 1), generator=draw)
        spans = text[starts + torch.arange(_LENGTH + 1)]
        return spans[:, :-1], spans[:, 1:]

    def stream() -> Iterator[Batch]:
        text = _read(rest)
        while True:
            yield batch(text, 8, generator)

    return stream(), lambda: batch(_read(held_out), 32, torch.Generator().manual_seed(0))


def run(key: Key) -> Row:
    """Train one model, and return what it reached."""
    task, seed = str(key["task"]), int(key["seed"])
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    if task == "recall":
        generator = torch.Generator().manual_seed(seed)
        batches: Iterator[Batch] = iter(lambda: recall_batch(32, generator), None)
        tested = recall_batch(2000, torch.Generator().manual_seed(10**6))
    else:
        batches, make_test = byte_batches(seed)
        tested = make_test()
    model = LongVQ(_config(task, str(key["gradient"])))
    step_ms = _train(model, batches, _STEPS[task])
    model.eval()
    with torch.no_grad():
        tokens, targets = tested
        hidden = model(tokens).hidden
        is_asked = targets != _IGNORED
        logits = model.predict(hidden[is_asked])
        loss = torch.nn.functional.cross_entropy(logits, targets[is_asked])
        is_right = logits.argmax(1) == targets[is_asked]
    return {
        "loss": round(float(loss), 4),
        "accuracy": round(float(is_right.float().mean()), 4),
        "step_ms": round(step_ms, 2),
    }


def report(rows: list[Row]) -> str:
    """Return a table: mean and standard deviation over seeds."""
    lines = []
    for task in _STEPS:
        for gradient in _GRADIENTS:
            found = [row for row in rows if (row["task"], row["gradient"]) == (task, gradient)]
            if not found:
                continue
            bits = [row["loss"] / math.log(2) for row in found]
            shares = [100 * row["accuracy"] for row in found]
            cost = statistics.median(row["step_ms"] for row in found)
            reached = _spread(bits, 3), _spread(shares, 1)
            lines.append([task, gradient, str(len(found)), *reached, f"{cost:.0f}"])
    columns = ["task", "gradient", "seeds", "bits", "accuracy, %", "ms a step"]
    return table(columns, lines)


def _config(task: str, gradient: str) -> LongVQConfig:
    kind, _, width = gradient.partition("-")
    is_recall = task == "recall"
    dim = 32 if is_recall else 64
    return LongVQConfig(
        vocab_size=2 * _SYMBOLS + 1 if is_recall else 256,
        is_causal=True,
        dim=dim,
        num_layers=2,
        key_dim=16,
        value_dim=dim,
        ffn_dim=2 * dim,
        num_codes=32,
        window=4 if is_recall else 16,
        key_gradient=KeyGradient(kind),
        moment_width=int(width or dim),
    )


def _train(model: LongVQ, batches: Iterator[Batch], num_steps: int) -> float:
    """Return the median processor time of a step, in milliseconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    took = []
    for step in range(num_steps):
        started = time.thread_time()
        rate = min((step + 1) / _WARMUP, (num_steps - step) / (num_steps - _WARMUP))
        for group in optimizer.param_groups:
            group["lr"] = _RATE * rate
        tokens, targets = next(batches)
        loss = model.loss(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        took.append(time.thread_time() - started)
    return 1000 * statistics.median(took)


def _read(files: list[Path]) -> torch.Tensor:
    return torch.frombuffer(
        bytearray(b"".join(each.read_bytes() for each in files)), dtype=torch.uint8
    ).long()


def _spread(values: list[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def main() -> int:
    """Run what has no row yet, print the table, and return 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.longvq.gradients")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=list(_STEPS), default=list(_STEPS))
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args()
    log = ResultLog(options.results)
    keys: list[Key] = [
        {"task": task, "seed": seed, "gradient": gradient}
        for task in options.tasks
        for seed in range(options.seeds)
        for gradient in _GRADIENTS
    ]
    num_failed = run_missing(log, keys, run)
    print(report(log.rows()))
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
