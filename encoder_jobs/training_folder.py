"""The output folder of a training run, whatever is trained: its spec, checkpoints and metrics.

```
training.json     the spec: options, and digests of what they name
checkpoints/      the last two
metrics.jsonl     one row a step
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from encoder_jobs.checkpointing import Checkpoints, replace_file
from memstore.errors import AlreadyExistsError, CorruptionError, NotFoundError, StorageError

_SPEC_FILE = "training.json"


class Spec(Protocol):
    """One training run; the same spec gives the same weights."""

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        ...

    def fields(self) -> dict[str, Any]:
        """Return all that decides the weights, in one layer."""
        ...


SpecT = TypeVar("SpecT", bound=Spec)


class TrainingFolder(Generic[SpecT]):
    """The files that every run has.

    Args:
        root: where they lie.
        kind: what is trained, such as `"lumen"`.
        parse: reads back what the spec's `to_dict` gave.

    Attributes:
        root: as given.
        checkpoints, metrics: of the run.
    """

    def __init__(self, root: Path, kind: str, parse: Callable[[Mapping[str, Any]], SpecT]) -> None:
        self.root, self._kind, self._parse = root, kind, parse
        self.checkpoints = Checkpoints(root / "checkpoints")
        self.metrics = Metrics(root / "metrics.jsonl")

    def check(self, spec: SpecT) -> None:
        """Refuse a folder that is neither new nor of this very run.

        Raises:
            AlreadyExistsError: if it holds another run, whose differing fields are named, or
                something else.
            CorruptionError: if its spec does not parse.
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

    def put_spec(self, spec: SpecT) -> None:
        """Make the folder one of this run.

        Raises:
            StorageError: if it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise StorageError(f"{self.root}: cannot be made: {err}", object=self.root) from err
        self.put_json(_SPEC_FILE, {"kind": self._kind, **spec.to_dict()})

    def spec(self) -> SpecT:
        """Return the run's spec.

        Raises:
            NotFoundError: if there is no run.
            AlreadyExistsError: if it is a run of another kind.
            CorruptionError: if it does not parse.
        """
        path = self.root / _SPEC_FILE
        try:
            values = json.loads(path.read_bytes())
            kind = values.pop("kind")
            if kind == self._kind:
                return self._parse(values)
        except FileNotFoundError as err:
            raise NotFoundError(f"{self.root}: no training run here", object=path) from err
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise CorruptionError(
                f"{path}: is not the spec of a training run; train to another folder", object=path
            ) from err
        raise AlreadyExistsError(
            f"{self.root}: holds a training run of {kind!r}, wanted one of {self._kind!r}; train "
            "to another folder",
            object=self.root,
        )

    def put_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a file of JSON values into the folder, over what is there.

        Raises:
            StorageError: if it cannot be written.
        """
        text = json.dumps(values, indent=2, sort_keys=True)
        replace_file(self.root / name, f"{text}\n".encode())


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
