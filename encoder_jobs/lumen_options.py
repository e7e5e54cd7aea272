"""What a user asks of `memstore train lumen` and `memstore train lumen-vq`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from encoder_jobs.training_options import OPTIMIZERS, PRECISIONS, check_options
from memstore.encoders import EncoderOptions
from memstore.errors import ConfigError

FREEZES = ("none", "memory-encoder", "all")

_COUNTS = ("top_k", "steps", "batch_size", "micro_batch", "validate_every", "checkpoint_every")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What is trained, on what, and how.

    Attributes:
        source: a T5 checkpoint or a LUMEN model: a folder or a Hugging Face hub id.
        is_quantized: train through a product quantizer (LUMEN-VQ); else none is there, and the
            memory encoder stays frozen (LUMEN).
        freeze: of LUMEN-VQ, what is not trained beside the quantizer: `"none"`,
            `"memory-encoder"`, or `"all"`: then the codebook alone follows the memories.
        live_fraction: as in `EncoderOptions`; empty: a LUMEN model's own, 1/3 of a T5.
        window_tokens, stride_tokens, template, retriever: of the encoder that will encode the
            corpus. Training cuts passages by window and template; all four are part of the
            encoder's identity, which the reader is pinned to.
        top_k: passages of a question, at most.
        codec: folder of a codec that the quantizer starts from, stages included; empty: one is
            made of the model's own memories.
        num_subspaces, codebook_size: of a quantizer without a codec to start from; None: what
            `choose_layout` chooses.
        steps: updates of the weights.
        batch_size: questions in a step, over all workers.
        micro_batch: questions that go through the model together, on each worker.
        learning_rate: constant.
        optimizer: `"adafactor"` or `"adamw"`, neither with weight decay.
        precision: `"float32"`, `"bfloat16"` (mixed: weights stay float32) or `"auto"`: bfloat16 on
            a GPU.
        seed: decides the order of questions, dropout, and the first codebook.
        validate_every, checkpoint_every: steps.

    Raises:
        ConfigError: if a value is out of range, or two do not go together.

    Source: LUMEN (arXiv 2301.10448) for the defaults of optimizer, rate and batch.
    """

    source: str
    is_quantized: bool = False
    freeze: str = "none"
    live_fraction: str = ""
    window_tokens: int = 128
    stride_tokens: int = 0
    template: str = "{title} {text}"
    retriever: str = ""
    top_k: int = 8
    codec: str = ""
    num_subspaces: int | None = None
    codebook_size: int | None = None
    steps: int = 10_000
    batch_size: int = 64
    micro_batch: int = 8
    learning_rate: float = 1e-4
    optimizer: str = "adafactor"
    precision: str = "auto"
    seed: int = 0
    validate_every: int = 500
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        check_options(
            self,
            choices={"freeze": FREEZES, "optimizer": OPTIMIZERS, "precision": PRECISIONS},
            counts=_COUNTS,
            positives=("learning_rate",),
        )
        self._check_quantizer()
        self.encoder("any")  # which checks its own

    @property
    def trains_model(self) -> bool:
        """Any weight is trained, not the codebook alone."""
        return self.freeze != "all"

    @property
    def trains_memory_encoder(self) -> bool:
        """Memories change: the corpus has to be encoded anew."""
        return self.is_quantized and self.freeze == "none"

    def encoder(self, source: str, live_fraction: str = "") -> EncoderOptions:
        """Return the options that encode a corpus for the model, with the encoder of `source`."""
        chosen = live_fraction or self.live_fraction or EncoderOptions().live_fraction
        return EncoderOptions(
            source=source,
            live_fraction=chosen,
            window_tokens=self.window_tokens,
            stride_tokens=self.stride_tokens,
            template=self.template,
            retriever=self.retriever,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainOptions:
        """Read back what `to_dict` wrote."""
        return cls(**values)

    def _check_quantizer(self) -> None:
        chosen = {"codec": self.codec, "num_subspaces": self.num_subspaces}
        chosen |= {"codebook_size": self.codebook_size}
        given = [name for name, value in chosen.items() if value not in ("", None)]
        if not self.is_quantized and (given or self.freeze != "none"):
            raise ConfigError(
                f"training option {(given or ['freeze'])[0]}: a LUMEN without a quantizer has no "
                "such choice; train LUMEN-VQ"
            )
        if self.codec and len(given) > 1:
            raise ConfigError(
                f"training option {given[1]}: a codec to start from has its own; give one of both"
            )
