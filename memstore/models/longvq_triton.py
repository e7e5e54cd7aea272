"""Factored attention on a GPU: what `longvq_factored` computes, fused in Triton.

Scores never reach memory, forward or backward; of sums by code there are those of some blocks at a
time. Tensors are float32; everything is added up in a fixed order: the same input gives the same
output and the same gradients, bit for bit. Matrices are multiplied as three TF32 products, whose
error is about that of float32, and as one after `torch.set_float32_matmul_precision("high")`.

Runs on NVIDIA's data-centre GPUs from the A100 on, and on the CPU in Triton's interpreter. Others
have too little memory on a multiprocessor.
"""

from __future__ import annotations

import torch
import triton

from memstore.codec.kernels.gpu_compiler import on_device_of
from memstore.models.longvq_groups import BlockTensors, Layout
from memstore.models.longvq_triton_call import Call
from memstore.models.longvq_triton_forward import attend as attend_kernel
from memstore.models.longvq_triton_gradients import gradients as gradients

_MAX_KEY_DIM, _MAX_VALUE_DIM = 128, 256  # more leaves no room for tiles on a multiprocessor
_SHARED_BYTES = 160 << 10  # of a multiprocessor, for those tiles


def can_run(tensors: BlockTensors) -> bool:
    """Return whether these tensors are of a kind, and on a device, that the kernels are for."""
    queries, values = tensors.queries, tensors.values
    if any(each.dtype != torch.float32 or each.device != queries.device for each in tensors):
        return False
    if queries.shape[3] > _MAX_KEY_DIM or values.shape[3] > _MAX_VALUE_DIM:
        return False
    if triton.knobs.runtime.interpret:
        return True
    if not queries.is_cuda or torch.version.cuda is None:
        return False
    properties = torch.cuda.get_device_properties(queries.device)
    return bool(properties.shared_memory_per_multiprocessor >= _SHARED_BYTES)


def attend(tensors: BlockTensors, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend as `FactoredAttention` does.

    Args:
        tensors: float32.
        layout: its past sums and counts are float32.

    Returns:
        (R, A, r, E) float32, and what `gradients` needs: (R, A, r) float32, of each query the
        logarithm of the sum of exp(logit), or Laplace's divisor.
    """
    call = Call.of(tensors, layout)
    queries = call.tensors.queries
    output = queries.new_empty(*queries.shape[:3], call.sizes["VALUE_DIM"])
    totals = queries.new_empty(queries.shape[:3])
    with on_device_of(queries):
        for part in call.parts(call.sizes["NUM_CODES"] * call.sizes["VALUE_DIM"]):
            arguments = (*call.tensors, call.is_key, call.counts, part.sums, output, totals)
            call.launch_queries(attend_kernel, part, *arguments)
    return output, totals
