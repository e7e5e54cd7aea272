"""The output folder of a MELODI run."""

from __future__ import annotations

from pathlib import Path

from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.training_text_folder import TextFolder
from memstore.models.melodi_config import MelodiConfig, parse_config


class MelodiFolder(TextFolder[MelodiConfig, MelodiOptions]):
    """The files of one run; the validation is perplexity by position in the document. The codec
    that the queue learnt with is in `codec/`.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, "melodi", parse_config, MelodiOptions.from_dict)
        self.codec = root / "codec"
