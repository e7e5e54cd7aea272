"""What importing the codec costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import memstore.codec

HEAVY = "numba", "llvmlite", "faiss", "torch", "safetensors"


def test_importing_the_codec_imports_nothing_heavy() -> None:
    """Nor does opening and inspecting a codec: who only looks need not wait for a compiler."""
    program = (
        "import sys, numpy, memstore.codec;"
        "memstore.codec.ProductCodec(numpy.ones((1, 2, 1), 'float32')).id;"
        "memstore.codec.choose_layout(384, 10**6);"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    """`__all__` and the lazy table say the same."""
    assert all(hasattr(memstore.codec, name) for name in memstore.codec.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As in any module."""
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = memstore.codec.nothing
