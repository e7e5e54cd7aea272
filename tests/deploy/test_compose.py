"""The compose file, checked without a container engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoder_jobs.runners import LocalRunner, make_runner
from server.settings import Settings, split_address
from tests.deploy.conftest import ParseCommand

SERVICES = pytest.mark.parametrize("name", ["memstore", "encode"])


@pytest.fixture(scope="module")
def compose(load_yaml: Callable[..., Any]) -> dict[str, Any]:
    """deploy/compose.yaml."""
    value: dict[str, Any] = load_yaml("compose.yaml", "compose.schema.json")
    return value


def serve_options(compose: dict[str, Any], parse_command: ParseCommand) -> dict[str, Any]:
    """Return the options that the service starts `memstore serve` with."""
    command, *arguments = compose["services"]["memstore"]["command"]
    assert command == "serve"
    return parse_command(command, arguments)


@SERVICES
def test_a_service_has_no_more_rights_than_it_needs(compose: dict[str, Any], name: str) -> None:
    """Read-only root, no capability, none to be gained."""
    service = compose["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@SERVICES
def test_an_image_is_of_this_version_and_can_be_built(
    compose: dict[str, Any], name: str, root: Path, pyproject: dict[str, Any]
) -> None:
    """The tag is the project's version; context and Dockerfile are there."""
    service = compose["services"][name]
    context = root / "deploy" / service["build"]["context"]

    assert service["image"].endswith(f":{pyproject['project']['version']}")
    assert (context / service["build"]["dockerfile"]).is_file()
    assert context.resolve() == root


def test_ports_are_published_on_loopback_only(
    compose: dict[str, Any], parse_command: ParseCommand
) -> None:
    """And they are the ports that the server listens on, the defaults of its settings."""
    options = serve_options(compose, parse_command)
    published = [port.split(":") for port in compose["services"]["memstore"]["ports"]]
    listened = [split_address(options[face])[1] for face in ("grpc", "http")]
    defaults = [split_address(Settings.model_fields[face].default)[1] for face in ("grpc", "http")]

    assert {host for host, _, _ in published} == {"127.0.0.1"}
    assert [int(inner) for _, _, inner in published] == listened == defaults
    assert [int(outer) for _, outer, _ in published] == listened


def test_the_server_reads_a_store_that_it_cannot_write(
    compose: dict[str, Any], parse_command: ParseCommand
) -> None:
    """The store's volume is mounted read-only where `--store` points."""
    options = serve_options(compose, parse_command)

    assert compose["services"]["memstore"]["volumes"] == [f"store:{options['store']}:ro"]
    assert "store" in compose["volumes"]


def test_the_token_comes_from_a_secret_file(
    compose: dict[str, Any], parse_command: ParseCommand
) -> None:
    """No token stands in the file; `--token-file` is where the secret is mounted."""
    (secret,) = compose["services"]["memstore"]["secrets"]
    options = serve_options(compose, parse_command)

    assert str(options["token_file"]) == f"/run/secrets/{secret}"
    assert list(compose["secrets"]) == [secret]
    assert not options["insecure"]


def test_the_server_is_given_the_time_to_drain(compose: dict[str, Any]) -> None:
    """The engine kills later than the server's own defaults would have it leave."""
    defaults = Settings.model_fields
    period_s = int(compose["services"]["memstore"]["stop_grace_period"].removesuffix("s"))

    assert period_s > defaults["drain_s"].default + defaults["grace_s"].default


def test_the_job_is_the_encode_command(
    compose: dict[str, Any], parse_command: ParseCommand
) -> None:
    """`encode` is started by its profile alone, reads the corpus and writes the server's store."""
    service = compose["services"]["encode"]
    command, *arguments = service["command"]
    options = parse_command(command, arguments)
    mounts = {mount.split(":", 1)[1] for mount in service["volumes"]}

    assert command == "encode"
    assert service["profiles"] == ["encode"]
    assert mounts == {f"{options['corpus']}:ro", options["store"]}
    assert f"store:{options['store']}" in service["volumes"]
    assert isinstance(make_runner(options["ray"]), LocalRunner)
