"""LongVQ as it learns, on one device, and what one step does to it.

A step reads documents whole, or pieces of long ones, in shuffled epochs. Codebooks have no
gradient: they follow the keys in every forward pass. Gradients, and what the codebooks follow, are
summed over all processes of a group.

Source: LongVQ (arXiv 2404.11163), which trains on tasks; what is told here is our choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from encoder_jobs.checkpointing import Checkpoint, Parts, trained_parameters
from encoder_jobs.longvq_options import LongVQOptions
from encoder_jobs.longvq_pieces import Batch, Pieces, num_targets, stack
from encoder_jobs.longvq_scoring import Validation, score_pieces
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_schedule import StepResult, finish_step
from encoder_jobs.training_steps import autocast, in_shuffled_epochs, rank, step_seed
from memstore.errors import NotFiniteError
from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import LongVQConfig
from memstore.models.vq_codebook import num_ranks, sum_over_ranks

_CPU = torch.device("cpu")


class Learner:
    """Model, optimizer, and the documents.

    Args:
        config: of the model; it is trained to tell the next token if it is causal, else hidden
            ones, for which its last id stands.
        options: how to train it.
        documents: what on: token ids, two or more of each.
        validation: held-out ones; None: none.
        device: where.
        checkpoint: where to go on; None: at the beginning.

    Raises:
        ConfigError: if there is no document, or one is too short.
        CorruptionError: if the checkpoint is of another model.

    Attributes:
        model: what learns.
        parts: the same, by name.
        optimizer: of all its weights.
        device: where they are.
    """

    def __init__(
        self,
        config: LongVQConfig,
        options: LongVQOptions,
        documents: Ragged,
        validation: Ragged | None = None,
        *,
        device: torch.device = _CPU,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._options, self.device = options, device
        self._pieces = cut(config, options, documents)
        self._validation = None if validation is None else cut(config, options, validation)
        self._choose = in_shuffled_epochs(len(self._pieces), options.seed)
        # The averages reach back over as many batches, however many micro-batches those have.
        num_parts = -(-options.batch_size // (num_ranks() * options.micro_batch))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(options.seed, 0, 0))
            self.model = LongVQ(
                replace(config, decay=config.decay ** (1 / num_parts)),
                checkpointing=options.checkpointing,
            )
        self.parts: Parts = {"model": self.model}
        if checkpoint is not None:
            checkpoint.load_parts(self.parts)
        self.model.to(device)
        self._trained = trained_parameters(self.parts)
        self.optimizer = torch.optim.AdamW(self._trained, betas=(0.9, 0.95), weight_decay=0.0)
        if checkpoint is not None:
            checkpoint.load_optimizer(self.optimizer, self.parts)

    def learn(self, step: int) -> StepResult:
        """Make one step, the `step`-th, counted from 1; none if its loss is not finite: then the
        codebooks may have moved, the weights have not.
        """
        size = self._options.batch_size
        # The number of a piece in all that is ever read decides what is hidden of it.
        numbers = range((step - 1) * size, step * size)
        rows = [self._pieces.read(self._choose(number), number) for number in numbers]
        # A token counts alike, whatever micro-batch and process it comes to.
        num_tokens = num_targets(rows)
        own = rows[rank() :: num_ranks()]
        torch.manual_seed(step_seed(self._options.seed, step, rank()))
        self.model.train()
        loss = torch.zeros((), device=self.device)
        for at in range(0, len(own), self._options.micro_batch):
            batch = stack(own[at : at + self._options.micro_batch], self.device)
            try:
                loss += self._learn_from(batch, batch.num_targets / num_tokens)
            except NotFiniteError:
                # At once: other processes may be far from here, and end with this one.
                self.optimizer.zero_grad(set_to_none=True)
                return StepResult(math.nan, math.nan, self._options.rate(step), num_tokens)
        sum_over_ranks(loss)
        return finish_step(
            step,
            self._options,
            self.optimizer,
            self._trained,
            loss=float(loss),
            num_tokens=num_tokens,
        )

    def validate(self) -> Validation | None:
        """Score the held-out documents; None if there are none. Every process calls this.

        Raises:
            NotFiniteError: if the model gives such values.
        """
        if self._validation is None:
            return None
        return score_pieces(
            self.model,
            self._validation,
            batch_size=self._options.micro_batch,
            precision=self._options.precision,
        )

    def code_figures(self) -> dict[str, Any]:
        """Return how codes are used, as JSON values; nothing of a model without codebooks.

        `code_perplexity`: codes in use, the mean over codebooks; `collapsed_codebooks`: [layer,
        head] of those whose keys nearly all have one code.
        """
        used = self.model.usage_perplexity()
        if not len(used):
            return {}
        collapsed = [list(each) for each in self.model.collapsed_codebooks()]
        return {"code_perplexity": float(used.mean()), "collapsed_codebooks": collapsed}

    def carried(self) -> Mapping[str, torch.Tensor]:
        """Return nothing: a step depends on the weights, the codebooks and its number."""
        return {}

    def _learn_from(self, batch: Batch, share: float) -> torch.Tensor:
        """Add a micro-batch's gradient; return its share of the loss, the quantizer's left out."""
        with autocast(self._options.precision, self.device):
            output = self.model(batch.tokens, batch.mask)
            total = self.model.loss(output, batch.targets) * share
        total.backward()  # type: ignore[no-untyped-call]
        loss: torch.Tensor = total.detach() - output.quantizer_loss.detach() * share
        return loss


def cut(config: LongVQConfig, options: LongVQOptions, documents: Ragged) -> Pieces:
    """Return the pieces that training reads.

    Raises:
        ConfigError: if there is no document, or one is too short.
    """
    return Pieces(documents, config, max_tokens=options.max_tokens, seed=options.seed)
