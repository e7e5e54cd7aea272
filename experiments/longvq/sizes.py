"""How large the models are, how long they learn, what they are asked: one size a machine.

Learning rates are MEGA's: 0.001 on ListOps and 0.004 on bytes of text at the large size; short runs
take 0.004 and more throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.longvq.arms import TaskName
from experiments.longvq.copying import Copying
from experiments.longvq.expressions import NUM_TOKENS, ListOpsOptions
from experiments.longvq.learning import Course
from experiments.longvq.recall import Part, Recall
from experiments.longvq.reviews import ReviewsOptions
from experiments.longvq.text import TextOptions
from memstore.models.longvq_config import LongVQConfig

TaskOptions = ListOpsOptions | Recall | Copying | ReviewsOptions | TextOptions
_NUM_BYTES = 256


@dataclass(frozen=True, slots=True)
class Setting:
    """A task at a size.

    Args:
        options: of the task.
        shape: of LongVQ; an arm says what of it is changed.
        course: how it is learnt.
    """

    options: TaskOptions
    shape: LongVQConfig
    course: Course


@dataclass(frozen=True, slots=True)
class Size:
    """Everything that the cost of the experiment depends on.

    Args:
        settings: of each task.
        num_codes: S of LongVQ.
        num_seeds: of weights, and of what is learnt from in which order.
    """

    settings: Mapping[TaskName, Setting]
    num_codes: int
    num_seeds: int


def _small(vocab_size: int, *, dim: int, window: int, is_causal: bool) -> LongVQConfig:
    """Return two layers; values as wide as moments are, so that gradients are exact."""
    return LongVQConfig(
        vocab_size=vocab_size,
        is_causal=is_causal,
        dim=dim,
        num_layers=2,
        key_dim=dim // 2,
        value_dim=dim,
        ffn_dim=2 * dim,
        num_codes=64,
        window=window,
        moment_width=dim,
    )


def _cpu() -> Size:
    # Shorter than the paper's 500 to 2,000 tokens, which two cores cannot learn in minutes.
    listops = ListOpsOptions(longer_than=15, shorter_than=64, num_train=200_000, batch_size=32)
    # 128 ids and one length for 8,192 and five: as many pairs as the first part of the paper's.
    recall = Recall(128, (Part(64, 4, 1),), (Part(64, 4, 10_000),), batch_size=32, window=8)
    # 56 places and 8 symbols for 4,096 and 16.
    copying = Copying(length=56, num_copied=8, num_symbols=8, num_items=10_000, batch_size=32)
    return Size(
        settings={
            "listops": Setting(
                listops,
                _small(NUM_TOKENS, dim=64, window=8, is_causal=False),
                Course(6000, 4e-3, 100),
            ),
            "recall": Setting(
                recall,
                _small(recall.vocab_size, dim=32, window=8, is_causal=True),
                Course(2000, 5e-3, 100),
            ),
            "copying": Setting(
                copying,
                _small(copying.vocab_size, dim=32, window=8, is_causal=True),
                Course(2000, 5e-3, 100),
            ),
            "text": Setting(
                TextOptions(length=512, most_stretches=8, batch_size=8),
                _small(_NUM_BYTES, dim=64, window=32, is_causal=True),
                Course(1000, 4e-3, 100),
            ),
            # Stretches of 512 bytes, and the first 4,096 in the test.
            "reviews": Setting(
                ReviewsOptions(most_bytes=4096, trained_bytes=512, num_folds=3, batch_size=16),
                _small(_NUM_BYTES, dim=64, window=32, is_causal=False),
                Course(400, 4e-3, 50),
            ),
        },
        num_codes=64,
        num_seeds=3,
    )


def _gpu() -> Size:
    pairs = ((64, 4, 5), (128, 8, 1), (256, 16, 1), (256, 32, 1), (256, 64, 1))
    asked = ((64, 4), (128, 8), (256, 16), (256, 64), (512, 128), (1024, 256))
    recall = Recall(
        8192,
        tuple(Part(*each) for each in pairs),
        tuple(Part(length, num_pairs, 2000) for length, num_pairs in asked),
        batch_size=64,
        window=32,
    )
    copying = Copying(length=4096, num_copied=16, num_symbols=16, num_items=10_000, batch_size=32)
    return Size(
        settings={
            "listops": Setting(
                ListOpsOptions(),
                LongVQConfig(
                    vocab_size=NUM_TOKENS,
                    dim=80,
                    num_layers=6,
                    key_dim=64,
                    value_dim=160,
                    ffn_dim=160,
                    dropout=0.1,
                ),
                Course(20_000, 1e-3, 1000),
            ),
            "recall": Setting(
                recall,
                LongVQConfig(
                    vocab_size=recall.vocab_size,
                    is_causal=True,
                    dim=128,
                    num_layers=2,
                    value_dim=128,
                    ffn_dim=256,
                    window=recall.window,
                ),
                Course(20_000, 1e-3, 1000),
            ),
            "copying": Setting(
                copying,
                LongVQConfig(
                    vocab_size=copying.vocab_size,
                    is_causal=True,
                    dim=64,
                    num_layers=2,
                    value_dim=64,
                    ffn_dim=128,
                ),
                Course(20_000, 1e-3, 1000),
            ),
            "text": Setting(
                TextOptions(length=4096, most_stretches=8, batch_size=8),
                LongVQConfig(vocab_size=_NUM_BYTES, is_causal=True, num_layers=6, dropout=0.1),
                Course(8000, 2e-3, 500),
            ),
            "reviews": Setting(
                ReviewsOptions(most_bytes=4096, trained_bytes=4096, num_folds=5, batch_size=32),
                LongVQConfig(
                    vocab_size=_NUM_BYTES, dim=128, value_dim=256, ffn_dim=256, dropout=0.1
                ),
                Course(4000, 4e-3, 400),
            ),
        },
        num_codes=256,
        num_seeds=5,
    )


SIZES = {"cpu": _cpu(), "gpu": _gpu()}
