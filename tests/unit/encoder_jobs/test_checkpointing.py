"""Checkpoints of a run: all of it comes back, and the last two are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from encoder_jobs.checkpointing import Checkpoints, trained_parameters
from memstore.errors import CorruptionError

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=0.1),
}


def make_parts() -> dict[str, nn.Module]:
    """Two modules, one of which is half frozen."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    first[0].requires_grad_(False)
    return {"first": first, "second": nn.BatchNorm1d(2)}


def step(parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer, number: int) -> None:
    """Make one step on inputs that its number decides."""
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    loss: torch.Tensor = parts["second"](parts["first"](inputs)).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, name: str) -> None:
    """To the bit: weights, buffers, and the optimizer's state."""
    parts = make_parts()
    optimizer = OPTIMIZERS[name](trained_parameters(parts))
    for number in range(3):
        step(parts, optimizer, number)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(3, parts, optimizer)

    again = make_parts()
    checkpoint = checkpoints.read(checkpoints.last_step)
    checkpoint.load_parts(again)
    resumed = OPTIMIZERS[name](trained_parameters(again))
    checkpoint.load_optimizer(resumed, again)
    for number in range(3, 6):
        step(parts, optimizer, number)
        step(again, resumed, number)

    for part, module in parts.items():
        torch.testing.assert_close(again[part].state_dict(), module.state_dict(), rtol=0, atol=0)
    assert not again["first"][0].weight.requires_grad  # type: ignore[index]


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    """And what was being written when a run was killed is swept away."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.last_step == 0
    (tmp_path / "checkpoints/.step-000000002.abc").mkdir(parents=True)

    for number in (2, 4, 10):
        checkpoints.write(number, make_parts())

    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000000004", "step-000000010"]
    assert checkpoints.last_step == 10


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    """State of what is now frozen belongs to another run."""
    parts = make_parts()
    optimizer = torch.optim.AdamW(trained_parameters(parts))
    step(parts, optimizer, 0)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(1, parts, optimizer)
    parts["first"].requires_grad_(False)

    with pytest.raises(CorruptionError, match=r"optimizer state of 'first\.1\."):
        checkpoints.read(1).load_optimizer(torch.optim.AdamW(trained_parameters(parts)), parts)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """Cut short, as by a disk that failed."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(1, make_parts())
    file = tmp_path / "checkpoints/step-000000001/model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])

    with pytest.raises(CorruptionError, match="step-000000001"):
        checkpoints.read(1)
