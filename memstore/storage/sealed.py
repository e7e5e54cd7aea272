"""Sealed JSON: a small JSON object whose bytes are checked before they are parsed.

The file is valid JSON, `{"sha256":"<64 hex>","body":<canonical JSON>}` and a newline; the digest is
that of the body's bytes, which stand at a fixed place.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from memstore.errors import CorruptionError
from memstore.types import canonical_json

_OPEN, _MIDDLE, _CLOSE = b'{"sha256":"', b'","body":', b"}\n"
_BODY_AT = len(_OPEN) + 64 + len(_MIDDLE)


def seal(body: dict[str, Any]) -> bytes:
    """Return the file's bytes for a JSON object."""
    text = canonical_json(body)
    return _OPEN + hashlib.sha256(text).hexdigest().encode() + _MIDDLE + text + _CLOSE


def unseal(data: bytes, name: str) -> dict[str, Any]:
    """Return the object that was sealed.

    Raises:
        CorruptionError: if the bytes are not exactly those that `seal` wrote; `name` says of which
            object.
    """
    text = data[_BODY_AT : -len(_CLOSE)]
    expected = _OPEN + hashlib.sha256(text).hexdigest().encode() + _MIDDLE + text + _CLOSE
    if data != expected:
        raise CorruptionError(
            f"{name}: its bytes do not match their sha256; restore it from a copy", object=name
        )
    body: dict[str, Any] = json.loads(text)
    return body
