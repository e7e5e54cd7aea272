"""The bearer token."""

from __future__ import annotations

import pytest

from memstore.errors import UnauthenticatedError
from server.auth import Auth


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret", "BEARER  secret"])
def test_the_token_is_let_in(header: str):
    """The scheme's case does not matter."""
    Auth("secret").check(header)


@pytest.mark.parametrize(
    "header", [None, "", "secret", "Bearer", "Bearer ", "Basic secret", "Bearer Secret", "Bearer ü"]
)
def test_anything_else_is_not(header: str | None):
    """The error never shows what came."""
    with pytest.raises(UnauthenticatedError) as caught:
        Auth("secret").check(header)
    assert "secret" not in str(caught.value)


def test_without_a_token_everybody_may_call():
    """For a server on loopback."""
    Auth(None).check(None)


def test_the_token_itself_is_not_kept():
    """A dump of the process's objects shows a digest."""
    assert "secret" not in repr(vars(Auth("secret")))
