"""Sealed JSON: nothing but the bytes that were sealed is opened."""

from __future__ import annotations

import json

import pytest

from memstore.errors import CorruptionError
from memstore.storage import seal, unseal

BODY = {"b": [1, 2.5, None], "a": {"é": "x"}, "empty": {}}


def test_a_sealed_object_is_opened() -> None:
    """The body comes back as it was."""
    assert unseal(seal(BODY), "name") == BODY


def test_a_sealed_file_is_json() -> None:
    """Any tool can read it: digest first, then the body."""
    value = json.loads(seal(BODY))

    assert list(value) == ["sha256", "body"]
    assert value["body"] == BODY


def test_the_order_of_keys_does_not_matter() -> None:
    """Equal objects are sealed as equal bytes."""
    assert seal(BODY) == seal(dict(reversed(BODY.items())))


def test_every_flipped_bit_is_found() -> None:
    """Wherever it is: in the body, the digest or the frame."""
    sealed = seal(BODY)
    for position in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CorruptionError, match="name: its bytes do not match"):
            unseal(bytes(damaged), "name")


def test_every_truncation_is_found() -> None:
    """No prefix passes, nor does a file with more behind it."""
    sealed = seal(BODY)
    for damaged in [*(sealed[:length] for length in range(len(sealed))), sealed + b"\n"]:
        with pytest.raises(CorruptionError):
            unseal(damaged, "name")


def test_the_error_names_the_object() -> None:
    """For the operator, and for a machine."""
    with pytest.raises(CorruptionError) as caught:
        unseal(b"{}", "default/versions/1.json")

    assert caught.value.details == {"object": "default/versions/1.json"}
