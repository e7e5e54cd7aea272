"""Checkpoints of a training run: what its next step depends on, whole or not at all; the last two.

Does not: keep random states; a run that goes on derives them from the number of the step.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import nn

from memstore.errors import CorruptionError, StorageError
from memstore.models.checkpoints import (
    collect_weights,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)

KIND = "training"
_CARRIED = "carried"
_NUM_KEPT = 2
_NAME = re.compile(r"step-(\d{9})")

Parts = Mapping[str, nn.Module]
"""The modules of a run by name."""


class Checkpoints:
    """The checkpoints in one folder, which one process writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def last_step(self) -> int:
        """The step of the newest; 0 if there is none."""
        return max(self._steps(), default=0)

    def write(
        self,
        step: int,
        parts: Parts,
        optimizer: torch.optim.Optimizer | None = None,
        carried: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Write what has become of a run after a step, and delete what is older than two.

        Args:
            step: its number.
            parts: the modules.
            optimizer: of the parts; None: there is none.
            carried: by name, what else the next step depends on.

        Raises:
            StorageFullError, StorageError: if it cannot be written; older ones are all there.
        """
        self._sweep()
        tensors = {
            f"{part}.{name}": tensor
            for part, module in parts.items()
            for name, tensor in collect_weights(module).items()
        }
        if optimizer is not None:
            tensors |= _flatten(optimizer, _trained(parts))
        tensors |= {f"{_CARRIED}.{name}": tensor for name, tensor in (carried or {}).items()}
        write_checkpoint(self._at(step), kind=KIND, config={"step": step}, tensors=tensors)
        for old in sorted(self._steps())[:-_NUM_KEPT]:
            shutil.rmtree(self._at(old), ignore_errors=True)

    def read(self, step: int) -> Checkpoint:
        """Read one.

        Raises:
            NotFoundError: if there is none of this step.
            CorruptionError: if a file is missing or damaged.
        """
        folder = self._at(step)
        _, tensors = read_checkpoint(folder, kind=KIND)
        return Checkpoint(folder, tensors)

    def _at(self, step: int) -> Path:
        return self._folder / f"step-{step:09d}"

    def _steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [int(match[1]) for match in found if match]

    def _sweep(self) -> None:
        """Delete what was being written when a run was killed."""
        for path in self._folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


class Checkpoint:
    """What was read of one checkpoint."""

    def __init__(self, folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        self._folder, self._tensors = folder, tensors

    def load_parts(self, parts: Parts) -> None:
        """Put the weights into the modules; their parameters are then other objects.

        Raises:
            CorruptionError: if the weights are not exactly those of the modules.
        """
        for name, module in parts.items():
            load_weights(module, self._under(name), where=f"{self._folder}, {name}")

    def load_optimizer(self, optimizer: torch.optim.Optimizer, parts: Parts) -> None:
        """Put the optimizer's state back, of the modules that it was saved with.

        Raises:
            CorruptionError: if it is the state of other parameters.
        """
        trained = list(_trained(parts))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in self._under("optimizer").items():
            parameter, _, key = name.rpartition(".")
            if parameter not in trained:
                raise CorruptionError(
                    f"{self._folder}: optimizer state of {parameter!r}, which is not trained; "
                    "delete this checkpoint to go on from the one before",
                    object=self._folder,
                )
            state.setdefault(trained.index(parameter), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def carried(self, prefix: str, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return what was carried under `<prefix>.<name>`, by these names.

        Raises:
            CorruptionError: if it is not exactly that.
        """
        tensors = self._under(f"{_CARRIED}.{prefix}")
        if tensors.keys() != set(names):
            raise CorruptionError(
                f"{self._folder}: of {prefix} got {sorted(tensors)}, wanted {sorted(names)}; "
                "delete this checkpoint to go on from the one before",
                object=self._folder,
            )
        return tensors

    def _under(self, prefix: str) -> dict[str, torch.Tensor]:
        start = f"{prefix}."
        return {
            name.removeprefix(start): tensor
            for name, tensor in self._tensors.items()
            if name.startswith(start)
        }


def trained_parameters(parts: Parts) -> list[nn.Parameter]:
    """Return what an optimizer is to train, in the order that checkpoints rely on."""
    return list(_trained(parts).values())


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file, whole or not at all, over what is there; one process at a time.

    Raises:
        StorageError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as err:
        raise StorageError(f"{path}: cannot be written: {err}", object=path) from err


def _trained(parts: Parts) -> dict[str, nn.Parameter]:
    return {
        f"{part}.{name}": parameter
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _flatten(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    return {
        f"optimizer.{name}.{key}": torch.as_tensor(value)  # of some it is a number
        for name, parameter in trained.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
