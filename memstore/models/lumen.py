"""LUMEN: a T5 that reads passages from memories, made before the question was asked.

The bottom of the encoder is there twice: the memory encoder has read the passages, once and for
all; the question encoder reads the question. The live layers on top read both together, a passage
at a time, and the decoder attends to all passages at once.

Source: LUMEN (arXiv 2301.10448); fusion in the decoder, FiD (arXiv 2007.01282).
Does not: retrieve or decode memories (`memstore.readers` does).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5Stack

from memstore.encoders.checkpoint import open_checkpoint
from memstore.encoders.options import EncoderOptions
from memstore.encoders.sources import resolve_source
from memstore.errors import ConfigError, NotFoundError
from memstore.models.checkpoints import (
    TOKENIZER_FILE,
    checkpoint_kind,
    collect_weights,
    load_weights,
    read_checkpoint,
    write_checkpoint,
    write_folder,
)
from memstore.models.lumen_config import (
    LumenConfig,
    count_frozen_layers,
    describe_t5,
    parse_config,
)
from memstore.models.lumen_cut import join_encoder, move_cut
from memstore.models.lumen_packing import pack_rows
from memstore.models.lumen_t5 import load_t5, run_layers

KIND = "lumen"


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """What the decoder attends to.

    Attributes:
        hidden: (B, S, D), all passages of a question side by side, each with the question.
        mask: (B, S) bool.
    """

    hidden: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LumenOutput:
    """What a training step needs.

    Attributes:
        loss: (), mean cross-entropy over the labels.
        logits: (B, T, V).
    """

    loss: torch.Tensor
    logits: torch.Tensor


class Lumen(nn.Module):
    """The model. Build it with `from_pretrained` or `from_t5`.

    The memory encoder is frozen (and without dropout) until `unfreeze_memory_encoder`, as in the
    paper; with live_fraction 1 there is none to freeze: the model is FiD, and one table of
    embeddings serves passages, questions and answers. Below 1 the memory encoder has its own.

    Args:
        config: the shape; weights are drawn at random.

    Attributes:
        config: what it was built from.
        memory_encoder, question_encoder: the bottom layers, a `T5Stack` each.
        generator: the live layers (as its encoder) and the decoder.
        rotation: (D, D), applied to what both encoders give, if one is folded in; else None.
    """

    rotation: torch.Tensor | None

    def __init__(self, config: LumenConfig) -> None:
        super().__init__()
        self.config = config
        t5 = dict(config.t5)
        self.generator: Any = T5ForConditionalGeneration(
            T5Config.from_dict({**t5, "num_layers": config.num_live_layers})
        )
        # transformers counts the layers to cache in the answer by the encoder's.
        self.generator.config.num_layers = self.generator.config.num_decoder_layers
        if config.has_own_lm_head:
            self.generator.lm_head.weight = nn.Parameter(
                torch.empty_like(self.generator.shared.weight)
            )
        bottom = {**t5, "num_layers": config.num_frozen_layers, "use_cache": False}
        self.memory_encoder: Any = T5Stack(T5Config.from_dict(bottom))
        self.question_encoder: Any = T5Stack(T5Config.from_dict(bottom))
        self.question_encoder.embed_tokens = self.generator.shared
        # T5 normalizes after its last layer, wherever that is.
        if config.num_live_layers:
            self.memory_encoder.final_layer_norm = nn.Identity()
            self.question_encoder.final_layer_norm = nn.Identity()
        else:
            self.generator.encoder.final_layer_norm = nn.Identity()
        if config.num_frozen_layers:
            self.memory_encoder.requires_grad_(False)
        else:
            self.memory_encoder.embed_tokens = self.generator.shared
        rotation = torch.eye(config.dim) if config.rotation_sha256 else None
        self.register_buffer("rotation", rotation)

    @classmethod
    def from_t5(cls, config: T5Config, *, live_fraction: str | Fraction) -> Lumen:
        """Cut a T5 with random weights, for a model trained from nothing.

        Raises:
            ConfigError: if `live_fraction` cuts no whole layer.
        """
        num_frozen_layers = count_frozen_layers(live_fraction, config.num_layers)
        return _from_generator(T5ForConditionalGeneration(config), num_frozen_layers)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, live_fraction: str | Fraction | None = None
    ) -> Lumen:
        """Load a LUMEN model, or a T5, T5 v1.1 or Flan-T5 and cut it; in eval mode, on the CPU.

        Args:
            source: a folder that `save_pretrained` wrote; or a T5 checkpoint with safetensors and
                `tokenizer.json`, a folder or a Hugging Face hub id.
            live_fraction: the share of encoder layers that run per question, as in
                `EncoderOptions`. None: as the LUMEN model has it, 1/3 for a T5. Of a LUMEN model it
                may make live layers frozen (`with_live_fraction`).

        Raises:
            ConfigError: if the checkpoint is of another family, has only pickles or has not
                exactly the weights of a T5, or the fraction does not cut it.
            EncoderNotFoundError: if there is no such checkpoint.
            CorruptionError: if a file is damaged, or a LUMEN model's weights are not those of its
                config.
            FormatVersionError: if a newer memstore wrote it.
        """
        folder = resolve_source(str(source))
        if (folder / "config.json").is_file() and checkpoint_kind(folder) is not None:
            model = _load(folder)
            return model if live_fraction is None else model.with_live_fraction(live_fraction)
        checkpoint = open_checkpoint(str(folder))
        if checkpoint.family.model_type != "t5":
            raise ConfigError(
                f"checkpoint {folder}: model_type is {checkpoint.family.model_type!r}, wanted "
                "'t5'; name a T5, T5 v1.1 or Flan-T5",
                source=folder,
            )
        share = EncoderOptions().live_fraction if live_fraction is None else live_fraction
        num_frozen_layers = count_frozen_layers(share, checkpoint.num_layers)
        return _from_generator(load_t5(checkpoint), num_frozen_layers).eval()

    def save_pretrained(self, folder: str | Path, tokenizer_file: Path | None) -> None:
        """Write the model, all or nothing, in the dtypes that it has.

        Args:
            folder: where; new or empty.
            tokenizer_file: the `tokenizer.json` that belongs to it, copied; None: none.

        Raises:
            ConfigError: if the folder holds something.
            NotFoundError: if there is no such tokenizer.
            StorageFullError, StorageError: if it cannot be written.
        """
        write_checkpoint(
            Path(folder),
            kind=KIND,
            config=self.config.to_dict(),
            tensors=collect_weights(self),
            files=_tokenizer_files(tokenizer_file),
        )

    def export_encoder(self, folder: Path, tokenizer_file: Path) -> None:
        """Write the memory encoder as a T5 encoder that `memstore encode --encoder` reads.

        The memory encoder's layers come first, the live ones on top of them, so the same
        `live_fraction` cuts it into what this model reads. The top is there for retrieval vectors:
        it has the positions of the memory encoder and has not seen the question.

        Raises:
            ConfigError: if a rotation is folded in (a store turns memories itself), or the folder
                holds something. NotFoundError, StorageFullError, StorageError: as
                `save_pretrained`.
        """
        self._refuse_folded("export")
        weights = join_encoder(
            collect_weights(self.memory_encoder),
            collect_weights(self.generator.encoder),
            num_frozen_layers=self.config.num_frozen_layers,
        )
        kind = {"model_type": "t5", "architectures": ["T5EncoderModel"]}
        config = {**self.config.t5, **kind}
        files = _tokenizer_files(tokenizer_file)
        write_folder(folder, config=config, tensors=weights, files=files)

    def with_live_fraction(self, live_fraction: str | Fraction) -> Lumen:
        """Return a copy with fewer live layers: those that fall below the cut are frozen.

        Both bottom encoders get a copy of them, and read them with the position bias of their own
        bottom. From live_fraction 1 this is how a trained FiD becomes a LUMEN.

        Raises:
            ConfigError: if it cuts no whole layer or would have more live layers than now, or a
                rotation is folded in.
        """
        self._refuse_folded("cut")
        old = self.config.num_frozen_layers
        new = count_frozen_layers(live_fraction, self.config.num_layers)
        if new < old:
            raise ConfigError(
                f"live_fraction: got {live_fraction}, wanted at most {self.config.live_fraction}, "
                "that of this model: what is frozen does not become live; cut the T5 again",
                option="live_fraction",
            )
        weights = move_cut(
            collect_weights(self), old=old, new=new, num_layers=self.config.num_layers
        )
        config = replace(self.config, num_frozen_layers=new)
        if new != old:  # these are other memories than it was trained on
            config = replace(config, encoder_id="", codec_id="")
        model = _build(config)
        load_weights(model, weights, where="live_fraction")
        return model.train(self.training)

    def unfreeze_memory_encoder(self) -> None:
        """Let training change the memory encoder; memories stored before are then not its own."""
        self.memory_encoder.requires_grad_(True)
        self.memory_encoder.train(self.training)

    @property
    def is_memory_encoder_frozen(self) -> bool:
        """Whether training leaves the memory encoder as it is."""
        return not any(each.requires_grad for each in self.memory_encoder.parameters())

    def train(self, mode: bool = True) -> Lumen:
        """Set the mode of all parts but a frozen memory encoder: its memories have no dropout."""
        super().train(mode)
        if self.is_memory_encoder_frozen:
            self.memory_encoder.eval()
        return self

    def encode_memories(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the memories of passages.

        Args:
            input_ids: (N, P) int64.
            mask: (N, P), True or 1 for a token.

        Returns:
            (N, P, D), what enters the first live layer (with none, what leaves the encoder); what
            `memstore encode` stores.
        """
        return self._encode(self.memory_encoder, input_ids, mask)

    def encode_questions(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what the live layers get of questions: (B, Q, D), from (B, Q) ids and mask."""
        return self._encode(self.question_encoder, input_ids, mask)

    def fuse(
        self,
        questions: torch.Tensor,
        question_mask: torch.Tensor,
        memories: torch.Tensor,
        memory_mask: torch.Tensor,
    ) -> Fused:
        """Run the live layers over each passage with its question; lay the results side by side.

        Args:
            questions: (B, Q, D), from `encode_questions`.
            question_mask: (B, Q), True or 1 for a token.
            memories: (B, K, P, D), any float dtype.
            memory_mask: (B, K, P). A passage without tokens does not count, and a question without
                passages is read alone.

        Raises:
            ShapeError: if the shapes do not fit together, the width is not the model's, or a
                question has no token.
        """
        packed = pack_rows(questions, question_mask, memories, memory_mask)
        live = self.generator.encoder
        hidden = live.dropout(run_layers(live, packed.hidden, packed.mask))  # (R, L, D)
        return Fused(*packed.side_by_side(hidden))

    def forward(
        self,
        question_ids: torch.Tensor,
        question_mask: torch.Tensor,
        memories: torch.Tensor,
        memory_mask: torch.Tensor,
        labels: torch.Tensor,
    ) -> LumenOutput:
        """Score answers.

        Args:
            question_ids: (B, Q) int64.
            question_mask: (B, Q).
            memories: (B, K, P, D), as in `fuse`.
            memory_mask: (B, K, P), as in `fuse`.
            labels: (B, T) int64, the answers' ids with the end token; -100 is not counted.

        Raises:
            ShapeError: as `fuse`.
        """
        questions = self.encode_questions(question_ids, question_mask)
        fused = self.fuse(questions, question_mask, memories, memory_mask)
        output = self.generator(
            encoder_outputs=BaseModelOutput(last_hidden_state=fused.hidden),
            attention_mask=fused.mask,
            labels=labels.contiguous(),  # transformers takes no slice
        )
        return LumenOutput(output.loss, output.logits)

    @torch.no_grad()
    def generate(
        self,
        question_ids: torch.Tensor,
        question_mask: torch.Tensor,
        memories: torch.Tensor,
        memory_mask: torch.Tensor,
        *,
        max_new_tokens: int = 32,
        num_beams: int = 1,
    ) -> torch.Tensor:
        """Answer questions, greedily or by beam search. Call `eval` first, or dropout runs.

        Args:
            question_ids: (B, Q) int64.
            question_mask: (B, Q).
            memories: (B, K, P, D), as in `fuse`.
            memory_mask: (B, K, P), as in `fuse`.
            max_new_tokens: longest answer, end token included.
            num_beams: 1: greedy.

        Returns:
            (B, T) int64, T ≤ max_new_tokens: each up to its end token, then padding; the start
            token is left out.

        Raises:
            ShapeError: as `fuse`.
        """
        questions = self.encode_questions(question_ids, question_mask)
        fused = self.fuse(questions, question_mask, memories, memory_mask)
        return self.generate_from(fused, max_new_tokens=max_new_tokens, num_beams=num_beams)

    @torch.no_grad()
    def generate_from(
        self, fused: Fused, *, max_new_tokens: int = 32, num_beams: int = 1
    ) -> torch.Tensor:
        """Run the decoder alone, with its cache of keys and values: as `generate`, after `fuse`."""
        ids: torch.Tensor = self.generator.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=fused.hidden),
            attention_mask=fused.mask,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            do_sample=False,
        )
        return ids[:, 1:]

    def _encode(self, encoder: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = run_layers(encoder, encoder.dropout(encoder.embed_tokens(ids)), mask.bool())
        if self.rotation is not None:
            hidden = nn.functional.linear(hidden, self.rotation)
        return hidden

    def _refuse_folded(self, verb: str) -> None:
        if self.config.rotation_sha256:
            raise ConfigError(
                f"model: got one with a rotation folded in, wanted one without to {verb}; take the "
                "model that it was folded from"
            )


def _build(config: LumenConfig) -> Lumen:
    """Build a model without weights: drawing some at random takes minutes for a large one."""
    with torch.device("meta"):
        return Lumen(config)


def _from_generator(t5: Any, num_frozen_layers: int) -> Lumen:
    """Cut a T5: as it is, it is the LUMEN model without frozen layers."""
    config = LumenConfig(
        describe_t5(t5.config),
        num_frozen_layers,
        has_own_lm_head=t5.lm_head.weight is not t5.shared.weight,
    )
    weights = {f"generator.{name}": tensor for name, tensor in collect_weights(t5).items()}
    model = _build(config)
    cut = move_cut(weights, old=0, new=num_frozen_layers, num_layers=config.num_layers)
    load_weights(model, cut, where="T5")
    return model


def _load(folder: Path) -> Lumen:
    values, tensors = read_checkpoint(folder, kind=KIND)
    config = parse_config(values, where=str(folder))
    model = _build(config)
    load_weights(model, tensors, where=str(folder))
    return model.eval()


def _tokenizer_files(tokenizer_file: Path | None) -> dict[str, bytes]:
    if tokenizer_file is None:
        return {}
    try:
        return {TOKENIZER_FILE: tokenizer_file.read_bytes()}
    except (FileNotFoundError, IsADirectoryError) as err:
        raise NotFoundError(
            f"{tokenizer_file}: no tokenizer here; name a tokenizer.json", object=tokenizer_file
        ) from err
