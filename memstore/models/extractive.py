"""LUMEN with a span head: an encoder such as BERT that finds answers in memories.

The bottom of the encoder is there twice, for passages (frozen, run once and for all) and for
questions; the live layers read a question with each of its passages; the head scores every token of
a memory as the start and as the end of the answer. What enters the live layers also says how near a
token is to the question's most similar one. Scores are normalized over all passages of a
question and "no answer" together, so spans of different passages compare.

Source: LUMEN (arXiv 2301.10448); the span head of BERT (arXiv 1810.04805); normalization over
passages, Clark & Gardner (arXiv 1710.10723); tokens aligned with the question's, DrQA (arXiv
1704.00051).
Differs: LUMEN has a decoder, which attends to all passages; here they meet only in the softmax. It
has no alignment either: live layers learn one from much data, and with a few thousand questions
they do not (docs/results/minilm_reader.md).
Does not: retrieve or decode memories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import AutoConfig
from transformers.masking_utils import create_bidirectional_mask

from memstore.encoders.checkpoint import open_checkpoint
from memstore.encoders.families import FAMILIES
from memstore.encoders.identity import plan_encoder
from memstore.encoders.options import EncoderOptions
from memstore.encoders.sources import resolve_source
from memstore.encoders.stack import load_model
from memstore.errors import ConfigError, CorruptionError, NotFoundError
from memstore.models.checkpoints import (
    TOKENIZER_FILE,
    checkpoint_kind,
    collect_weights,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from memstore.models.extractive_spans import ExtractiveOutput, mean_by_question, span_loss, unpack
from memstore.models.lumen_packing import PackedRows, pack_rows

KIND = "extractive"
# Their parts are named as BERT's, and a layer takes a hidden state and a mask and nothing else.
_READABLE = ("bert", "roberta", "xlm-roberta")
# Of the weights of `match` at first: about the scale of a normalized hidden state, from unrelated
# tokens (whose cosine is about a half, as far as we saw) to the same ones.
_MATCH_SCALE = 1.5
_UNRELATED = 0.5


@dataclass(frozen=True, slots=True)
class ExtractiveConfig:
    """An encoder cut in two.

    Attributes:
        backbone: `config.json` of the encoder that was cut.
        num_frozen_layers: layers of the memory and the question encoder; the rest, one or more,
            are live.
    """

    backbone: Mapping[str, Any]
    num_frozen_layers: int


class ExtractiveLumen(nn.Module):
    """The model. Build it with `from_pretrained`.

    The memory encoder is frozen (and without dropout) until `unfreeze_memory_encoder`.

    Args:
        config: the shape; weights are drawn at random.

    Attributes:
        config: what it was built from.
        memory_encoder, question_encoder: the bottom layers.
        live: the layers above.
        match: from a memory token's cosine with the question's most similar token to what is added
            to it.
        span_head: (start, end) of a token. null_head: of a passage with its question.

    Raises:
        ConfigError: if the encoder is of another family, or no layer is live.
    """

    def __init__(self, config: ExtractiveConfig) -> None:
        super().__init__()
        self.config = config
        model_type = config.backbone.get("model_type")
        if model_type not in _READABLE:
            raise ConfigError(
                f"extractive reader: model_type is {model_type!r}, wanted one of "
                f"{', '.join(_READABLE)}"
            )
        num_layers = config.backbone.get("num_hidden_layers", 0)
        if not 0 <= config.num_frozen_layers < num_layers:
            raise ConfigError(
                f"extractive reader: got {config.num_frozen_layers} frozen layers of {num_layers}, "
                "wanted fewer: without a live layer no question reaches a passage"
            )
        self.memory_encoder = _Bottom(config)
        self.question_encoder = _Bottom(config)
        top = _build(config, num_layers - config.num_frozen_layers)
        self.live: Any = top.encoder.layer
        self._top_config = top.config
        self.match = nn.Linear(1, top.config.hidden_size)
        nn.init.normal_(self.match.weight, std=_MATCH_SCALE)
        with torch.no_grad():
            self.match.bias.copy_(-_UNRELATED * self.match.weight.squeeze(1))
        self.span_head = nn.Linear(top.config.hidden_size, 2)
        self.null_head = nn.Linear(top.config.hidden_size, 1)
        self.memory_encoder.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, live_fraction: str | Fraction | None = None
    ) -> ExtractiveLumen:
        """Load a model that was saved, or cut an encoder under a new head; in eval mode, on the
        CPU. The new head's weights come from torch's random numbers.

        Args:
            source: a folder that `save_pretrained` wrote, or an encoder as in `EncoderOptions`.
            live_fraction: share of the layers that run per question, as in `EncoderOptions`; None:
                1/3. A saved model has its own, and takes none.

        Raises:
            ConfigError: if the encoder is of another family or has only pickles, or the fraction
                does not cut it or leaves no live layer.
            EncoderNotFoundError: if there is no such encoder.
            CorruptionError: if a file is damaged, or the weights are not those of the config.
            FormatVersionError: if a newer memstore wrote it.
        """
        folder = resolve_source(str(source))
        if (folder / "config.json").is_file() and checkpoint_kind(folder) is not None:
            if live_fraction is not None:
                raise ConfigError(
                    f"live_fraction: got {live_fraction} for {folder}, a model that is cut "
                    "already; leave it out, or cut the encoder again",
                    option="live_fraction",
                )
            return _load(folder)
        share = EncoderOptions().live_fraction if live_fraction is None else str(live_fraction)
        checkpoint = open_checkpoint(str(source))
        num_frozen_layers = plan_encoder(
            EncoderOptions(source=str(source), live_fraction=share, window_tokens=1)
        ).num_frozen_layers
        model = cls(ExtractiveConfig(dict(checkpoint.config), num_frozen_layers))
        model._adopt(load_model(checkpoint, torch.float32))
        return model.eval()

    def save_pretrained(self, folder: Path, tokenizer_file: Path) -> None:
        """Write the model, all or nothing, with the tokenizer that belongs to it.

        Raises:
            ConfigError: if the folder holds something.
            NotFoundError: if there is no such tokenizer.
            StorageFullError, StorageError: if it cannot be written.
        """
        if not tokenizer_file.is_file():
            raise NotFoundError(f"{tokenizer_file}: no tokenizer here; name a tokenizer.json")
        write_checkpoint(
            folder,
            kind=KIND,
            config=asdict(self.config),
            tensors=collect_weights(self),
            files={TOKENIZER_FILE: tokenizer_file.read_bytes()},
        )

    def unfreeze_memory_encoder(self) -> None:
        """Let training change the memory encoder; memories stored before are then not its own."""
        self.memory_encoder.requires_grad_(True)
        self.memory_encoder.train(self.training)

    def train(self, mode: bool = True) -> ExtractiveLumen:
        """Set the mode of all parts but a frozen memory encoder: its memories have no dropout."""
        super().train(mode)
        if not any(each.requires_grad for each in self.memory_encoder.parameters()):
            self.memory_encoder.eval()
        return self

    def encode_memories(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the memories of passages: (N, P, D), from (N, P) int64 ids and mask.

        They are what `memstore encode` stores.
        """
        return self._run(
            self.memory_encoder.layers, self.memory_encoder.embeddings(input_ids), mask
        )

    def encode_questions(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what the live layers get of questions: (B, Q, D), from (B, Q) ids and mask."""
        encoder = self.question_encoder
        return self._run(encoder.layers, encoder.embeddings(input_ids), mask)

    def forward(
        self,
        question_ids: torch.Tensor,
        question_mask: torch.Tensor,
        memories: torch.Tensor,
        memory_mask: torch.Tensor,
        *,
        text_mask: torch.Tensor | None = None,
        spans: torch.Tensor | None = None,
    ) -> ExtractiveOutput:
        """Score every token of every passage.

        Args:
            question_ids: (B, Q) int64.
            question_mask: (B, Q), True or 1 for a token.
            memories: (B, K, P, D), any float dtype; K may be 0.
            memory_mask: (B, K, P). A passage without tokens is one that is not there.
            text_mask: (B, K, P), where an answer may be, a part of `memory_mask`: special tokens
                and titles are read but are not text. None: everywhere.
            spans: (B, 3) int64, for the loss: passage, first and last token of the answer; a
                passage of -1: none has it.

        Raises:
            ShapeError: if the shapes do not fit together, the width is not the model's, a question
                has no token, or a span is not one of text tokens.
        """
        questions = self.encode_questions(question_ids, question_mask)
        packed = pack_rows(questions, question_mask, memories, memory_mask)
        hidden = self._align(packed, question_mask)  # (R, L, D)
        hidden = self._run(self.live, hidden, packed.mask)
        text_mask = memory_mask.bool() if text_mask is None else memory_mask.bool() & text_mask
        scores = self.span_head(hidden).float()  # (R, L, 2)
        logits = unpack(packed, scores, question_mask, memory_mask)  # (B, K, P, 2)
        logits = logits.masked_fill(~text_mask.unsqueeze(-1), -torch.inf)
        start, end = logits[..., 0], logits[..., 1]
        null = mean_by_question(packed, self.null_head(hidden[:, 0]).float().squeeze(1))
        loss = None if spans is None else span_loss(start, end, null, text_mask, spans)
        return ExtractiveOutput(start, end, null, loss)

    def _align(self, packed: PackedRows, question_mask: torch.Tensor) -> torch.Tensor:
        """Return packed rows (R, L, D) in which memory tokens say how near the question is."""
        lengths = question_mask.bool().sum(1)[packed.rows // packed.num_passages, None]  # (R, 1)
        place = torch.arange(packed.mask.shape[1], device=lengths.device)  # (L,)
        # Every passage has special tokens, so the question's own, its first and last, tell nothing.
        is_word = (place > 0) & (place < lengths - 1)  # (R, L)
        units = functional.normalize(packed.hidden, dim=2)
        longest = int(lengths.max())
        cosines = units @ units[:, :longest].mT  # (R, L, Q)
        cosines = cosines.masked_fill(~is_word[:, None, :longest], -1)
        is_memory = packed.mask & (place >= lengths)
        told: torch.Tensor = self.match(cosines.amax(2, keepdim=True))
        return packed.hidden + told.masked_fill(~is_memory.unsqueeze(2), 0)

    def _run(self, layers: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        attention_mask = create_bidirectional_mask(
            config=self._top_config, inputs_embeds=hidden, attention_mask=mask.bool()
        )
        for layer in layers:
            hidden = layer(hidden, attention_mask)
        return hidden

    def _adopt(self, encoder: Any) -> None:
        """Take the weights of a whole encoder; the heads keep theirs."""
        layers, cut = encoder.encoder.layer, self.config.num_frozen_layers
        for bottom in (self.memory_encoder, self.question_encoder):
            bottom.embeddings.load_state_dict(encoder.embeddings.state_dict())
            bottom.layers.load_state_dict(layers[:cut].state_dict())
        self.live.load_state_dict(layers[cut:].state_dict())


class _Bottom(nn.Module):
    """Embeddings and the layers up to the cut."""

    def __init__(self, config: ExtractiveConfig) -> None:
        super().__init__()
        model = _build(config, config.num_frozen_layers)
        self.embeddings: Any = model.embeddings
        self.layers: Any = model.encoder.layer


def _build(config: ExtractiveConfig, num_layers: int) -> Any:
    """Return an encoder of so many layers, with random weights."""
    values = {**config.backbone, "num_hidden_layers": num_layers}
    family = FAMILIES[values.pop("model_type")]
    shape = AutoConfig.for_model(family.model_type, **values)
    return getattr(transformers, family.architecture)(shape, add_pooling_layer=False)


def _load(folder: Path) -> ExtractiveLumen:
    values, tensors = read_checkpoint(folder, kind=KIND)
    try:
        config = ExtractiveConfig(**values)
        model = ExtractiveLumen(config)
    except (TypeError, AttributeError, ValueError) as err:
        raise CorruptionError(
            f"{folder}: config.json is not that of an extractive reader ({type(err).__name__}); "
            "restore the checkpoint",
            object=folder,
        ) from err
    load_weights(model, tensors, where=str(folder))
    return model.eval()
