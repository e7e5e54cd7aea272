"""From the processor's memory to vectors on the GPU: codes that are decoded there, or vectors.

A token of the MEMORY-VQ layout is 512 bytes as codes and 8,192 as bfloat16. Pinned memory is what a
reader that stages its input uses; pageable memory is what an mmapped shard gives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.device import (
    DEVICE,
    IS_CUDA,
    codebook,
    gaussian,
    random_codes,
    require_gpu,
    time_calls,
)
from benchmarks.harness import Context, Outcome, Table, check, quotient, rate
from memstore.codec.kernels.gpu_gather import gather


def run(context: Context) -> Outcome:
    """Time copies, with decoding where codes are copied."""
    require_gpu(quick=context.quick)
    shape = (4, 300, 16) if context.quick else (256, 65_536, 16)
    batch = 8 if context.quick else 131_072
    table = codebook(context.seed, shape)
    codes = random_codes(1, batch, shape[0], shape[1])
    dim = shape[0] * shape[2]
    out = torch.empty((batch, dim), dtype=torch.bfloat16, device=DEVICE)
    received = torch.empty_like(codes)
    vectors = gaussian(2, batch, dim, dtype=torch.bfloat16).cpu()
    sources = {
        "codes, pageable": codes.cpu(),
        "codes, pinned": _pinned(codes.cpu()),
        "vectors, pageable": vectors,
        "vectors, pinned": _pinned(vectors),
    }

    def copy_codes(source: torch.Tensor) -> None:
        received.copy_(source, non_blocking=True)
        gather(received, table, out)

    def arrives() -> bool:
        expected = torch.empty_like(out)
        gather(codes, table, expected)
        copy_codes(sources["codes, pinned"])
        return torch.equal(out, expected)

    gates = check({"decoded codes are the same after the bus": arrives})
    functions: dict[str, Callable[[], object]] = {}
    for name, source in sources.items():
        if name.startswith("codes"):
            functions[f"{name}, decoded"] = partial(copy_codes, source)
        else:
            functions[name] = partial(out.copy_, source, non_blocking=True)
    seconds = time_calls(functions)
    return Outcome(
        gates=gates,
        settings={"batch": batch, "dim": dim},
        tables=[
            Table(
                title=f"Vectors ready on the GPU, batch {batch:,}",
                columns=("copied", "tokens/s", "GB/s over the bus", "times pinned vectors"),
                rows=[
                    (
                        name,
                        rate(taken, batch, "tokens/s"),
                        rate(taken, sources[name.removesuffix(", decoded")].nbytes / 1e9, "GB/s"),
                        quotient(seconds["vectors, pinned"], taken),
                    )
                    for name, taken in seconds.items()
                ],
            )
        ],
        notes=[(__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip()],
    )


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.pin_memory() if IS_CUDA else tensor
