"""The codec against faiss, torch and NumPy, and against what the machine can do at all.

Every speed is taken on made-up normals and on activations of the default encoder; of a target, the
worse of the two counts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.codec import exact, fast, plot, training
from benchmarks.codec.activations import Activations, load
from benchmarks.codec.decode import plain
from benchmarks.codec.materials import as_drawn, as_trained, of_activations, real_records
from benchmarks.codec.parts import Part
from benchmarks.codec.quality import against_faiss
from benchmarks.codec.sizes import FULL, QUICK, Sizes
from benchmarks.codec.stages import with_stages
from benchmarks.codec.targets import table
from benchmarks.harness import Context, Outcome
from encoder_jobs.stages import use_all_cores

_PLOT = Path(__file__).resolve().parents[2] / "docs" / "results" / "codec.svg"
_NOTES = (
    "Ours is the whole codec, by its public calls, its codebook in bfloat16. Where a peer is timed "
    "on some subspaces, its table says on how many; a token then counts as if all were done.",
    "Of activations there are as many subspaces as a memory of the encoder is wide; they are "
    "repeated until the codec is full, each time with other tokens, and each with a codebook of "
    "its own in memory.",
    "sgemm is the faster of NumPy's and torch's at 2,048 x 2,048 x 2,048; work is 2 K D "
    "floating-point operations a token, whatever was computed. A copy is 256 MiB by a thread a "
    "core; its bytes are those read and those written. Both in turns with what stands beside them.",
    "Decoding is into an array that has been written to before, for all: faiss too is given one.",
)


def run(context: Context) -> Outcome:
    """Check, time and draw everything; minutes, and about 6 GiB of memory."""
    use_all_cores()
    sizes = QUICK if context.quick else FULL
    activations = load(context.data, context.files, sizes)
    parts = list(_parts(sizes, activations, context.seed))
    bars = [bar for part in parts for bar in part.bars]
    plot.draw(bars, context.files / "codec.svg" if context.quick else _PLOT)
    return Outcome(
        gates=[gate for part in parts for gate in part.gates],
        settings={
            **asdict(sizes),
            "dim": sizes.num_subspaces * sizes.width,
            "activations": activations.source,
        },
        tables=[table(parts), *(each for part in parts for each in part.tables)],
        notes=[*_NOTES, exact.note(sizes), *(note for part in parts for note in part.notes)],
    )


def _parts(sizes: Sizes, activations: Activations, seed: int) -> Iterator[Part]:
    """Measure one thing after another; what one has made is gone before the next begins."""
    _say("codebooks of activations")
    trained = training.of_activations(activations, sizes, seed)
    _say("encode, activations")
    material = of_activations(activations, trained, sizes)
    yield exact.exact(material, sizes)
    yield fast.fast(material, sizes)
    del material
    _say("encode, normals")
    drawn = as_drawn(sizes, seed)
    yield exact.exact(drawn, sizes)
    _say("decode")
    records = {
        "normals": drawn.uniform_records(sizes),
        "activations": real_records(activations, trained, sizes),
    }
    yield plain(drawn.codec, records, sizes)
    yield with_stages(drawn.codec, records, activations.token_ids, sizes)
    del drawn, records
    _say("training")
    part, centroids = training.race(activations, sizes, seed)
    yield part
    _say("fast encode, normals")
    yield fast.fast(as_trained(centroids, sizes, seed), sizes)
    _say("quality")
    yield against_faiss(activations, sizes, seed)


def _say(what: str) -> None:
    print(f"codec: {what} …", file=sys.stderr, flush=True)
