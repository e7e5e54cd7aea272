"""The output folder of a run that trains a model on the documents of a corpus.

```
training.json     the spec: model, options, and digests of text, tokenizer and what it starts from
tokens/           documents as token ids, and tokenizer.json: read once
checkpoints/      the last two: weights, optimizer, and what else the next step depends on
metrics.jsonl     one row a step
validation.json   figures of the last step on held-out documents
model/            what the model's `from_pretrained` reads; written last: then the run is finished
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from encoder_jobs.ragged import Ragged
from encoder_jobs.training_folder import TrainingFolder
from encoder_jobs.training_schedule import ScheduledOptions
from memstore.errors import CorruptionError
from memstore.models.checkpoints import TOKENIZER_FILE, read_checkpoint, write_checkpoint

_TOKENS_KIND = "tokens"
_VALIDATION_FILE = "validation.json"
_PATHS = ("source", "codec")  # known by their digests: a folder may move


class ModelConfig(Protocol):
    """What a model is built from."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        ...


ConfigT = TypeVar("ConfigT", bound=ModelConfig)
OptionsT = TypeVar("OptionsT", bound=ScheduledOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec(Generic[ConfigT, OptionsT]):
    """One training run; the same spec gives the same weights.

    Attributes:
        model: the config.
        options: how it is trained.
        tokenizer_sha256: digest of the tokenizer.json.
        corpus_sha256, validation_sha256: digests of the files and how they are read; the latter is
            empty if there is no such corpus.
        held_out: share of the corpus that is held out, if there is none.
        num_workers: processes that share a batch.
        source_sha256: digest of the model that training starts from; empty: random weights.
        codec_id: of the codec that it starts with; empty: none.
    """

    model: ConfigT
    options: OptionsT
    tokenizer_sha256: str
    corpus_sha256: str
    validation_sha256: str
    held_out: float
    num_workers: int
    source_sha256: str = ""
    codec_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        return {**asdict(self), "model": self.model.to_dict()}

    def fields(self) -> dict[str, Any]:
        """Return all that decides the weights, in one layer."""
        fields = self.to_dict()
        fields |= fields.pop("model") | fields.pop("options")
        return {name: value for name, value in fields.items() if name not in _PATHS}


class TextFolder(TrainingFolder[TextSpec[ConfigT, OptionsT]]):
    """The files of one run.

    Args:
        root: where they lie.
        kind: of model, such as `"melodi"`.
        parse_config: reads a config's `to_dict` back, told `where=` it was.
        parse_options: the same of options.
    """

    def __init__(
        self,
        root: Path,
        kind: str,
        parse_config: Callable[..., ConfigT],
        parse_options: Callable[[Mapping[str, Any]], OptionsT],
    ) -> None:
        super().__init__(root, kind, self._parse_spec)
        self._parse_config, self._parse_options = parse_config, parse_options
        self.model = root / "model"
        self._tokens = root / "tokens"

    @property
    def is_finished(self) -> bool:
        """The model is there, so everything is."""
        return self.model.exists()

    @property
    def has_documents(self) -> bool:
        """The text has been read."""
        return self._tokens.exists()

    def put_documents(self, train: Ragged, validation: Ragged | None, tokenizer: bytes) -> None:
        """Keep the text for every later run of this folder, and for every worker.

        Args:
            train: token ids of documents.
            validation: of held-out ones.
            tokenizer: content of the tokenizer.json.

        Raises:
            StorageFullError, StorageError: if it cannot be written.
        """
        tensors = train.to_tensors("train")
        if validation is not None:
            tensors |= validation.to_tensors("validation")
        files = {TOKENIZER_FILE: tokenizer}
        write_checkpoint(self._tokens, kind=_TOKENS_KIND, config={}, tensors=tensors, files=files)

    def documents(self) -> tuple[Ragged, Ragged | None]:
        """Return the documents to train on and those held out, if there are such.

        Raises:
            CorruptionError: if a file is damaged.
        """
        _, tensors = read_checkpoint(self._tokens, kind=_TOKENS_KIND)
        train = Ragged.from_tensors(tensors, "train")
        if "validation.values" not in tensors:
            return train, None
        return train, Ragged.from_tensors(tensors, "validation")

    def tokenizer(self) -> bytes:
        """Return the content of the tokenizer.json.

        Raises:
            CorruptionError: if it is gone.
        """
        path = self._tokens / TOKENIZER_FILE
        try:
            return path.read_bytes()
        except FileNotFoundError as err:
            raise CorruptionError(f"{path}: is gone; train to another folder", object=path) from err

    def put_validation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Write the figures of a validation.

        Raises:
            StorageError: if it cannot be written.
        """
        self.put_json(_VALIDATION_FILE, {"step": step, **figures})

    def _parse_spec(self, values: Mapping[str, Any]) -> TextSpec[ConfigT, OptionsT]:
        parsed: dict[str, Any] = {
            "model": self._parse_config(values["model"], where="training.json"),
            "options": self._parse_options(values["options"]),
        }
        return TextSpec(**{**values, **parsed})
