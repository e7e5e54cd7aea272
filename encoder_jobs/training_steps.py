"""What the step of any learner is made of: its order and seed, its precision, its update.

Every process of a torch.distributed group holds the same weights and takes its share of each batch.
One process alone is the plain case.

Does not: use DistributedDataParallel, which would sum gradients after every micro-batch; here they
are summed once a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import distributed, nn

from memstore.models.vq_codebook import num_ranks, sum_over_ranks

NO_TARGET = -100
"""The target of a place that has none; cross-entropy passes over it."""

_LARGEST_EXPONENT = 700.0


def rank() -> int:
    """Return the number of this process in its group; 0 without one."""
    return distributed.get_rank() if num_ranks() > 1 else 0


def step_seed(seed: int, step: int, rank: int) -> int:
    """Mix three numbers into one for torch, so that no state has to be kept from step to step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=2)
def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of `count` things in an epoch, (count,) int64; not to be changed."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def in_shuffled_epochs(count: int, seed: int) -> Callable[[int], int]:
    """Return the choice of `count` things again and again, in another order each time."""

    def choose(number: int) -> int:
        epoch, at = divmod(number, count)
        return int(shuffled(count, seed, epoch)[at])

    return choose


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which matrix products run as a precision of `PRECISIONS` says."""
    is_mixed = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_mixed)


def update(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    loss: float,
    *,
    clip_norm: float | None = None,
) -> float:
    """Make an optimizer's step with the gradients of all processes, and forget them.

    Args:
        optimizer: of the parameters.
        parameters: what is trained, in the same order everywhere.
        loss: of the step; if it or the gradient is not finite, nothing is changed.
        clip_norm: a longer gradient is shortened to this; None: none is.

    Returns:
        The length of the gradient, before it is shortened.
    """
    if num_ranks() > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            sum_over_ranks(parameter.grad)
    norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    grad_norm = float(norm)
    if is_finite(loss, grad_norm):
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return grad_norm


def is_finite(loss: float, grad_norm: float) -> bool:
    """Say whether a step with these was made."""
    return math.isfinite(loss) and math.isfinite(grad_norm)


def perplexity(loss: float) -> float:
    """Return the exponential of a loss in nats; of a very large one infinity."""
    return math.inf if loss > _LARGEST_EXPONENT else math.exp(loss)
