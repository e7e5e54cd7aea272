"""Running English text from the evaluation data: film reviews, Brown, speeches, web text."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import DataMissingError
from memstore.types import Document

_SOURCES = ("movie_reviews", "brown", "state_union", "webtext", "inaugural")
_NO_TEXTS = ("/", "README", "CONTENTS", "cats.txt")
_PART_OF_SPEECH = re.compile(r"/[^\s/]+(?=\s|$)")


def read_text(folder: Path) -> Iterator[Document]:
    """Yield the documents of the archives in a folder; Brown's part-of-speech tags are removed.

    Raises:
        DataMissingError: if an archive is not there.
    """
    for source in _SOURCES:
        path = folder / f"{source}.zip"
        if not path.is_file():
            raise DataMissingError(f"{path} is missing; --data names the folder that holds text/")
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                if member.endswith(_NO_TEXTS):
                    continue
                text = archive.read(member).decode("latin-1")
                if source == "brown":
                    text = _PART_OF_SPEECH.sub("", text)
                yield Document(document_id=member, text=" ".join(text.split()))
