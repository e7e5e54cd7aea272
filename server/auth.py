"""Who may call: one bearer token, kept as a digest."""

from __future__ import annotations

import hashlib
import hmac

from memstore.errors import UnauthenticatedError


class Auth:
    """Checks the `authorization` header of a call.

    Args:
        token: what callers must show; `None`: everybody may call.
    """

    def __init__(self, token: str | None) -> None:
        self._digest = None if token is None else _digest(token)

    def check(self, authorization: str | None) -> None:
        """Let a call pass.

        Args:
            authorization: value of the header, `Bearer <token>`.

        Raises:
            UnauthenticatedError: if the token is missing or wrong.
        """
        if self._digest is None:
            return
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError(
                'no bearer token came with the request; send "authorization: Bearer <token>"'
            )
        if not hmac.compare_digest(_digest(token.strip()), self._digest):
            raise UnauthenticatedError("the bearer token is not the one of this server")


def _digest(token: str) -> bytes:
    # Digests have one length, so the comparison's time says nothing of the token's.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
