"""What a server makes of its settings for sessions, and whose turn it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from memstore.errors import ConfigError, NotFoundError
from server.sessions import Sessions, open_kept
from server.settings import load_settings
from tests.tiny_sessions import save_model


def test_sessions_are_opened_as_the_settings_name_them(tmp_path: Path) -> None:
    """A folder and a model; no folder, no sessions."""
    settings = load_settings(
        store="s", sessions=str(tmp_path / "sessions"), session_model=save_model(tmp_path / "model")
    )
    store = open_kept(settings)

    assert store is not None
    assert store.create("a").version == 1
    assert (tmp_path / "sessions" / "a").is_dir()
    assert open_kept(load_settings(store="s")) is None


@pytest.mark.parametrize(
    "named",
    [{"sessions": "x"}, {"session_model": Path("m")}, {"session_codec": Path("c")}],
)
def test_a_part_of_the_settings_is_refused(named: dict[str, Any]) -> None:
    """The message names what is missing."""
    with pytest.raises(ConfigError, match="name"):
        open_kept(load_settings(store="s", **named))


def test_a_server_without_sessions_has_none() -> None:
    """Every verb says so."""
    with pytest.raises(NotFoundError, match="keeps no sessions"):
        _ = Sessions(None).store


def test_turns_are_taken_as_they_were_asked_for() -> None:
    """For one session; others, and sessions without a name yet, wait for nobody."""

    async def take() -> list[str]:
        sessions, order = Sessions(None), []
        held = sessions.turn("a")

        async def change(session_id: str, label: str) -> None:
            async with sessions.turn(session_id):
                order.append(label)

        async with held:
            waiting = [asyncio.create_task(change("a", f"a{number}")) for number in range(5)]
            await change("b", "b")
            async with sessions.turn(""):
                await change("", "new")
        await asyncio.gather(*waiting)
        return order

    assert asyncio.run(take()) == ["b", "new", "a0", "a1", "a2", "a3", "a4"]
