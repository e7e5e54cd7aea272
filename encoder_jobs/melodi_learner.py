"""A model of streams that learns, on one device, and what one step does to it.

Each stream reads a document segment by segment. What the model remembers of it is carried from
step to step, and put back to the start where a document starts. Gradients cross a segment.

Source: MELODI (arXiv 2410.03156).
"""

from __future__ import annotations

import math

import torch

from encoder_jobs.checkpointing import Checkpoint, Parts, trained_parameters
from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.melodi_scoring import Validation, score_documents
from encoder_jobs.melodi_streams import Streams
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_options import refused
from encoder_jobs.training_schedule import StepResult, finish_step
from encoder_jobs.training_steps import autocast, in_shuffled_epochs, rank, step_seed
from encoder_jobs.training_text import check_documents
from memstore.codec import ProductCodec
from memstore.errors import NotFiniteError
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig
from memstore.models.vq import DECAY, ProductVQ
from memstore.models.vq_codebook import num_ranks, sum_over_ranks

_CPU = torch.device("cpu")


class Learner:
    """Model, optimizer, and streams with what the model remembers of them.

    Args:
        config: of the model; weights are drawn by the options' seed, or are those of its source.
        options: how to train it.
        documents: what on: token ids, two or more of each, and a document or more for each stream.
        validation: held-out ones; None: none.
        device: where.
        checkpoint: where to go on; None: at the beginning.

    Raises:
        ConfigError: as `open_streams`, `make_model` and `check_shares`.
        NotFoundError, CorruptionError: of source, codec or checkpoint.

    Attributes:
        model: what learns.
        parts: the same, by name.
        optimizer: of all its weights.
        device: where they are.
    """

    def __init__(
        self,
        config: MelodiConfig,
        options: MelodiOptions,
        documents: Ragged,
        validation: Ragged | None = None,
        *,
        device: torch.device = _CPU,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._options, self._validation, self.device = options, validation, device
        self._streams = open_streams(config, options, documents)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(options.seed, 0, 0))
            self.model = make_model(config, options, begins=checkpoint is None)
        self.parts: Parts = {"model": self.model}
        if checkpoint is not None:
            checkpoint.load_parts(self.parts)
        self.model.to(device)
        self._trained = trained_parameters(self.parts)
        self.optimizer = _make_optimizer(options, self._trained)
        starts = range(0, options.batch_size, options.micro_batch)
        ends = (min(at + options.micro_batch, options.batch_size) for at in starts)
        self._rows = [range(*each) for each in zip(starts, ends, strict=True)]
        check_shares(options, num_ranks())
        self._states = {
            number: self.model.initial_state(len(self._rows[number]))
            for number in range(rank(), len(self._rows), num_ranks())
        }
        if checkpoint is not None:
            checkpoint.load_optimizer(self.optimizer, self.parts)
            self._load_carried(checkpoint)

    def learn(self, step: int) -> StepResult:
        """Read each stream's next segment and make one step, the `step`-th, counted from 1; none if
        its loss is not finite.
        """
        segment = self._streams.next()
        if segment is None:
            raise AssertionError("streams of epochs have no end")
        torch.manual_seed(step_seed(self._options.seed, step, rank()))
        self.model.train()
        loss = torch.zeros((), device=self.device)
        for number, state in self._states.items():
            part = segment.part(self._rows[number])
            tokens, targets, starts = part.to(self.device)
            with autocast(self._options.precision, self.device):
                try:
                    lengths = torch.from_numpy(part.lengths).to(self.device)
                    output = self.model(tokens, state.reset(starts), targets, lengths)
                except NotFiniteError:  # the codec refused them, in all processes
                    self.optimizer.zero_grad(set_to_none=True)
                    rate, num_tokens = self._options.rate(step), segment.num_targets
                    return StepResult(math.nan, math.nan, rate, num_tokens)
            # A token counts alike, whatever micro-batch and process it comes to.
            share = output.loss * (part.num_targets / segment.num_targets)
            share.backward()
            loss += share.detach()
            self._states[number] = output.state
        sum_over_ranks(loss)
        return finish_step(
            step,
            self._options,
            self.optimizer,
            self._trained,
            loss=float(loss),
            num_tokens=segment.num_targets,
        )

    def validate(self) -> Validation | None:
        """Score the held-out documents; None if there are none. Every process calls this."""
        if self._validation is None:
            return None
        return score_documents(
            self.model,
            self._validation,
            num_streams=self._options.micro_batch,
            segment_windows=self._options.segment_windows,
            precision=self._options.precision,
        )

    def carried(self) -> dict[str, torch.Tensor]:
        """Return where the streams are and what the model remembers of each; all processes'."""
        tensors = {f"streams.{name}": each for name, each in self._streams.to_tensors().items()}
        for number, rows in enumerate(self._rows):
            # Zeros of every process but the one whose streams they are.
            state = self._states.get(number) or self.model.initial_state(len(rows))
            for name, tensor in state.to_tensors().items():
                summed = tensor.clone()
                sum_over_ranks(summed)
                tensors[f"{number}.{name}"] = summed
        return tensors

    def _load_carried(self, checkpoint: Checkpoint) -> None:
        self._streams.load(checkpoint.carried("streams", self._streams.to_tensors()))
        for number, state in self._states.items():
            tensors = checkpoint.carried(str(number), state.to_tensors())
            loaded = type(state).from_tensors(tensors, where=f"streams {number}")
            self._states[number] = loaded.to(self.device)


def make_model(config: MelodiConfig, options: MelodiOptions, *, begins: bool) -> Melodi:
    """Return a model of float32 weights, with a quantizer if there is a codec.

    Args:
        config: of the model.
        options: name source and codec.
        begins: weights are those of the source; else, or without one, they are random.

    Raises:
        ConfigError: if the config has no queue for a codec.
        NotFoundError, CorruptionError: of source or codec.
        CodecMismatchError: if the codec is for other vectors.
    """
    model = Melodi(config)
    if begins and options.source:
        model.load_state_dict(Melodi.from_pretrained(options.source).state_dict())
    if options.codec:
        # The averages reach back over as many steps, however many windows those have.
        num_parts = -(-options.batch_size // (num_ranks() * options.micro_batch))
        decay = DECAY ** (1 / (num_parts * options.segment_windows))
        model.quantize_queue(ProductVQ.from_codec(ProductCodec.load(options.codec), decay=decay))
    return model


def check_shares(options: MelodiOptions, num_workers: int) -> None:
    """Refuse micro-batches of which one worker would have more than another, if there is a codec:
    it learns from all of them at once.

    Raises:
        ConfigError: naming the option.
    """
    if options.codec and -(-options.batch_size // options.micro_batch) % num_workers:
        wanted = f"a size that gives each of {num_workers} workers as many parts of the batch"
        raise refused("micro_batch", options.micro_batch, wanted)


def open_streams(config: MelodiConfig, options: MelodiOptions, documents: Ragged) -> Streams:
    """Return the streams that training reads.

    Raises:
        ConfigError: if there are fewer documents than streams, or one is too short.
    """
    check_documents(documents, "to train on")
    if len(documents) < options.batch_size:
        raise refused(
            "batch_size",
            options.batch_size,
            f"at most {len(documents)}, the documents to train on, as each stream reads another; "
            "or cut long texts into several documents",
        )
    return Streams(
        documents,
        options.batch_size,
        window=config.window,
        segment_windows=options.segment_windows,
        choose=in_shuffled_epochs(len(documents), options.seed),
    )


def _make_optimizer(
    options: MelodiOptions, parameters: list[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0)
    from transformers.optimization import Adafactor  # torch's has no momentum

    optimizer: torch.optim.Optimizer = Adafactor(
        parameters, lr=0.0, beta1=0.9, decay_rate=-0.8, relative_step=False
    )
    return optimizer
