"""Documents read side by side, a segment of each at a time.

A stream reads a document from its start to its end, then takes the next one. Where each stream is,
is all that the next segment depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from encoder_jobs.ragged import Ragged
from encoder_jobs.training_steps import NO_TARGET
from encoder_jobs.training_text import check_documents

_PLACES = ("document", "position", "num_taken")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """What B streams read in a step: T tokens each, T a multiple of the window.

    Attributes:
        tokens: (B, T) int64; zeros after a document's end.
        targets: (B, T) int64, the token after each; -100 where there is none.
        starts: (B,) bool, the stream begins a document.
    """

    tokens: np.ndarray
    targets: np.ndarray
    starts: np.ndarray

    @property
    def num_targets(self) -> int:
        """Targets that count."""
        return int((self.targets != NO_TARGET).sum())

    @property
    def lengths(self) -> np.ndarray:
        """(B,) int64: tokens of each stream; what follows is padding."""
        lengths: np.ndarray = (self.targets != NO_TARGET).sum(axis=1)
        return lengths

    def part(self, rows: range) -> Segment:
        """Return some of the streams."""
        some = slice(rows.start, rows.stop)
        return Segment(self.tokens[some], self.targets[some], self.starts[some])

    def to(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return tokens, targets and starts on a device."""
        tokens, targets, starts = (
            torch.from_numpy(each).to(device) for each in (self.tokens, self.targets, self.starts)
        )
        return tokens, targets, starts


class Streams:
    """B streams over documents.

    Args:
        documents: token ids, two or more of each.
        num_streams: B.
        window: W.
        segment_windows: windows of a document that are read at a time, at most.
        choose: returns the number of the document that is the n-th to be taken; None: no more.

    Raises:
        ConfigError: if there is no document, or one of fewer than two tokens.
    """

    def __init__(
        self,
        documents: Ragged,
        num_streams: int,
        *,
        window: int,
        segment_windows: int,
        choose: Callable[[int], int | None],
    ) -> None:
        check_documents(documents, "to read")
        self._documents, self._window, self._choose = documents, window, choose
        self._most = segment_windows * window
        self._document = np.full(num_streams, -1, np.int64)  # -1: nothing left to read
        self._position = np.zeros(num_streams, np.int64)
        self._num_taken = np.zeros(1, np.int64)

    def next(self) -> Segment | None:
        """Return what is read next; None if all has been read."""
        starts = self._take_documents()
        parts = [self._read(row) for row in range(len(starts))]
        longest = max(len(part) for part in parts) - 1
        if longest < 1:
            return None
        shape = len(parts), -(-longest // self._window) * self._window
        tokens, targets = np.zeros(shape, np.int64), np.full(shape, NO_TARGET, np.int64)
        for row, part in enumerate(parts):
            if len(part):
                tokens[row, : len(part) - 1], targets[row, : len(part) - 1] = part[:-1], part[1:]
                self._position[row] += len(part) - 1
        return Segment(tokens, targets, starts)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Return where the streams are."""
        return {name: torch.from_numpy(getattr(self, f"_{name}").copy()) for name in _PLACES}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go to where `to_tensors` was called."""
        for name in _PLACES:
            getattr(self, f"_{name}")[:] = tensors[name].numpy()

    def _take_documents(self) -> np.ndarray:
        """Give streams that are at the end of a document the next one; return which."""
        starts = np.zeros(len(self._document), bool)
        for row in range(len(starts)):
            if len(self._read(row)) < 2:
                chosen = self._choose(int(self._num_taken[0]))
                self._document[row] = -1 if chosen is None else chosen
                self._position[row] = 0
                self._num_taken += chosen is not None
                starts[row] = chosen is not None
        return starts

    def _read(self, row: int) -> np.ndarray:
        """Return the tokens of a stream's next segment and the one after; one: it is at its end."""
        if self._document[row] < 0:
            return np.empty(0, np.int32)
        position = int(self._position[row])
        return self._documents[int(self._document[row])][position : position + self._most + 1]
