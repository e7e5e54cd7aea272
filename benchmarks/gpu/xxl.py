"""T5 XXL's shapes: how fast memories are made, and which part of that is their quantization.

The weights are random, which changes no time. A LUMEN with live fraction 1/3 makes its memories by
16 of 24 layers; MEMORY-VQ keeps each in 256 codes of 16 bits.
"""

from __future__ import annotations

from functools import partial

import torch
from transformers import T5Config, T5EncoderModel

from benchmarks.gpu.device import (
    DEVICE,
    as_index,
    codebook,
    matmul_rate,
    random_codes,
    require_gpu,
    time_calls,
)
from benchmarks.harness import Cell, Context, Outcome, Table, check, quotient, rate
from memstore.codec.kernels.gpu_assign import assign, half_norms

_LAYERS = 16  # of 24
_PASSAGE_TOKENS = 256
_ENCODER = "memory encoder"
_QUANTIZER = "quantizer"


def run(context: Context) -> Outcome:
    """Encode batches of passages with and without quantizing their memories."""
    require_gpu(quick=context.quick)
    dim, shape = (64, (4, 300, 16)) if context.quick else (4096, (256, 65_536, 16))
    batches = (2,) if context.quick else (16, 64, 256)
    model, table = _encoder(dim, quick=context.quick), codebook(context.seed, shape)
    norms = half_norms(table)
    gates = check({"no code is out of range": partial(_has_codes, model, table, norms)})
    return Outcome(
        gates=gates,
        settings={
            "dim": dim,
            "layers": _LAYERS,
            "passage_tokens": _PASSAGE_TOKENS,
            "codebook": list(shape),
            "record_bytes": 2 * shape[0],
            "vector_bytes": 2 * dim,
            "matmul_bfloat16_flops": matmul_rate(torch.bfloat16, quick=context.quick),
        },
        tables=[_by_batch(model, table, norms, batches, quick=context.quick)],
        notes=[
            "bfloat16, random weights and text, passages without padding, one forward pass a "
            "batch. On disk a token takes its record; text, retrieval vector and ids of a passage "
            "are shared by its tokens (docs/format.md).",
        ],
    )


def _encoder(dim: int, *, quick: bool) -> T5EncoderModel:
    torch.manual_seed(0)
    config = T5Config(
        d_model=dim,
        d_ff=10_240 if not quick else 2 * dim,
        d_kv=64 if not quick else 16,
        num_heads=dim // 64 if not quick else 4,
        num_layers=_LAYERS if not quick else 2,
        feed_forward_proj="gated-gelu",
        vocab_size=32_128 if not quick else 100,
    )
    with torch.device(DEVICE):
        return T5EncoderModel(config).to(torch.bfloat16).eval()


@torch.inference_mode()
def _encode(model: T5EncoderModel, ids: torch.Tensor) -> torch.Tensor:
    """Return memories (T, D) of passages (N, P)."""
    hidden: torch.Tensor = model(input_ids=ids).last_hidden_state
    return hidden.flatten(0, 1)


def _ids(model: T5EncoderModel, num_passages: int, *, quick: bool) -> torch.Tensor:
    generator = torch.Generator(DEVICE).manual_seed(1)
    shape = num_passages, 8 if quick else _PASSAGE_TOKENS
    return torch.randint(
        model.config.vocab_size, shape, generator=generator, device=DEVICE, dtype=torch.int64
    )


def _has_codes(model: T5EncoderModel, table: torch.Tensor, norms: torch.Tensor) -> bool:
    memories = _encode(model, _ids(model, 1, quick=True))
    codes = random_codes(0, len(memories), table.shape[0], table.shape[1])
    bad_row = assign(memories, table, norms, codes)
    return int(bad_row) == len(memories) and int(as_index(codes).max()) < table.shape[1]


def _by_batch(
    model: T5EncoderModel,
    table: torch.Tensor,
    norms: torch.Tensor,
    batches: tuple[int, ...],
    *,
    quick: bool,
) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for num_passages in batches:
        ids = _ids(model, num_passages, quick=quick)
        memories = _encode(model, ids)
        codes = random_codes(0, len(memories), table.shape[0], table.shape[1])
        seconds = time_calls(
            {
                _ENCODER: partial(_encode, model, ids),
                _QUANTIZER: partial(assign, memories, table, norms, codes),
            }
        )
        both = seconds[_ENCODER] + seconds[_QUANTIZER]
        rows.append(
            (
                f"{num_passages} x {ids.shape[1]}",
                *(rate(seconds[name], ids.numel(), "tokens/s") for name in seconds),
                rate(both, ids.numel(), "tokens/s"),
                quotient(seconds[_QUANTIZER], both),
            )
        )
    return Table(
        title="Memories of T5 XXL's shapes",
        columns=("passages", _ENCODER, _QUANTIZER, "both", "the quantizer's share"),
        rows=rows,
    )
