"""The Dockerfiles, read without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from server.settings import Settings, split_address
from tests.deploy.conftest import ParseCommand

SERVER, ENCODER = "server.Dockerfile", "encoder.Dockerfile"
EXTRA = {SERVER: "server", ENCODER: "jobs"}
DOCKERFILES = pytest.mark.parametrize("name", [SERVER, ENCODER])
_SECRET = re.compile(r"token|secret|password|key", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    keyword: str
    arguments: str


def read(root: Path, name: str) -> list[Instruction]:
    """Cut a Dockerfile into instructions."""
    lines = (root / "deploy/docker" / name).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    split = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [Instruction(keyword, arguments) for keyword, arguments in split]


def last(instructions: list[Instruction], keyword: str) -> str:
    """Return the arguments of the last instruction of a kind: the one that counts."""
    return [each.arguments for each in instructions if each.keyword == keyword][-1]


def build_arguments(instructions: list[Instruction]) -> dict[str, str]:
    """Return the defaults of the build arguments."""
    pairs = (each.arguments.split("=", 1) for each in instructions if each.keyword == "ARG")
    return {name: value.strip('"') for name, value in pairs}


@DOCKERFILES
def test_the_process_is_not_root(root: Path, name: str) -> None:
    """The last USER is a number above zero, which Kubernetes can tell from root."""
    user, _, group = last(read(root, name), "USER").partition(":")

    assert int(user) > 0
    assert int(group) > 0


@DOCKERFILES
def test_nothing_is_fetched_by_add(root: Path, name: str) -> None:
    """COPY takes what was reviewed; ADD would take what an address answers today."""
    assert "ADD" not in {each.keyword for each in read(root, name)}


@DOCKERFILES
def test_no_secret_is_in_the_image(root: Path, name: str) -> None:
    """Neither the environment nor a build argument names a token."""
    instructions = read(root, name)
    stored = [each.arguments for each in instructions if each.keyword in {"ENV", "ARG"}]

    assert [each for each in stored if _SECRET.search(each)] == []


@DOCKERFILES
def test_every_copied_source_exists(root: Path, name: str) -> None:
    """What COPY takes from the build context is in the repository."""
    copies = [each.arguments for each in read(root, name) if each.keyword == "COPY"]
    sources = [word for copy in copies if "--from=" not in copy for word in copy.split()[:-1]]

    assert sources
    assert [source for source in sources if not (root / source).exists()] == []


@DOCKERFILES
def test_the_wheel_gets_all_that_it_packs(root: Path, name: str, pyproject: dict[str, Any]) -> None:
    """The packages and files that pyproject.toml names are copied before the wheel is built."""
    copies = " ".join(each.arguments for each in read(root, name) if each.keyword == "COPY")
    project = pyproject["project"]
    packed = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert {*packed, project["readme"], *project["license-files"]} <= set(copies.split())


@DOCKERFILES
def test_the_extra_that_is_installed_exists(
    root: Path, name: str, pyproject: dict[str, Any]
) -> None:
    """`pip` would only warn about an extra that the wheel does not have."""
    runs = " ".join(each.arguments for each in read(root, name) if each.keyword == "RUN")

    assert re.findall(r"\.whl\)\[(\w+)\]", runs) == [EXTRA[name]]
    assert EXTRA[name] in pyproject["project"]["optional-dependencies"]


@DOCKERFILES
def test_torch_is_asked_for_as_in_pyproject(
    root: Path, name: str, pyproject: dict[str, Any]
) -> None:
    """A CPU build outside the range would be replaced by the ordinary build in the next step."""
    wanted = [Requirement(text) for text in pyproject["project"]["optional-dependencies"]["models"]]
    asked = Requirement(build_arguments(read(root, name))["TORCH"])

    assert asked in wanted


@DOCKERFILES
def test_the_label_says_the_version(root: Path, name: str, pyproject: dict[str, Any]) -> None:
    """The image's label, and pyproject.toml."""
    label = last(read(root, name), "LABEL")

    assert f'org.opencontainers.image.version="{pyproject["project"]["version"]}"' in label
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in label


@DOCKERFILES
def test_the_command_is_the_real_one(root: Path, name: str, pyproject: dict[str, Any]) -> None:
    """ENTRYPOINT is in exec form, so that SIGTERM reaches it, and is a script of the wheel."""
    (entrypoint,) = json.loads(last(read(root, name), "ENTRYPOINT"))

    assert entrypoint in pyproject["project"]["scripts"]


def test_the_server_listens_where_its_image_says(root: Path, parse_command: ParseCommand) -> None:
    """CMD parses, and its ports are the settings' defaults, EXPOSE, and the health check's."""
    instructions = read(root, SERVER)
    command, *arguments = json.loads(last(instructions, "CMD"))
    options = parse_command(command, arguments)
    grpc, http = (split_address(options[face])[1] for face in ("grpc", "http"))
    defaults = Settings.model_fields

    assert options["store"] == "/store"
    assert grpc == split_address(defaults["grpc"].default)[1]
    assert http == split_address(defaults["http"].default)[1]
    assert last(instructions, "EXPOSE") == f"{grpc} {http}"
    assert f"'127.0.0.1', {http}," in last(instructions, "HEALTHCHECK")


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_the_health_check_believes_the_status(root: Path, status: int, exit_code: int) -> None:
    """The program in HEALTHCHECK, run against a server on another port."""
    words = json.loads(last(read(root, SERVER), "HEALTHCHECK").partition("CMD ")[2])
    with answering(status) as port:
        program = words[2].replace("7778", str(port))
        done = subprocess.run([sys.executable, "-c", program], check=False)

    assert words[:2] == ["python", "-c"]
    assert done.returncode == exit_code


def test_ray_is_one_the_jobs_extra_accepts(root: Path, pyproject: dict[str, Any]) -> None:
    """The pinned Ray is inside the range of the `jobs` extra."""
    extra = [Requirement(text) for text in pyproject["project"]["optional-dependencies"]["jobs"]]
    (ray,) = (requirement for requirement in extra if requirement.name == "ray")

    assert ray.specifier.contains(build_arguments(read(root, ENCODER))["RAY_VERSION"])


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Answer every GET with this status on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as face:
        thread = threading.Thread(target=face.serve_forever, args=(0.01,))
        thread.start()
        yield face.server_port
        face.shutdown()
        thread.join()
