"""Which runner `--ray` names."""

from __future__ import annotations

from typing import Any

import pytest

from encoder_jobs.runners import LocalRunner, check_runner, cpus_of_machines, make_runner
from memstore.errors import ConfigError, UnavailableError


def test_none_is_this_process() -> None:
    """It needs no Ray."""
    check_runner("none")

    assert isinstance(make_runner("none"), LocalRunner)


def test_an_empty_address_is_refused() -> None:
    """The message lists what is accepted."""
    with pytest.raises(ConfigError, match="'none', 'local' or the address"):
        check_runner("")


def test_an_address_of_ray_client_is_refused() -> None:
    """It cannot stream; the message names the ways that work."""
    with pytest.raises(ConfigError, match="from inside the cluster with --ray auto"):
        check_runner("ray://head:10001")


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    """Before the corpus is read, and without Ray's minutes of trying."""
    with pytest.raises(UnavailableError, match=r"--ray 127\.0\.0\.1:1: no Ray cluster answers"):
        check_runner("127.0.0.1:1")


def _node(cpus: float | None, *, alive: bool = True) -> dict[str, Any]:
    """A machine as `ray.nodes()` tells it: a head without CPUs has no such entry."""
    return {"Alive": alive, "Resources": {} if cpus is None else {"CPU": cpus}}


def test_a_head_without_cpus_and_dead_machines_hold_no_encoder() -> None:
    """They neither count nor make the encoders of the others small."""
    nodes = [_node(None), _node(0.0), _node(16.0), _node(8.0), _node(4.0, alive=False)]

    assert cpus_of_machines(nodes) == [16.0, 8.0]


def test_a_cluster_without_workers_is_unavailable() -> None:
    """It may have some later."""
    with pytest.raises(UnavailableError, match="none of the 1 machines"):
        cpus_of_machines([_node(None)])
