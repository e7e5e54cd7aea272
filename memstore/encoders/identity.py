"""The options checked against the checkpoint: where the stack is cut, and the encoder's identity.

Does not: import torch. A client or a splitter that only needs the identity stays light.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from memstore.encoders.checkpoint import Checkpoint, open_checkpoint
from memstore.encoders.options import EncoderOptions
from memstore.errors import ConfigError
from memstore.types import EncoderIdentity


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """What `load_encoder` builds.

    Attributes:
        checkpoint: makes the memories.
        num_frozen_layers: the memory is the hidden state after this many layers.
        retriever: makes the retrieval vectors; the same object as `checkpoint` unless the options
            name another.
    """

    options: EncoderOptions
    checkpoint: Checkpoint
    num_frozen_layers: int
    retriever: Checkpoint

    @property
    def has_own_retriever(self) -> bool:
        """The retrieval vectors come from another model than the memories."""
        return self.retriever is not self.checkpoint

    @property
    def identity(self) -> EncoderIdentity:
        """The identity; reads all weight files once for their digests."""
        options, checkpoint, retriever = self.options, self.checkpoint, self.retriever
        return EncoderIdentity(
            family=checkpoint.family.model_type,
            weights_sha256=checkpoint.weights_sha256,
            config_sha256=checkpoint.config_sha256,
            tokenizer_sha256=checkpoint.tokenizer_sha256,
            num_layers=checkpoint.num_layers,
            num_frozen_layers=self.num_frozen_layers,
            memory_dim=checkpoint.width,
            embedding_dim=retriever.width,
            window_tokens=options.window_tokens,
            stride_tokens=options.stride_tokens,
            template=options.template,
            special_tokens="kept",
            pooling=retriever.pooling,
            retriever_sha256=retriever.sha256 if self.has_own_retriever else "",
            pool_tokens=options.pool_tokens,
        )


def plan_encoder(options: EncoderOptions) -> EncoderPlan:
    """Find the checkpoints and check the options against them.

    Raises:
        ConfigError: if `live_fraction` cuts no whole layer, a window is longer than the model's
            positions, or an option is not for an encoder that reads as this one does, passages or
            documents; and as `open_checkpoint`.
        EncoderNotFoundError, CorruptionError, MissingDependencyError: as `open_checkpoint`.
    """
    checkpoint = open_checkpoint(options.source)
    max_tokens = checkpoint.max_tokens
    if max_tokens is not None and options.window_tokens > max_tokens:
        raise ConfigError(
            f"encoder option window_tokens: got {options.window_tokens}, wanted at most "
            f"{max_tokens}, the positions of {options.source!r}",
            option="window_tokens",
        )
    _check_reading(options, checkpoint)
    num_frozen_layers = count_frozen_layers(options.live_share, checkpoint.num_layers)
    retriever = checkpoint
    if options.retriever not in ("", options.source):
        retriever = open_checkpoint(options.retriever)
        if retriever.family.is_document_wide:
            raise ConfigError(
                f"encoder option retriever: {options.retriever!r} reads documents whole, wanted a "
                "model that reads the text of one passage; name another, or make it the encoder",
                option="retriever",
            )
    return EncoderPlan(options, checkpoint, num_frozen_layers, retriever)


def _check_reading(options: EncoderOptions, checkpoint: Checkpoint) -> None:
    """Refuse what has no meaning for passages that are spans of one text, or for those that are
    not.
    """
    if checkpoint.family.is_document_wide:
        if options.stride_tokens:
            raise ConfigError(
                f"encoder option stride_tokens: got {options.stride_tokens}, wanted 0: "
                f"{options.source!r} reads documents whole, so a passage has seen what is around "
                "it, and passages that overlap would store tokens twice",
                option="stride_tokens",
            )
    elif options.pool_tokens > 1:
        raise ConfigError(
            f"encoder option pool_tokens: got {options.pool_tokens}, wanted 1: {options.source!r} "
            "reads passages one by one, and a reader wants one vector a token of it",
            option="pool_tokens",
        )


def read_identity(options: EncoderOptions) -> EncoderIdentity:
    """Return what `load_encoder(options).identity` would be, without loading the model.

    Raises:
        ConfigError, EncoderNotFoundError, CorruptionError, MissingDependencyError: as
            `plan_encoder`.
    """
    return plan_encoder(options).identity


def count_frozen_layers(live_share: Fraction, num_layers: int) -> int:
    """Return how many layers stay below the live ones.

    Raises:
        ConfigError: if the share is no whole number of layers.
    """
    num_live = live_share * num_layers
    if num_live.denominator != 1:
        below = Fraction(int(num_live), num_layers)
        above = Fraction(int(num_live) + 1, num_layers)
        raise ConfigError(
            f"encoder option live_fraction: got {live_share}, which is {float(num_live):.2f} of "
            f"{num_layers} layers; wanted whole layers: the nearest are {below} and {above}",
            option="live_fraction",
        )
    return num_layers - int(num_live)
