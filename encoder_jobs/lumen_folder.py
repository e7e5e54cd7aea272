"""The output folder of a training run: what is asked, what it is done with, what came of it.

```
training.json     the spec: options, and digests of what they name
examples/         the questions as token ids, and their passages: looked up once
checkpoints/      the last two
metrics.jsonl     one row a step
encoder/ codec/   what `memstore encode --encoder … --codec …` takes
reader/           the model, pinned to both; written last: a run that has it is finished
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoder_jobs.checkpointing import Checkpoints, replace_file
from encoder_jobs.lumen_data import Examples
from encoder_jobs.lumen_options import TrainOptions
from memstore.errors import AlreadyExistsError, CorruptionError, NotFoundError, StorageError
from memstore.models.checkpoints import CONFIG_FILE, read_checkpoint, write_checkpoint
from memstore.models.lumen_config import LumenConfig, parse_config

_SPEC_FILE = "training.json"
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


class RunFolder:
    """The files of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints = Checkpoints(root / "checkpoints")
        self.metrics = Metrics(root / "metrics.jsonl")
        self.encoder, self.codec, self.reader = root / "encoder", root / "codec", root / "reader"

    @property
    def is_finished(self) -> bool:
        """The reader is there, so everything is."""
        return self.reader.exists()

    def check(self, spec: TrainSpec) -> None:
        """Refuse a folder that is neither new nor of this very run.

        Raises:
            AlreadyExistsError: if it holds another run, whose differing fields are named, or
                something else.
        """
        if (self.root / _SPEC_FILE).exists():
            there, here = self.spec().fields(), spec.fields()
            differing = [name for name in here if here[name] != there[name]]
            if differing:
                raise AlreadyExistsError(
                    f"{self.root}: holds a training run of other options: "
                    + "; ".join(f"{n} {there[n]!r} there, {here[n]!r} asked" for n in differing)
                    + ". Give what it was begun with to go on, or train to another folder",
                    object=self.root,
                    fields=", ".join(differing),
                )
        elif self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise AlreadyExistsError(
                f"{self.root}: holds something that is no training run; train to another folder",
                object=self.root,
            )

    def put_spec(self, spec: TrainSpec) -> None:
        """Make the folder one of this run.

        Raises:
            StorageError: if it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise StorageError(f"{self.root}: cannot be made: {err}", object=self.root) from err
        text = json.dumps(spec.to_dict(), indent=2, sort_keys=True)
        replace_file(self.root / _SPEC_FILE, f"{text}\n".encode())

    def spec(self) -> TrainSpec:
        """Return the run's spec.

        Raises:
            NotFoundError: if there is no run. CorruptionError: if it does not parse.
        """
        path = self.root / _SPEC_FILE
        try:
            return TrainSpec.from_dict(json.loads(path.read_bytes()))
        except FileNotFoundError as err:
            raise NotFoundError(f"{self.root}: no training run here", object=path) from err
        except (ValueError, TypeError, KeyError) as err:
            raise CorruptionError(
                f"{path}: is not the spec of a training run; train to another folder", object=path
            ) from err

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


class Metrics:
    """Rows of figures, one a step, in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows; a last one that was cut off is left out."""
        lines = self._path.read_text().split("\n") if self._path.exists() else []
        return [json.loads(line) for line in lines[:-1]]

    def last(self) -> dict[str, Any] | None:
        """Return the last row, if there is one."""
        rows = self.rows()
        return rows[-1] if rows else None

    def keep(self, last_step: int) -> None:
        """Drop what a run that was cut off wrote after its last checkpoint."""
        self._replace([row for row in self.rows() if row["step"] <= last_step])

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row.

        Raises:
            StorageError: if it cannot be written.
        """
        try:
            with self._path.open("a") as file:
                file.write(f"{json.dumps(row)}\n")
        except OSError as err:
            raise StorageError(
                f"{self._path}: cannot be written: {err}", object=self._path
            ) from err

    def _replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        replace_file(self._path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
