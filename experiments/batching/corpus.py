"""The texts of the experiment, and a T5 encoder with random weights to read them."""

from __future__ import annotations

import ast
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

from memstore.encoders.options import DEFAULT_SOURCE
from memstore.encoders.sources import resolve_source
from memstore.types import Document


def read_documents(folder: Path | None) -> Iterator[Document]:
    """Yield the `.txt` files of a folder; without one, the standard library's docstrings."""
    if folder is not None:
        for path in sorted(folder.glob("*.txt")):
            yield Document(path.name, path.read_text(encoding="utf-8", errors="replace"))
        return
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text:
                    name = getattr(node, "name", "")
                    yield Document(f"{path.stem}.{name}:{getattr(node, 'lineno', 0)}", text)


def save_random_t5(folder: Path) -> None:
    """Save a T5-v1.1 encoder of the small shape, with the default encoder's tokenizer."""
    tokenizer = resolve_source(DEFAULT_SOURCE) / "tokenizer.json"
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=30522, d_model=512, num_layers=6, feed_forward_proj="gated-gelu"
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    shutil.copy(tokenizer, folder / "tokenizer.json")
