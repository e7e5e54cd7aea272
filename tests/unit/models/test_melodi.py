"""MELODI and its baselines: however a text is cut, what is read of it is the same."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from memstore.errors import ShapeError
from memstore.models.melodi_state import MelodiState, StreamState
from tests.tiny_melodi import VARIANTS, VOCAB, WINDOW, make_model, make_tokens

ALL = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
TRAINED_APART = pytest.mark.parametrize(
    "changes", [VARIANTS["melodi"], VARIANTS["memorizing"], VARIANTS["block-recurrent"]]
)


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Compare in float64: two ways to add up the same numbers."""
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


def assert_same_state(one: StreamState, other: StreamState) -> None:
    """Compare two states of one model, tensor by tensor."""
    assert type(one) is type(other)
    for name, tensor in one.to_tensors().items():
        assert_close(tensor, other.to_tensors()[name])


@ALL
def test_windows_one_by_one_give_what_the_segment_gives(changes: dict[str, Any]) -> None:
    """Logits and state; the queue of four windows is overrun twice."""
    model = make_model(**changes)
    tokens = make_tokens(9)

    whole = model(tokens)
    state: StreamState | None = None
    logits = []
    for window in tokens.chunk(9, dim=1):
        output = model(window, state)
        logits.append(output.logits)
        state = output.state

    assert_close(torch.cat(logits, dim=1), whole.logits)
    assert state is not None
    assert_same_state(state, whole.state)
    assert whole.state.position.tolist() == [9 * WINDOW] * 2


@ALL
def test_what_is_left_over_a_window_is_read_and_not_remembered(changes: dict[str, Any]) -> None:
    """Its logits are those of the full text; the state is that of the full windows."""
    model = make_model(**changes)
    tokens = make_tokens(3)
    cut = 2 * WINDOW + 3

    output = model(tokens[:, :cut])

    assert_close(output.logits, model(tokens).logits[:, :cut])
    assert_same_state(output.state, model(tokens[:, : 2 * WINDOW]).state)


@ALL
def test_generation_is_what_teacher_forcing_gives(changes: dict[str, Any]) -> None:
    """Token by token over window ends, each is the likeliest after all before it."""
    model = make_model(**changes)
    tokens = make_tokens(1.5)

    written = model.generate(tokens, max_new_tokens=3 * WINDOW)

    text = torch.cat([tokens, written.ids], dim=1)
    logits = model(text).logits
    assert torch.equal(logits.argmax(-1)[:, tokens.shape[1] - 1 : -1], written.ids)


@ALL
def test_generation_goes_on_from_its_state_and_tail(changes: dict[str, Any]) -> None:
    """Two calls write what one would have, wherever the first one stops."""
    model = make_model(**changes)
    tokens = make_tokens(2)
    whole = model.generate(tokens, max_new_tokens=20)

    for first in (1, WINDOW, WINDOW + 3):
        begun = model.generate(tokens, max_new_tokens=first)
        more = model.generate(begun.tail, begun.state, max_new_tokens=20 - first)

        assert torch.equal(torch.cat([begun.ids, more.ids], dim=1), whole.ids)
        assert begun.tail.shape[1] + int(begun.state.position[0]) == tokens.shape[1] + first


@ALL
def test_a_window_read_in_pieces_gives_the_logits_of_the_whole(changes: dict[str, Any]) -> None:
    """Pieces of all sizes, over window ends."""
    model = make_model(**changes)
    tokens = make_tokens(4)
    expected = model(tokens).logits

    window = model.open_window(model.initial_state(2))
    end = 0
    for size in (1, 6, 1, 9, 2, 13):
        logits, window = model.extend(window, tokens[:, end : end + size])
        end += size
        assert_close(logits, expected[:, end - 1])
    assert end == tokens.shape[1]


def test_sampling_is_repeatable_and_follows_the_temperature() -> None:
    """The same generator draws the same; near temperature 0 the likeliest token is drawn."""
    model = make_model()
    tokens = make_tokens(1)

    def draw(temperature: float) -> torch.Tensor:
        return model.generate(
            tokens,
            max_new_tokens=12,
            temperature=temperature,
            generator=torch.Generator().manual_seed(1),
        ).ids

    assert torch.equal(draw(3.0), draw(3.0))
    assert not torch.equal(draw(3.0), draw(1e-4))
    assert torch.equal(draw(1e-4), model.generate(tokens, max_new_tokens=12).ids)


@ALL
def test_a_token_changes_nothing_before_it(changes: dict[str, Any]) -> None:
    """Wherever in a window it stands; its own logits and later ones do change."""
    model = make_model(**changes)
    tokens = make_tokens(3, batch_size=1)
    before = model(tokens).logits

    for at in (0, 3, WINDOW - 1, WINDOW, 2 * WINDOW + 1):
        changed = tokens.clone()
        changed[:, at] = (changed[:, at] + 1) % VOCAB
        after = model(changed).logits
        assert torch.equal(after[:, :at], before[:, :at])
        assert (after[:, at:] != before[:, at:]).any(-1).all()


@ALL
def test_later_windows_know_of_earlier_ones(changes: dict[str, Any]) -> None:
    """A token of the first window is felt in the third."""
    model = make_model(**changes)
    tokens = make_tokens(3, batch_size=1)
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % VOCAB

    moved = (model(changed).logits - model(tokens).logits)[:, 2 * WINDOW :].abs().amax()

    assert moved > 1e-9


@ALL
def test_texts_of_a_batch_do_not_touch_each_other(changes: dict[str, Any]) -> None:
    """Each row alone gives what it gives beside others."""
    model = make_model(**changes)
    tokens = make_tokens(3)

    together = model(tokens).logits

    for row in range(2):
        alone = model(tokens[row : row + 1]).logits
        assert_close(alone, together[row : row + 1])


@ALL
def test_a_row_that_is_reset_begins_a_new_text(changes: dict[str, Any]) -> None:
    """The other row goes on as if nothing had happened."""
    model = make_model(**changes)
    state = model(make_tokens(3)).state
    tokens = make_tokens(2, seed=6)

    output = model(tokens, state.reset(torch.tensor([True, False])))

    fresh, carried = model(tokens), model(tokens, state)
    assert_close(output.logits[0], fresh.logits[0])
    assert_close(output.logits[1], carried.logits[1])
    assert (fresh.logits[1] != carried.logits[1]).any()
    assert output.state.position.tolist() == [2 * WINDOW, 5 * WINDOW]


@TRAINED_APART
def test_gradients_cross_windows_of_a_segment_but_not_segments(changes: dict[str, Any]) -> None:
    """A token seen only in the first window is pulled on by the third: in one call alone."""
    model = make_model(**changes)
    tokens = torch.randint(VOCAB - 1, (1, 3 * WINDOW), generator=torch.Generator().manual_seed(1))
    tokens[0, 2] = VOCAB - 1
    # The table is tied: logits of that token would reach it from the output side.
    model.embedding.weight.data[VOCAB - 1] *= 2

    whole = model(tokens)
    first = model(tokens[:, :WINDOW])
    rest = model(tokens[:, WINDOW:], first.state)

    keep = [each for each in range(VOCAB) if each != VOCAB - 1]
    for output, is_reached in ((whole, True), (rest, False)):
        model.zero_grad()
        output.logits[:, -WINDOW:, keep].square().sum().backward()
        gradient = model.embedding.weight.grad
        assert gradient is not None
        assert bool(gradient[VOCAB - 1].abs().sum() > 0) == is_reached
    assert all(not each.requires_grad for each in whole.state.to_tensors().values())


def test_gradients_reach_the_first_window_by_short_memory_and_by_the_queue() -> None:
    """Each path alone carries them, with the other closed."""
    tokens = make_tokens(3, batch_size=1)
    for closed, name in (("num_long_tokens", "to_short"), ("num_short_tokens", "to_long")):
        changes: dict[str, Any] = {closed: 0}
        model = make_model(**changes)

        model(tokens).logits[:, -WINDOW:].square().sum().backward()

        mixers = [each for key, each in model.named_parameters() if f"{name}.mix.weight" in key]
        assert mixers
        assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in mixers)


@ALL
def test_every_weight_is_trained(changes: dict[str, Any]) -> None:
    """All but the last layer's mixer for a next layer that is not there."""
    model = make_model(**changes)
    tokens = make_tokens(3)

    model(tokens, targets=make_tokens(3, seed=9)).loss.backward()

    idle = {
        name
        for name, each in model.named_parameters()
        if each.grad is None or not each.grad.abs().sum()
    }
    assert all(name.startswith("stack.layers.3.to_summary.") for name in idle)


def test_the_loss_is_the_mean_over_targets_that_count() -> None:
    """-100 is left out; where nothing counts the loss is 0, not a NaN."""
    model = make_model()
    tokens, targets = make_tokens(2), make_tokens(2, seed=9)
    targets[:, ::3] = -100

    output = model(tokens, targets=targets)

    losses = torch.nn.functional.cross_entropy(
        output.logits.transpose(1, 2), targets, reduction="none"
    )
    expected = losses[targets != -100].mean()
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert model(tokens, targets=torch.full_like(targets, -100)).loss == 0
    assert model(tokens).loss is None


def test_logits_are_products_with_the_table_over_the_root_of_the_width() -> None:
    """The table of the input is that of the output; norms come before it."""
    model = make_model()
    normed = []
    model.norm.register_forward_hook(lambda module, inputs, output: normed.append(output))

    logits = model(make_tokens(1)).logits

    expected = normed[0] @ model.embedding.weight.T / math.sqrt(16)
    assert_close(logits, expected)


@ALL
def test_autocast_to_bfloat16_trains_and_keeps_the_state_in_float32(
    changes: dict[str, Any],
) -> None:
    """Logits near those in float32, finite gradients, and a state that goes back in."""
    model = make_model(dtype=torch.float32, **changes).train()
    tokens = make_tokens(2)
    exact = model(tokens).logits

    with torch.autocast("cpu", torch.bfloat16):
        output = model(tokens, targets=make_tokens(2, seed=9))
        again = model(tokens, output.state)
    output.loss.backward()

    assert (output.logits.float() - exact).abs().mean() < 0.1
    assert again.logits.isfinite().all()
    dtypes = {each.dtype for each in output.state.to_tensors().values()}
    assert dtypes == {torch.float32, torch.int64}
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    assert all(each.isfinite().all() for each in gradients)


@ALL
def test_dropout_is_of_training_alone(changes: dict[str, Any]) -> None:
    """In training two runs differ; in eval mode they do not."""
    model = make_model(**{**changes, "dropout": 0.3})
    tokens = make_tokens(2)

    assert torch.equal(model(tokens).logits, model(tokens).logits)
    model.train()
    assert not torch.equal(model(tokens).logits, model(tokens).logits)


def test_dropped_attention_is_scaled_up_and_differs_between_texts() -> None:
    """Each text draws its own, even for the same tokens."""
    model = make_model(dropout=0.5).train()
    tokens = make_tokens(1, batch_size=1).expand(2, -1)

    logits = model(tokens).logits

    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(0, 4, dtype=torch.int64),
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(2, 4, dtype=torch.int32),
    ],
)
def test_tokens_of_another_shape_or_kind_are_refused(tokens: torch.Tensor) -> None:
    """Reading and writing alike."""
    model = make_model()

    with pytest.raises(ShapeError, match="tokens"):
        model(tokens)
    with pytest.raises(ShapeError, match="tokens"):
        model.generate(tokens, max_new_tokens=1)


def test_targets_of_another_shape_are_refused() -> None:
    """They are one for each token."""
    with pytest.raises(ShapeError, match="targets"):
        make_model()(make_tokens(1), targets=make_tokens(2))


@pytest.mark.parametrize(
    "changes", [{"num_short_tokens": 4}, {"queue_windows": 5}, VARIANTS["memorizing"]]
)
def test_a_state_of_another_model_is_refused(changes: dict[str, Any]) -> None:
    """Of other sizes or of another architecture."""
    state = make_model(**changes).initial_state(2)
    model = make_model()

    with pytest.raises(ShapeError, match="state"):
        model(make_tokens(1), state)
    with pytest.raises(ShapeError, match="state"):
        model.open_window(state)


def test_a_state_of_another_batch_is_refused() -> None:
    """A row of state for each row of tokens."""
    model = make_model()

    with pytest.raises(ShapeError, match="state"):
        model(make_tokens(1), model.initial_state(3))


def test_the_queue_is_first_in_first_out() -> None:
    """What a window leaves moves to the front as others come, and falls out after the fourth."""
    model = make_model()
    tokens = make_tokens(5)
    states = [model(tokens[:, : end * WINDOW]).state for end in range(1, 6)]
    queues = [state.queue for state in states if isinstance(state, MelodiState)]

    for earlier, later in pairwise(queues):
        assert_close(later[:, :-3], earlier[:, 3:])
    assert not queues[0][:, :-3].any()
    assert queues[0][:, -3:].any()
