"""How many bytes a pass over texts takes, before it is tried.

Running out of memory kills a process, or stalls the machine; an estimate says so beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from memstore.errors import ConfigError
from memstore.models.longvq_config import Attention, KeyGradient, LongVQConfig

_SMALL = 1 << 28  # bytes: below that nobody asks the machine
_LOGITS = 3 * 4  # bytes: a logit, its probability and its gradient in float32
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")  # version 2: what a container may take
_CACHES = ("active_file", "inactive_file")  # of files: counted as taken, and given back at need


def estimate_bytes(
    config: LongVQConfig,
    batch_size: int,
    length: int,
    *,
    itemsize: int = 4,
    keeps_activations: bool = True,
    checkpointing: bool = False,
    num_targets: int = 0,
) -> int:
    """Estimate what a pass takes at its peak, parameters left out.

    Args:
        config: of the model.
        batch_size: B.
        length: L.
        itemsize: bytes of a number.
        keeps_activations: gradients are recorded.
        checkpointing: only what enters each block is kept.
        num_targets: tokens whose loss is taken: logits over the vocabulary, and their gradient.

    Returns:
        Bytes; `python -m benchmarks longvq` has what was measured.
    """
    keys = config.num_heads * config.key_dim
    # Of a token in a block, counted: norms, gates, state space, queries and keys, values twice.
    kept = 14 * config.dim + 6 * keys + 6 * config.value_dim + 2 * config.ffn_dim
    at_work = 6 * config.dim + 2 * keys + 4 * config.value_dim
    learns_dense = config.key_gradient_of(length) is KeyGradient.DENSE and config.has_codes
    if config.attention is Attention.FULL or (learns_dense and keeps_activations):
        at_work += 4 * config.num_heads * length
        kept += 3 * config.num_heads * length
    if not keeps_activations:
        floats = at_work + 2 * config.dim
    elif checkpointing:
        floats = config.num_layers * config.dim + kept + at_work
    else:
        floats = config.num_layers * kept + at_work
    return batch_size * length * floats * itemsize + _LOGITS * num_targets * config.vocab_size


def check_memory(wanted: int, shape: Sequence[int], device: torch.device) -> None:
    """Refuse texts that are longer than memory allows.

    Args:
        wanted: bytes, of `estimate_bytes`.
        shape: B and L, for what is said.
        device: that they would be on.

    Raises:
        ConfigError: with the bytes that it would take and those that there are.
    """
    available = available_bytes(device) if wanted >= _SMALL else None
    if available is not None and wanted > available:
        batch_size, length = shape
        raise ConfigError(
            f"tokens: {batch_size} x {length} would take about {wanted / 2**30:.1f} GiB on "
            f"{device}, which has {available / 2**30:.1f} GiB; read fewer or shorter texts at a "
            "time; training takes less with checkpointing",
            wanted_bytes=wanted,
            available_bytes=available,
        )


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that a device can still give; None if it does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu" or not _MEMINFO.exists():
        return None
    lines = (line.split() for line in _MEMINFO.read_text().splitlines())
    of_machine = next((int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"), None)
    found = [each for each in (of_machine, _of_container()) if each is not None]
    return min(found, default=None)


def _of_container() -> int | None:
    """Return what a control group with a limit can still give."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        taken = int((_CGROUP / "memory.current").read_text())
        lines = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        taken -= sum(int(size) for name, size in lines if name in _CACHES)
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - taken)
