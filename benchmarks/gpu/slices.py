"""The slices by name, in the order in which all of them run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness import Context, Outcome

SLICES = {
    "correctness": "GPU: the kernels against float64, at the sizes that are used",
    "decode": "GPU: decoding codes that lie in its memory",
    "encode": "GPU: exact encoding",
    "train": "GPU: k-means of one subspace",
    "xxl": "GPU: making memories of T5 XXL's shapes",
    "longvq": "GPU: LongVQ by length, against attention to every token",
    "transfer": "GPU: codes over the bus against vectors over the bus",
}


def run(name: str, context: Context) -> Outcome:
    """Run a slice by name.

    Raises:
        GateError: if it does not compute the right thing.
    """
    outcome: Outcome = import_module(f"benchmarks.gpu.{name}").run(context)
    return outcome
