"""The KubeRay RayJob, checked without a cluster."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from encoder_jobs.options import EncodeOptions
from tests.deploy.conftest import ParseCommand


@pytest.fixture(scope="module")
def spec(load_yaml: Callable[..., Any]) -> dict[str, Any]:
    """The RayJob's spec."""
    value: dict[str, Any] = load_yaml("kuberay/rayjob.yaml", "rayjob.schema.json")["spec"]
    return value


@pytest.fixture(scope="module")
def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod specs of the head and of every worker group, the head's first."""
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def encode_options(spec: dict[str, Any], parse_command: ParseCommand) -> dict[str, Any]:
    """Return the options of the entrypoint, an encode command."""
    program, command, *arguments = shlex.split(spec["entrypoint"])
    assert (program, command) == ("memstore", "encode")
    return parse_command(command, arguments)


def test_the_entrypoint_is_the_encode_command_on_this_cluster(
    spec: dict[str, Any], parse_command: ParseCommand
) -> None:
    """Corpus, store and `--ray auto`; everything else is the command's own default."""
    options = encode_options(spec, parse_command)
    bare = parse_command("encode", [options["corpus"], "--store", options["store"]])

    assert options["ray"] == "auto"
    assert {**options, "ray": None} == {**bare, "ray": None}
    assert options["mode"] == EncodeOptions().mode


def test_every_pod_sees_the_paths_of_the_command(
    spec: dict[str, Any], pods: list[dict[str, Any]], parse_command: ParseCommand
) -> None:
    """The head hands paths to the workers: one claim, mounted at one path, above both."""
    options = encode_options(spec, parse_command)
    mounts = {
        (mount["mountPath"], volume["persistentVolumeClaim"]["claimName"])
        for pod in pods
        for mount in pod["containers"][0]["volumeMounts"]
        for volume in pod["volumes"]
        if volume["name"] == mount["name"]
    }

    assert all(pod["containers"][0]["volumeMounts"] for pod in pods)
    ((path, claim),) = mounts
    assert claim == "memstore"
    for option in ("corpus", "store"):
        assert PurePosixPath(options[option]).is_relative_to(path)


def test_the_job_ends_retries_and_cleans_up(spec: dict[str, Any]) -> None:
    """A submitter job, bounded retries, a deadline, and no cluster left behind."""
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0


def test_ray_asks_for_a_token(spec: dict[str, Any]) -> None:
    """An open Ray port runs anybody's code."""
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_all_pods_run_one_image_of_this_version(
    spec: dict[str, Any], pods: list[dict[str, Any]], root: Path, pyproject: dict[str, Any]
) -> None:
    """The encoder's image everywhere, with the Ray that the spec tells the operator."""
    images = {pod["containers"][0]["image"] for pod in pods}
    dockerfile = (root / "deploy/docker/encoder.Dockerfile").read_text()
    (ray,) = re.findall(r"^ARG RAY_VERSION=(\S+)$", dockerfile, re.MULTILINE)

    assert images == {f"memstore-encoder:{pyproject['project']['version']}"}
    assert spec["rayClusterSpec"]["rayVersion"] == ray


def test_no_pod_is_root_or_may_become_it(pods: list[dict[str, Any]], root: Path) -> None:
    """The user is the image's; no privilege can be gained; no API token is mounted."""
    dockerfile = (root / "deploy/docker/encoder.Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)

    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == int(user)
        context = pod["containers"][0]["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_gpus_are_on_the_workers_alone(spec: dict[str, Any], pods: list[dict[str, Any]]) -> None:
    """The head encodes nothing; each worker asks for one GPU, and for more than one CPU, so that
    tokenizing tasks find room beside the encoder.
    """
    head, *workers = (pod["containers"][0]["resources"]["limits"] for pod in pods)

    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head
    assert [worker["nvidia.com/gpu"] for worker in workers] == ["1"]
    assert all(int(worker["cpu"]) > 1 for worker in workers)
