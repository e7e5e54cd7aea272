"""The output folder of a training run: what is asked, what it is done with, what came of it.

```
training.json     the spec: options, and digests of what they name
examples/         the questions as token ids, and their passages: looked up once
checkpoints/      the last two
metrics.jsonl     one row a step
encoder/ codec/   what `memstore encode --encoder … --codec …` takes, where training made new ones
reader/           the model, pinned to both; written last: a run that has it is finished
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoder_jobs.lumen_data import Examples
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.training_folder import TrainingFolder
from memstore.models.checkpoints import CONFIG_FILE, read_checkpoint, write_checkpoint
from memstore.models.lumen_config import LumenConfig, parse_config

_EXAMPLES_KIND = "examples"
_PATHS = ("source", "codec")  # known by their digests: a folder may move


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """One training run; the same spec gives the same weights.

    Attributes:
        options: what the user asked for.
        source_sha256: digest of the checkpoint that training starts from.
        codec_id: of the codec that the quantizer starts from; empty: none.
        questions_sha256, validation_sha256: digests of the files; empty: no validation.
        store, collection: where passages were looked up; empty: nowhere.
        num_workers: processes that share a batch.
    """

    options: TrainOptions
    source_sha256: str
    codec_id: str
    questions_sha256: str
    validation_sha256: str
    store: str
    collection: str
    num_workers: int

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSpec:
        """Read back what `to_dict` wrote."""
        return cls(**{**values, "options": TrainOptions.from_dict(values["options"])})

    def fields(self) -> dict[str, Any]:
        """Return all that decides the weights, in one layer."""
        fields = self.to_dict()
        fields |= fields.pop("options")
        return {name: value for name, value in fields.items() if name not in _PATHS}


class RunFolder(TrainingFolder[TrainSpec]):
    """The files of one run."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "lumen", TrainSpec.from_dict)
        self.encoder, self.codec, self.reader = root / "encoder", root / "codec", root / "reader"

    @property
    def is_finished(self) -> bool:
        """The reader is there, so everything is."""
        return self.reader.exists()

    def reader_config(self) -> LumenConfig:
        """Return the config of the finished reader, with its pins; its weights stay unread.

        Raises:
            CorruptionError: if it does not parse.
        """
        values = json.loads((self.reader / CONFIG_FILE).read_bytes())
        named = {name: values.get(name) for name in LumenConfig.__dataclass_fields__}
        return parse_config(named, where=str(self.reader))

    @property
    def has_examples(self) -> bool:
        """The questions have been prepared."""
        return self._examples.exists()

    def put_examples(self, train: Examples, validation: Examples | None = None) -> None:
        """Keep the questions for every later run of this folder, and for every worker.

        Raises:
            StorageFullError, StorageError: if they cannot be written.
        """
        tensors, texts = train.to_tensors("train"), {"train": train.texts}
        if validation is not None:
            tensors |= validation.to_tensors("validation")
            texts["validation"] = validation.texts
        write_checkpoint(self._examples, kind=_EXAMPLES_KIND, config=texts, tensors=tensors)

    def examples(self) -> tuple[Examples, Examples | None]:
        """Return the questions to train on and to validate on, if there are such.

        Raises:
            CorruptionError: if a file is damaged.
        """
        texts, tensors = read_checkpoint(self._examples, kind=_EXAMPLES_KIND)
        train = Examples.from_tensors(tensors, "train", texts["train"])
        if "validation" not in texts:
            return train, None
        return train, Examples.from_tensors(tensors, "validation", texts["validation"])

    @property
    def _examples(self) -> Path:
        return self.root / "examples"
