"""A session's memory is what the model would have without sessions, however its text came."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from memstore import ProductCodec
from memstore.codec.quality import reconstruction
from memstore.errors import CodecMismatchError, InvalidInputError, ShapeError
from memstore.models.melodi_state import MelodiState, StreamState
from memstore.sessions import SessionModel, SessionStore, sample_queue, train_queue_codec
from memstore.storage import PosixStore
from tests.tiny_melodi import make_model
from tests.tiny_sessions import QUEUE_WINDOWS, UNKNOWN, WINDOW, make_session_model, make_text

OpenStore = Callable[..., SessionStore]


def _pieces(model: SessionModel, text: str, cuts: list[int]) -> list[str]:
    """Cut a text before these tokens."""
    starts = [0, *(model.tokenize(text).starts[cut] for cut in cuts), len(text)]
    return [text[start:stop] for start, stop in pairwise(starts)]


def _tensors(state: StreamState) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.to_tensors().items()}


CUTS = {
    "at once": [],
    "in two": [41],
    "at windows": [8, 16, 64],
    "around windows": [7, 17, 63, 65],
    "token by token": [*range(1, 30)],
}


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_memory_is_that_of_the_model_never_interrupted(
    open_store: OpenStore, model: SessionModel, cuts: list[int]
) -> None:
    """Each append by a process that has read the session from disk."""
    text = make_text(83)
    open_store().create("s")
    for piece in _pieces(model, text, cuts):
        open_store(ram_bytes=0).append("s", piece)

    ids = torch.from_numpy(model.tokenize(text).ids.astype(np.int64))[None]
    melodi = make_model(vocab_size=model.config.vocab_size)
    with torch.no_grad():
        wanted = _tensors(melodi(ids).state)
    got = _tensors(open_store().state("s"))
    assert got["position"] == 80
    for name, tensor in wanted.items():
        np.testing.assert_allclose(got[name], tensor, rtol=1e-9, atol=1e-12)


def test_a_continuation_is_that_of_the_model(store: SessionStore, model: SessionModel) -> None:
    """Over three ends of windows; the tokens are those that the model writes by itself."""
    text = make_text(21)
    for piece in _pieces(model, text, [5, 19]):
        store.append("s", piece)
    written = store.generate("s", max_new_tokens=25).text

    ids = torch.from_numpy(model.tokenize(text).ids.astype(np.int64))[None]
    melodi = make_model(vocab_size=model.config.vocab_size)
    wanted = melodi.generate(ids, max_new_tokens=25).ids[0].tolist()
    read = model.tokenize(written.replace(UNKNOWN, "?")).ids.tolist()  # "?" is unknown too
    assert read == wanted


def test_generation_in_parts_is_generation_at_once(
    store: SessionStore, open_store: OpenStore
) -> None:
    """Greedy, with the session read from disk between any two tokens."""
    store.append("s", make_text(13))
    store.fork("s", "parts")
    for _ in range(12):
        open_store(ram_bytes=0).generate("parts", max_new_tokens=1)
    store.generate("s", max_new_tokens=12)

    assert open_store().windows("parts") == open_store().windows("s")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_keeps_the_dtype_of_the_model(tmp_path: Path, dtype: torch.dtype) -> None:
    """To the last bit."""
    model = make_session_model(tmp_path, dtype=dtype)
    store = SessionStore(PosixStore(tmp_path / "s"), model)
    store.create("s")
    store.append("s", make_text(60))

    live = store.state("s")
    read = SessionStore(PosixStore(tmp_path / "s"), model).state("s")
    assert live.queue.dtype == live.short.dtype == dtype
    assert torch.equal(live.queue, read.queue)
    assert torch.equal(live.short, read.short)


def test_a_queue_of_codes_is_what_the_codec_makes_of_it(
    open_store: OpenStore, model: SessionModel, codec: ProductCodec
) -> None:
    """Each window reads the earlier ones as they are kept; live and read from disk are equal."""
    text = make_text(70)
    store = open_store(codec=codec)
    store.create("s")
    for piece in _pieces(model, text, [30, 33]):
        store.append("s", piece)

    melodi = make_model(vocab_size=model.config.vocab_size)
    ids = torch.from_numpy(model.tokenize(text).ids.astype(np.int64))[None]
    state = melodi.initial_state(1)
    for first in range(0, 64, WINDOW):
        with torch.no_grad():
            state = melodi(ids[:, first : first + WINDOW], state).state
        assert isinstance(state, MelodiState)
        records = codec.encode(state.queue[0, -3:].float().numpy())
        state.queue[0, -3:] = torch.from_numpy(codec.decode(records))
    assert isinstance(state, MelodiState)
    for got in (store.state("s"), open_store(codec=codec).state("s")):
        np.testing.assert_allclose(got.queue, state.queue, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got.short, state.short, rtol=1e-9, atol=1e-12)


def test_with_a_codec_memory_does_not_depend_on_how_text_came(
    open_store: OpenStore, model: SessionModel, codec: ProductCodec
) -> None:
    """At once and in small appends: the same codes."""
    text = make_text(61)
    store = open_store(codec=codec)
    store.create("one")
    store.append("one", text)
    store.create("many")
    for piece in _pieces(model, text, [3, 20, 21, 40]):
        store.append("many", piece)

    assert torch.equal(store.state("one").queue, store.state("many").queue)


def test_a_codec_takes_less_room_and_errs_as_it_says(
    open_store: OpenStore, model: SessionModel, codec: ProductCodec
) -> None:
    """Sixteen floats of eight bytes in four bytes; the error is that of held-out entries."""
    plain, coded = open_store(), open_store(codec=codec)
    sizes = {}
    for name, store in {"plain": plain, "coded": coded}.items():
        store.create(name)
        store.append(name, make_text(90))
        opened = store.opened(name)
        sizes[name] = sum(window.rows.nbytes for window in opened.content.windows)

    assert sizes == {"plain": QUEUE_WINDOWS * 3 * 128, "coded": QUEUE_WINDOWS * 3 * 4}
    entries = sample_queue(model, [make_text(500, seed=77)])
    decoded = codec.decode(codec.encode(entries))
    error = ((entries - decoded) ** 2).sum() / ((entries - entries.mean(0)) ** 2).sum()
    assert error == pytest.approx(reconstruction(entries, codec).relative_mse, rel=1e-3)
    assert 0 < error < 1


def test_a_codec_for_other_vectors_is_refused(model: SessionModel, root: Path) -> None:
    """Of another width."""
    codec = ProductCodec(np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32))
    with pytest.raises(CodecMismatchError, match=r"width 10; .* of width 16"):
        SessionStore(PosixStore(root), model, codec=codec)


def test_a_sample_is_what_the_queue_of_each_stream_would_be(model: SessionModel) -> None:
    """All its windows, even those that have left the queue; a stream at a time."""
    first, second = make_text(100, seed=1), make_text(30, seed=2)
    sample = sample_queue(model, [first, second])

    assert sample.shape == ((12 + 3) * 3, 16)
    assert sample.dtype == np.float32
    ids = torch.from_numpy(model.tokenize(second).ids.astype(np.int64))[None]
    with torch.no_grad():
        state = make_model(vocab_size=model.config.vocab_size)(ids).state
    assert isinstance(state, MelodiState)
    np.testing.assert_allclose(sample[36:], state.queue[0, -9:].float(), rtol=1e-5, atol=1e-6)


def test_streams_that_fill_no_window_are_no_sample(model: SessionModel) -> None:
    """There is nothing to train on."""
    with pytest.raises(ShapeError, match="leave nothing in the queue"):
        train_queue_codec(model, ["sea ship"], num_subspaces=4)


def test_a_model_without_a_queue_keeps_sessions_but_finds_nothing(tmp_path: Path) -> None:
    """Short-term memory alone; a search says so."""
    model = make_session_model(tmp_path, num_long_tokens=0)
    store = SessionStore(PosixStore(tmp_path / "s"), model, ram_bytes=0)
    store.create("s")
    store.append("s", make_text(20))
    store.append("s", make_text(20))

    assert store.state("s").short.abs().sum() > 0
    assert len(store.windows("s")) == 5
    with pytest.raises(InvalidInputError, match="keeps no queue"):
        store.search("s", "sea")
