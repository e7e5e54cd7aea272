"""LongVQ: time and memory by length of the text, against attention that looks at every token.

The models of the benchmark `longvq`, and LongVQ with its attention in torch instead of Triton. In
float32, products are exact to float32 on all sides; in bfloat16, torch's autocast decides, under
which LongVQ's attention stays in float32. A model is left out at lengths whose scores would take
minutes, or which do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu.device import DEVICE, IS_CUDA, gaussian, require_gpu, time_calls
from benchmarks.harness import Context, Outcome, Table, check
from benchmarks.longvq import (
    CHECKPOINTED,
    FUSED,
    LONGVQ,
    SPACE,
    VANILLA,
    Place,
    Shape,
    build,
    ratios,
    read,
    speeds,
    table,
    train,
)
from memstore.errors import ConfigError
from memstore.models.longvq_attention import AttentionRule, factored_attention
from memstore.models.longvq_config import LongVQConfig, Weighting

_TORCH = "LongVQ, attention in torch"
_NAMES = (VANILLA, FUSED, SPACE, LONGVQ, CHECKPOINTED, _TORCH)
_OURS = (SPACE, LONGVQ, CHECKPOINTED)
_LINEAR = (FUSED, *_OURS, _TORCH)
_TOLERANCE = 1e-5
_MIB = 1 << 20

_FULL = Shape(
    config=LongVQConfig(vocab_size=256, dim=256, num_layers=4),
    lengths={
        1024: _NAMES,
        4096: _NAMES,
        16_384: _NAMES,
        65_536: _LINEAR,
        131_072: _OURS,
        1_048_576: _OURS,
    },
    rounds=5,
)
_NARROW = replace(_FULL, lengths={**_FULL.lengths, 131_072: (FUSED, *_OURS)})
_QUICK = Shape(
    config=LongVQConfig(
        vocab_size=256, dim=64, num_layers=1, num_codes=8, key_dim=8, value_dim=16, window=16
    ),
    lengths={32: (FUSED, LONGVQ)},
    rounds=1,
)


def run(context: Context) -> Outcome:
    """Check the kernels, then time and measure all models in float32 and in bfloat16."""
    require_gpu(quick=context.quick)
    torch.backends.mha.set_fastpath_enabled(False)  # which has an attention of its own
    shape = _QUICK if context.quick else _FULL
    gates = check(
        {
            f"{weighting}, {'causal' if is_causal else 'both ways'}: the kernels give what torch "
            "gives in float64, and the same bits again": partial(
                _agrees, shape.config, AttentionRule(shape.config.window, weighting, is_causal)
            )
            for weighting, is_causal in product(Weighting, (False, True))
        }
    )
    tables: list[Table] = []
    tables += _tables(_Bench(shape, "float32"))
    if not context.quick:
        tables += _tables(_Bench(_NARROW, "bfloat16"))
    return Outcome(
        gates=gates,
        settings={
            "dim": shape.config.dim,
            "layers": shape.config.num_layers,
            "codes": shape.config.num_codes,
            "window": shape.config.window,
            "texts in a batch": 1,
        },
        tables=tables,
        notes=[
            (__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip(),
            "A training step is forward and backward, without the optimizer. Memory: how far it "
            "raises what torch has allocated, gradients of the weights among it.",
        ],
    )


def _agrees(config: LongVQConfig, rule: AttentionRule) -> bool:
    """Compare output and gradients, of a text that ends within a block."""
    length = 9 * config.window + 7 if IS_CUDA else 2 * config.window + 7
    shape = 1, config.num_heads, length
    queries, keys, codebook = (
        F.layer_norm(gaussian(seed, *sizes, config.key_dim), (config.key_dim,))
        / config.key_dim**0.25
        for seed, sizes in enumerate((shape, shape, (config.num_heads, config.num_codes)))
    )
    codes = (keys @ codebook.mT).argmax(-1)
    values = gaussian(3, *shape, config.head_dim)
    bias = gaussian(4, config.num_heads, rule.num_biases)
    weights = gaussian(5, *values.shape)

    def results(dtype: torch.dtype) -> list[torch.Tensor]:
        sources = [
            each.to(dtype).requires_grad_() for each in (queries, keys, values, codebook, bias)
        ]
        asked, near, seen, book, biases = sources
        output = factored_attention(
            asked, near, seen, codes, book, biases, None, rule, moment_width=config.moment_width
        )
        torch.manual_seed(0)  # of the projection for the moments
        return [output.detach(), *torch.autograd.grad(output, sources, weights.to(dtype))]

    got, again, wanted = (results(each) for each in (torch.float32, torch.float32, torch.float64))
    errors = [
        float((one - other).abs().max() / other.abs().max().clamp(min=1))
        for one, other in zip(got, wanted, strict=True)
    ]
    return max(errors) < _TOLERANCE and all(map(torch.equal, got, again))


@dataclass(frozen=True)
class _Bench:
    """What is measured in one precision: all models, and the steps that they do.

    Attributes:
        shape: lengths and models.
        precision: "float32" or "bfloat16".
    """

    shape: Shape
    precision: str

    def calls(
        self, step: Callable[[nn.Module, torch.Tensor], None], shape: Shape
    ) -> Iterator[tuple[Place, Callable[[], None]]]:
        """Yield a call for every model and length."""
        models = {
            name: build(LONGVQ if name == _TORCH else name, shape.config).to(DEVICE)
            for name in _NAMES
        }
        for name, length in shape.places():
            tokens = torch.randint(shape.config.vocab_size, (1, length), device=DEVICE)
            yield (name, length), partial(self._do, step, name, models[name], tokens)

    def _do(
        self,
        step: Callable[[nn.Module, torch.Tensor], None],
        name: str,
        model: nn.Module,
        tokens: torch.Tensor,
    ) -> None:
        in_torch: AbstractContextManager[object] = nullcontext()
        if name == _TORCH:
            in_torch = patch("memstore.models.longvq_factored._kernels", return_value=None)
        is_narrow = self.precision == "bfloat16"
        with in_torch, torch.autocast(DEVICE, torch.bfloat16, enabled=is_narrow):
            step(model, tokens)


def _tables(bench: _Bench) -> list[Table]:
    memory = _memory(bench)
    fitting = {
        length: tuple(name for name in names if (name, length) in memory)
        for length, names in bench.shape.lengths.items()
    }
    shape = replace(bench.shape, lengths=fitting)
    training, reading = (_time(bench, step, shape) for step in (train, read))
    made = [
        table("Training step, tokens a second", speeds(training, shape), shape, _NAMES),
        table("Reading, tokens a second", speeds(reading, shape), shape, _NAMES),
        table("Memory of a training step, MiB", memory, shape, _NAMES),
        ratios(training, memory, shape),
    ]
    return [replace(each, title=f"{each.title}, {bench.precision}") for each in made]


def _memory(bench: _Bench) -> Mapping[Place, int]:
    """Return MiB of a training step at its height, for what fits."""
    if not IS_CUDA:
        return dict.fromkeys(bench.shape.places(), 0)
    calls = dict(bench.calls(train, bench.shape))
    next(iter(calls.values()))()  # torch's own buffers are there from now on
    taken: dict[Place, int] = {}
    for place, call in calls.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            call()
        except (torch.OutOfMemoryError, ConfigError):  # the second is LongVQ's own
            continue
        taken[place] = round((torch.cuda.max_memory_allocated() - before) / _MIB)
    return taken


def _time(
    bench: _Bench, step: Callable[[nn.Module, torch.Tensor], None], shape: Shape
) -> dict[Place, np.ndarray]:
    places = {f"{name}, {length}": (name, length) for name, length in shape.places()}
    calls = dict(bench.calls(step, shape))
    functions = {label: calls[place] for label, place in places.items()}
    timings = time_calls(functions, rounds=shape.rounds)
    return {place: timings[label] for label, place in places.items()}
