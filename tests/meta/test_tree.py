"""What holds for every file of the project."""

from __future__ import annotations

import re
from pathlib import Path

MAX_LINES = 500
MAX_BYTES = 1_000_000  # rows of experiments hold every item, so that arms can be compared by it
# Homes and mounts of one machine or another: a path that works here and nowhere else.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|Users)/|(?<![\w.])/home/(?!memstore)\w")


def text_of(file: Path) -> str | None:
    """Return a file's text; None if it is binary."""
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError:
        return None


def test_a_module_can_be_read_in_one_sitting(project_files: list[Path], root: Path) -> None:
    """No module is longer than 500 lines."""
    lengths = {
        str(file.relative_to(root)): len(file.read_text().splitlines())
        for file in project_files
        if file.suffix == ".py"
    }

    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_file_is_large(project_files: list[Path], root: Path) -> None:
    """Data, models and indexes stay out of the repository."""
    sizes = {str(file.relative_to(root)): file.stat().st_size for file in project_files}

    assert {name: size for name, size in sizes.items() if size > MAX_BYTES} == {}


def test_text_files_end_with_one_newline(project_files: list[Path], root: Path) -> None:
    """So that appending a line changes one line; golden files are bytes, whatever they hold."""
    texts = {
        str(file.relative_to(root)): text_of(file)
        for file in project_files
        if "golden" not in file.parts
    }
    bad = [
        name for name, text in texts.items() if text and (text[-1] != "\n" or text[-2:] == "\n\n")
    ]

    assert bad == []


def test_no_file_names_a_path_of_one_machine(project_files: list[Path], root: Path) -> None:
    """Paths come from arguments, or from the file's own place."""
    found = [
        f"{file.relative_to(root)}:{number}: {line.strip()[:100]}"
        for file in project_files
        for number, line in enumerate((text_of(file) or "").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]

    assert found == []
