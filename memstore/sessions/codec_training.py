"""A codec for queues: the entries of some streams, and a product quantizer trained on them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from memstore.codec import ProductCodec
from memstore.errors import ShapeError
from memstore.sessions.language import SessionModel


def sample_queue(model: SessionModel, texts: Iterable[str]) -> np.ndarray:
    """Return what streams leave in the queue, as it comes from the model.

    Args:
        model: reads them.
        texts: a stream each.

    Returns:
        (N, D) float32: L entries for each window that a stream fills.

    Raises:
        InvalidInputError: if a text holds no token.
        ShapeError: if no stream fills a window, or the model keeps no queue.
    """
    found = [model.entries(text) for text in texts]
    if not sum(map(len, found)):
        raise ShapeError(
            f"got {len(found)} streams that leave nothing in the queue; wanted one of "
            f"{model.config.window} tokens or more, and a model with a queue"
        )
    return np.concatenate(found)


def train_queue_codec(
    model: SessionModel,
    texts: Iterable[str],
    *,
    num_subspaces: int,
    codebook_size: int = 256,
    rotation: str | None = "pca",
    seed: int = 0,
) -> ProductCodec:
    """Train the codec that a `SessionStore` of this model keeps queues in.

    Post hoc: the model is not trained to read decoded entries.

    Args:
        model: whose queues.
        texts: a stream each, such as those that sessions will be of.
        num_subspaces: M, a divisor of D: bytes of an entry, with 256 centroids or fewer.
        codebook_size: K.
        rotation: as of `ProductCodec.train`.
        seed: as there.

    Raises:
        InvalidInputError, ShapeError: as `sample_queue`; or if there are fewer than K entries.
        ConfigError: if M or K is not such.
    """
    return ProductCodec.train(
        sample_queue(model, texts),
        num_subspaces=num_subspaces,
        codebook_size=codebook_size,
        rotation=rotation,
        seed=seed,
        dtype="float32",
    )
