"""What is trained, on one device, and what one step does to it; whoever drives the steps.

Gradients and the quantizer's statistics are summed over all processes of a group.

Source: LUMEN (arXiv 2301.10448); MEMORY-VQ (arXiv 2308.14903).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from encoder_jobs.checkpointing import Checkpoint, trained_parameters
from encoder_jobs.lumen_data import Batch, Examples, choose, collate
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.options import DEFAULT_CODEC_SAMPLE_TOKENS
from encoder_jobs.training_steps import autocast, is_finite, rank, step_seed, update
from memstore.codec import ProductCodec, choose_layout
from memstore.encoders.batching import pad
from memstore.errors import ConfigError, NotFiniteError, TrainingDivergedError
from memstore.models.lumen import Lumen
from memstore.models.vq import DECAY, ProductVQ, VQOutput
from memstore.models.vq_codebook import num_ranks, sum_over_ranks

_MEMORIES_A_CENTROID = 4  # in the sample that a codebook begins with, at least


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did.

    Attributes:
        loss: mean cross-entropy of a token of the answers, over the batch.
        grad_norm: length of the gradient; 0 if nothing has one.
        perplexity: codes in use in a micro-batch, the mean over subspaces and micro-batches; None
            without a quantizer.
        num_resets: codes that were drawn anew.
    """

    loss: float
    grad_norm: float
    perplexity: float | None
    num_resets: int

    @property
    def is_finite(self) -> bool:
        """The step was made; else the weights are as before it."""
        return is_finite(self.loss, self.grad_norm)

    def to_row(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        row: dict[str, Any] = {"loss": self.loss, "grad_norm": self.grad_norm}
        if self.perplexity is not None:
            row |= {"perplexity": self.perplexity, "num_resets": self.num_resets}
        return row


class Learner:
    """Model, quantizer and optimizer.

    Args:
        options: what to train.
        examples: what on.
        device: where.
        checkpoint: where to go on; None: from the options' source.

    Raises:
        ConfigError, EncoderNotFoundError, CodecNotFoundError, CorruptionError: as `load_model` and
            `make_quantizer`, or if the checkpoint is of another model.

    Attributes:
        model: what learns.
        parts: the modules by name: `"model"`, and `"quantizer"` if there is one.
        optimizer: None if nothing has a gradient.
        device: where they are.
    """

    def __init__(
        self,
        options: TrainOptions,
        examples: Examples,
        device: torch.device,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._options, self._examples, self.device = options, examples, device
        self.model = load_model(options)
        self._quantizer = make_quantizer(options, self.model, examples)
        self.parts: dict[str, nn.Module] = {"model": self.model}
        if self._quantizer is not None:
            self.parts["quantizer"] = self._quantizer
        if checkpoint is not None:
            checkpoint.load_parts(self.parts)
        for part in self.parts.values():
            part.to(device)
        self._trained = trained_parameters(self.parts)
        self.optimizer = _make_optimizer(options, self._trained)
        if checkpoint is not None and self.optimizer is not None:
            checkpoint.load_optimizer(self.optimizer, self.parts)
        self._pad_id: int = self.model.generator.config.pad_token_id
        if self._quantizer is not None and checkpoint is None and not options.codec:
            self._start_codebook(self._quantizer)

    def learn(self, step: int) -> StepResult:
        """Make one step, the `step`-th, counted from 1; none if its loss is not finite."""
        options, examples = self._options, self._examples
        chosen = choose(
            step, num_examples=len(examples), batch_size=options.batch_size, seed=options.seed
        )
        # A token counts alike, whatever micro-batch and process it comes to.
        num_labels = sum(len(examples.answer(*each)) for each in chosen)
        own = chosen[rank() :: num_ranks()]
        torch.manual_seed(step_seed(options.seed, step, rank()))
        self._set_training(True)
        loss = torch.zeros((), device=self.device)
        perplexities: list[torch.Tensor] = []
        num_resets = 0
        for at in range(0, len(own), options.micro_batch):
            batch = self._collate(own[at : at + options.micro_batch])
            with torch.set_grad_enabled(self.optimizer is not None):
                mean, quantized = self._loss(batch)
            share = mean * (batch.num_labels / num_labels)
            if self.optimizer is not None:
                share.backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
            if quantized is not None:  # of which the rest is as large as the memories
                perplexities.append(quantized.perplexity)
                num_resets += quantized.num_resets
        sum_over_ranks(loss)
        grad_norm = 0.0
        if self.optimizer is not None:
            grad_norm = update(self.optimizer, self._trained, float(loss))
        perplexity = float(torch.stack(perplexities).mean()) if perplexities else None
        return StepResult(float(loss), grad_norm, perplexity, num_resets)

    def carried(self) -> Mapping[str, torch.Tensor]:
        """Return nothing: a step depends on the weights and on its number."""
        return {}

    @torch.no_grad()
    def answer(self, examples: Examples, numbers: Sequence[int]) -> list[list[int]]:
        """Return the ids of what the model answers to some questions."""
        self._set_training(False)
        batch = self._collate([(number, 0) for number in numbers], examples)
        with self._autocast():
            memories, mask, _ = self._remember(batch)
            ids = self.model.generate(batch.question_ids, batch.question_mask, memories, mask)
        answers: list[list[int]] = ids.tolist()
        return answers

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, VQOutput | None]:
        with self._autocast():
            try:
                memories, mask, quantized = self._remember(batch)
            except NotFiniteError:  # the quantizer refused them, in all processes
                return torch.full((), math.nan, device=self.device, requires_grad=True), None
            questions = batch.question_ids, batch.question_mask
            return self.model(*questions, memories, mask, batch.labels).loss, quantized

    def _remember(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, VQOutput | None]:
        """Return memories (B, K, P, D) as the reader will get them, and their mask (B, K, P)."""
        mask = batch.passage_mask
        memories = self.model.encode_memories(batch.passage_ids, mask)  # (N, P, D)
        quantized: VQOutput | None = None
        if self._quantizer is not None:
            offsets = nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
            quantized = self._quantizer(memories[mask], batch.passage_ids[mask], offsets)
            restored: torch.Tensor = quantized.quantized
            memories = torch.zeros_like(memories).index_put((mask,), restored)
        none = memories.new_zeros(1, *memories.shape[1:])  # row N, of a passage that is not there
        return torch.cat([memories, none])[batch.rows], _with_none(mask)[batch.rows], quantized

    @torch.no_grad()
    def _start_codebook(self, quantizer: ProductVQ) -> None:
        self._set_training(False)
        rows = _sampled(self._options, self._examples)[rank() :: num_ranks()]
        step = self._options.micro_batch * self._options.top_k
        memories = []
        for at in range(0, len(rows), step):
            passages = [self._examples.passages[row] for row in rows[at : at + step]]
            ids, mask = (torch.from_numpy(each) for each in pad(passages, self._pad_id))
            ids, mask = ids.to(self.device), mask.to(self.device).bool()
            with self._autocast():
                memories.append(self.model.encode_memories(ids, mask)[mask].float())
        dim = self.model.config.dim
        together = torch.cat([torch.zeros((0, dim), device=self.device), *memories])
        try:
            quantizer.initialize(together, seed=self._options.seed)
        except NotFiniteError as err:
            raise TrainingDivergedError(
                f"before step 1: {err.message}; the model that training starts from makes them: "
                "start from another, or with --precision float32"
            ) from err

    def _set_training(self, mode: bool) -> None:
        """Memories that nothing adapts to are made without dropout, as the store's are."""
        self.model.train(mode and self.optimizer is not None)
        if self._quantizer is not None:
            self._quantizer.train(mode)

    def _autocast(self) -> torch.autocast:
        return autocast(self._options.precision, self.device)

    def _collate(
        self, chosen: Sequence[tuple[int, int]], examples: Examples | None = None
    ) -> Batch:
        return collate(examples or self._examples, chosen, self._pad_id, self.device)


def load_model(options: TrainOptions) -> Lumen:
    """Load what training starts from, with what is not trained frozen.

    Raises:
        ConfigError: if `live_fraction` does not cut it, or a rotation is folded into it; and, with
            the others, as `Lumen.from_pretrained`.
    """
    model = Lumen.from_pretrained(options.source, live_fraction=options.live_fraction or None)
    if model.config.rotation_sha256:
        raise ConfigError(
            f"model {options.source}: has a codec's rotation folded in; train the model that it "
            "was folded from",
            source=options.source,
        )
    if options.trains_memory_encoder:
        model.unfreeze_memory_encoder()
    if not options.trains_model:
        model.requires_grad_(False)
    return model


def make_quantizer(options: TrainOptions, model: Lumen, examples: Examples) -> ProductVQ | None:
    """Return the quantizer that training starts with; its codebook is empty without a codec.

    Raises:
        ConfigError: if it does not fit the model's width or there are too few memories to start
            from.
        CodecNotFoundError, CorruptionError: as `ProductCodec.load`.
    """
    if not options.is_quantized:
        return None
    # The averages reach back over as many batches, however many micro-batches those have.
    num_parts = -(-options.batch_size // (num_ranks() * options.micro_batch))
    decay = DECAY ** (1 / num_parts)
    dim = model.config.dim
    if options.codec:
        codec = ProductCodec.load(options.codec)
        if codec.dim != dim:
            raise ConfigError(
                f"codec {options.codec}: is of {codec.dim} dimensions, the model's memories have "
                f"{dim}; wanted one that was trained on them"
            )
        return ProductVQ.from_codec(codec, decay=decay)
    sampled = _sampled(options, examples)
    num_memories = sum(len(examples.passages[row]) for row in sampled)
    num_subspaces, codebook_size = options.num_subspaces, options.codebook_size
    if num_subspaces is None or codebook_size is None:
        layout = choose_layout(dim, num_memories)
        if num_subspaces is None:
            num_subspaces = layout.num_subspaces
        if codebook_size is None:
            codebook_size = layout.codebook_size
    if num_memories < codebook_size:
        raise ConfigError(
            f"training option codebook_size: got {codebook_size}, wanted at most {num_memories}, "
            "the memories of all passages; give more of them",
            option="codebook_size",
        )
    return ProductVQ(dim, num_subspaces, codebook_size, decay=decay)


def _sampled(options: TrainOptions, examples: Examples) -> list[int]:
    """Return the passages whose memories a codebook begins with, in an order of chance."""
    wanted = max(DEFAULT_CODEC_SAMPLE_TOKENS, _MEMORIES_A_CENTROID * (options.codebook_size or 0))
    order = np.random.default_rng(options.seed).permutation(len(examples.passages))
    before = np.cumsum([0, *(len(examples.passages[row]) for row in order[:-1])])
    rows: list[int] = order[before < wanted].tolist()
    return rows


def _make_optimizer(
    options: TrainOptions, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer | None:
    if not parameters:
        return None
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    return torch.optim.Adafactor(parameters, lr=options.learning_rate, weight_decay=0.0)


def _with_none(mask: torch.Tensor) -> torch.Tensor:
    return torch.cat([mask, torch.zeros_like(mask[:1])])
