"""What a user chooses about an encoder; goes as it is into job specs and manifests.

Does not: look at the checkpoint (`identity.py` checks the choice against it) or import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from memstore.errors import ConfigError
from memstore.text import TEMPLATES

DEFAULT_SOURCE = "all-MiniLM-L6-v2"
_FRACTION = re.compile(r"[0-9]{1,6}(/[1-9][0-9]{0,5}|\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """Which model makes the memories, where it is cut, and how long a passage is.

    Attributes:
        source: `"all-MiniLM-L6-v2"` (the embedded default), a checkpoint folder, or a Hugging Face
            hub id.
        live_fraction: share of the layers that a reader runs per query, as an exact fraction or
            decimal ("1/3", "0.5"); the memory is what enters them. "0": the encoder's output; "1":
            its embeddings.
        window_tokens: longest passage in tokens, special tokens included.
        stride_tokens: text tokens from the start of a window to the start of the next; 0: windows
            do not overlap.
        template: what a window is made of, `"{text}"` or `"{title} {text}"`.
        retriever: another checkpoint (as `source`) for the retrieval vectors; empty: the encoder's
            own top.
        pool_tokens: one vector of a memory for so many consecutive tokens of a passage, their mean;
            the last of a passage may be of fewer. More than 1 only for encoders that read documents
            whole.

    Raises:
        ConfigError: if a value is of the wrong type or out of range.
    """

    source: str = DEFAULT_SOURCE
    live_fraction: str = "1/3"
    window_tokens: int = 128
    stride_tokens: int = 0
    template: str = "{title} {text}"
    retriever: str = ""
    pool_tokens: int = 1

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if type(value).__name__ != option.type:  # a bool is no count, though Python says so
                raise _refused(option.name, value, f"a value of type {option.type}")
        if not self.source:
            raise _refused("source", self.source, "a name, a folder or a hub id")
        if not _FRACTION.fullmatch(self.live_fraction) or self.live_share > 1:
            wanted = 'a fraction from 0 to 1, such as "1/3" or "0.5"'
            raise _refused("live_fraction", self.live_fraction, wanted)
        if self.window_tokens < 1:
            raise _refused("window_tokens", self.window_tokens, "1 or more")
        if not 0 <= self.stride_tokens <= self.window_tokens:
            raise _refused(
                "stride_tokens", self.stride_tokens, f"0 to window_tokens ({self.window_tokens})"
            )
        if self.pool_tokens < 1:
            raise _refused("pool_tokens", self.pool_tokens, "1 or more")
        if self.template not in TEMPLATES:
            raise _refused("template", self.template, " or ".join(map(repr, TEMPLATES)))

    @property
    def live_share(self) -> Fraction:
        """`live_fraction` as an exact number."""
        return Fraction(self.live_fraction)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values; `pool_tokens` unless it is 1.

        So that an older version, which does not know the option, reads what does not use it.
        """
        values = asdict(self)
        if self.pool_tokens == 1:
            del values["pool_tokens"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderOptions:
        """Read back what `to_dict` wrote.

        Raises:
            ConfigError: if an option is unknown, of the wrong type or out of range.
        """
        known = [option.name for option in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(
                f"encoder options: got unknown {', '.join(unknown)}; wanted only "
                f"{', '.join(known)}",
                options=", ".join(unknown),
            )
        return cls(**values)


def _refused(name: str, got: object, wanted: str) -> ConfigError:
    return ConfigError(f"encoder option {name}: got {got!r}, wanted {wanted}", option=name)
