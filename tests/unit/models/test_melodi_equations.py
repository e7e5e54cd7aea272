"""The layers against the equations, written a second time in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.models.t5.modeling_t5 import T5Attention

from memstore.models.melodi import Melodi
from memstore.models.melodi_layers import KeyValues, position_buckets
from memstore.models.melodi_stack import MelodiStack
from memstore.models.melodi_state import MelodiState
from tests.tiny_melodi import VARIANTS, VOCAB, WINDOW, make_model, make_tokens

Array = NDArray[np.float64]
Weights = dict[str, Array]
HEADS = 2


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    total: Array = shares / shares.sum(-1, keepdims=True)
    return total


def norm(hidden: Array, scale: Array) -> Array:
    """Divide by the root mean square; a scale, no mean, no bias."""
    normed: Array = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6) * scale
    return normed


def unit(vectors: Array) -> Array:
    """Scale to length 1."""
    scaled: Array = vectors / np.sqrt((vectors**2).sum(-1, keepdims=True) + 1e-6)
    return scaled


def bucket(distance: int) -> int:
    """Return T5's bucket of a distance to the left: 32 of them, 16 of one distance each."""
    if distance < 16:
        return distance
    return min(31, 16 + int(np.log(distance / 16) / np.log(128 / 16) * 16))


def projected(hidden: Array, weights: Weights, kind: str) -> Array:
    """Return (T, H, D / H) of the normalized input (T, D)."""
    matrices = {
        "query": weights["block.heads.query.weight"],
        "key": weights["block.heads.key_value.weight"][:16],
        "value": weights["block.heads.key_value.weight"][16:],
    }
    normed = norm(hidden, weights["block.heads.norm.weight"])
    return (normed @ matrices[kind].T).reshape(len(hidden), HEADS, -1)


def self_attention(short: Array, read: Array, weights: Weights) -> Array:
    """Attend from [tokens; summary] to what is strictly before, with the memory first: (T, D)."""
    everything = np.concatenate([short, read])
    queries = unit(projected(read, weights, "query"))
    keys = unit(projected(everything, weights, "key"))
    values = projected(everything, weights, "value")
    out = np.zeros_like(queries)
    for head in range(HEADS):
        scale = abs(weights["block.heads.scale"][head])
        for row in range(len(read)):
            place = len(short) + row
            logits = [
                queries[row, head] @ keys[column, head]
                + weights["block.position_bias"][head, bucket(place - column)]
                for column in range(place)
            ]
            if logits:
                out[row, head] = softmax(np.array(logits) * scale) @ values[:place, head]
    return out


def cross_attention(queue: Array, read: Array, weights: Weights) -> Array:
    """Attend from the same queries to all of the queue; no position, no mask."""
    queries = unit(projected(read, weights, "query"))
    keys = unit(projected(queue, weights, "key"))
    values = projected(queue, weights, "value")
    scale = np.abs(weights["block.heads.scale"])[:, None, None]
    shares = softmax(np.einsum("qhd,khd->hqk", queries, keys) * scale)
    read_of_it: Array = np.einsum("hqk,khd->qhd", shares, values)
    return read_of_it


def finish(read: Array, attended: Array, weights: Weights) -> Array:
    """Add attention and the feed-forward part, each with its residual."""
    hidden = read + attended.reshape(len(read), -1) @ weights["block.out.weight"].T
    inner = norm(hidden, weights["block.ffn_norm.weight"]) @ weights["block.ffn_in.weight"].T
    return hidden + np.maximum(inner, 0) @ weights["block.ffn_out.weight"].T


def mix(tokens: Array, summary: Array, weights: Weights, name: str, *, residual: bool) -> Array:
    """Map along the token axis, the same for each channel."""
    if residual:
        tokens = norm(tokens, weights[f"{name}.token_norm.weight"])
        normed = norm(summary, weights[f"{name}.summary_norm.weight"])
    else:
        normed = summary
    mixed: Array = weights[f"{name}.mix.weight"] @ np.concatenate([tokens, normed])
    mixed = mixed + weights[f"{name}.mix.bias"][:, None]
    return summary + mixed if residual else mixed


def read_text(model: Melodi, ids: list[int]) -> tuple[Array, Array, Array]:
    """Return logits, short-term memories (layers, S, D) and queue of a text of full windows."""
    config = model.config
    everything = {name: each.numpy() for name, each in model.state_dict().items()}
    layers: list[Weights] = [
        {
            name.removeprefix(f"stack.layers.{index}."): each
            for name, each in everything.items()
            if name.startswith(f"stack.layers.{index}.")
        }
        for index in range(config.num_layers)
    ]
    embedded = everything["embedding.weight"][ids]
    short = [np.zeros((config.num_short_tokens, 16))] * config.num_layers
    queue = np.zeros((config.queue_length, 16))
    outputs = []
    for start in range(0, len(ids), WINDOW):
        tokens, summary = embedded[start : start + WINDOW], everything["stack.summary"]
        for index, weights in enumerate(layers):
            read = np.concatenate([tokens, summary])
            attended = self_attention(short[index], read, weights)
            if index == config.long_index:
                share = 1 / (1 + np.exp(-weights["block.gate"]))
                far = cross_attention(queue, read, weights)
                attended = share * attended + (1 - share) * far
            read = finish(read, attended, weights)
            tokens, summary = read[:WINDOW], read[WINDOW:]
            if index == config.long_index:
                increment = mix(tokens, summary, weights, "to_long", residual=False)
                queue = np.concatenate([queue, increment])[len(increment) :]
            is_same_size = config.num_short_tokens == config.num_summary_tokens
            short[index] = mix(tokens, summary, weights, "to_short", residual=is_same_size)
            summary = mix(tokens, summary, weights, "to_summary", residual=True)
        outputs.append(tokens)
    normed = norm(np.concatenate(outputs), everything["norm.weight"])
    return normed @ everything["embedding.weight"].T / 4, np.stack(short), queue


@pytest.mark.parametrize("changes", [{}, {"num_summary_tokens": 7}, {"long_layer": 0}])
def test_the_model_is_what_the_equations_say(changes: dict[str, Any]) -> None:
    """Six windows: logits, each layer's short-term memory, and a queue that has overrun."""
    model = make_model(**changes)
    tokens = make_tokens(6, batch_size=1)
    logits, short, queue = read_text(model, tokens[0].tolist())

    output = model(tokens)

    assert isinstance(output.state, MelodiState)
    np.testing.assert_allclose(output.logits[0].detach().numpy(), logits, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(output.state.short[:, 0].numpy(), short, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(output.state.queue[0].numpy(), queue, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("index", [0, 2])
def test_one_layer_is_what_the_equations_say(index: int) -> None:
    """A short-term and the long-term layer, alone, with full memories."""
    model = make_model()
    assert isinstance(model.stack, MelodiStack)
    layer = model.stack.layers[index]
    weights = {name: each.numpy() for name, each in layer.state_dict().items()}
    rng = np.random.default_rng(0)
    short, read = rng.normal(size=(5, 16)), rng.normal(size=(WINDOW + 5, 16))
    queue = rng.normal(size=(12, 16))
    state = MelodiState(
        position=torch.tensor([40]),
        short=torch.from_numpy(short).expand(4, 1, -1, -1),
        queue=torch.from_numpy(queue)[None],
    )

    memory = model.stack.open(state)[index]
    got, _ = model.stack.blocks()[index].extend(torch.from_numpy(read)[None], memory)

    attended = self_attention(short, read, weights)
    if index == 2:
        share = 1 / (1 + np.exp(-weights["block.gate"]))
        attended = share * attended + (1 - share) * cross_attention(queue, read, weights)
    expected = finish(read, attended, weights)
    np.testing.assert_allclose(got[0].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_without_branching_the_summary_goes_both_ways() -> None:
    """As it is, to the next layer and to the next window."""
    model = make_model(**VARIANTS["no branching"], num_layers=1, num_long_tokens=0)
    assert isinstance(model.stack, MelodiStack)
    tokens = make_tokens(1, batch_size=1)
    weights = {name: each.numpy() for name, each in model.stack.layers[0].state_dict().items()}
    hidden = model.embedding(tokens)[0].detach().numpy()
    read = np.concatenate([hidden, model.stack.summary.detach().numpy()])

    state = model(tokens).state

    attended = self_attention(np.zeros((5, 16)), read, weights)
    expected = finish(read, attended, weights)[WINDOW:]
    np.testing.assert_allclose(state.short[0, 0].numpy(), expected, rtol=1e-10, atol=1e-12)


def test_positions_fall_in_the_buckets_of_t5() -> None:
    """Those of its decoder, to beyond the furthest."""
    distances = torch.arange(300)

    expected = T5Attention._relative_position_bucket(
        -distances, bidirectional=False, num_buckets=32, max_distance=128
    )

    assert torch.equal(position_buckets(distances), expected)
    assert position_buckets(torch.tensor([112, 113, 10_000])).tolist() == [30, 31, 31]


@pytest.mark.parametrize(("num_before", "length"), [(5, 7), (150, 4), (3, 1), (0, 6)])
def test_the_bias_is_of_the_distance_and_hides_the_token_itself(
    num_before: int, length: int
) -> None:
    """Strictly earlier keys alone; the first token of all has a stand-in, read as nothing."""
    block = make_model().stack.blocks()[1]
    table, scale = block.position_bias, block.heads.scale.abs()

    bias = block.make_bias(num_before, length)

    assert bias.shape == (HEADS, length, num_before + length)
    for row in range(length):
        place = num_before + row
        for column in range(num_before + length):
            got = bias[:, row, column]
            if column < place:
                torch.testing.assert_close(got, table[:, bucket(place - column)] * scale)
            elif (num_before, row, column) == (0, 0, 0):
                assert not got.any()
            else:
                assert got.isneginf().all()


def test_a_token_does_not_attend_to_itself() -> None:
    """What it reads does not move with its own key and value; what the next one reads does."""
    block = make_model().stack.blocks()[1]
    hidden = torch.randn(1, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    queries, own = block.heads.project(hidden)
    bias = block.make_bias(0, 4)
    before = block.read_near(queries, own, bias)

    third = torch.tensor([0, 0, 1, 0])[:, None]
    after = block.read_near(queries, KeyValues(own.keys + third, own.values + third), bias)

    assert torch.equal(after[:, :, :3], before[:, :, :3])
    assert not torch.equal(after[:, :, 3], before[:, :, 3])
    assert not before[:, :, 0].any()


def test_tokens_do_not_see_the_summary_of_their_window() -> None:
    """Other summary tokens: the same first window, another second one."""
    model = make_model()
    assert isinstance(model.stack, MelodiStack)
    tokens = make_tokens(2, batch_size=1)
    before = model(tokens)

    model.stack.summary.data += 1
    after = model(tokens)

    assert torch.equal(after.logits[:, :WINDOW], before.logits[:, :WINDOW])
    assert not torch.equal(after.logits[:, WINDOW:], before.logits[:, WINDOW:])


def test_empty_slots_of_the_queue_draw_attention_to_nothing() -> None:
    """A zero has logit 0 and value 0: it takes its share and gives none, unless it is masked."""
    sink, masked = make_model(), make_model(**VARIANTS["masked slots"])
    tokens = make_tokens(1, batch_size=1)
    state = sink(tokens).state
    assert isinstance(state, MelodiState)

    memories = [model.stack.open(state)[2] for model in (sink, masked)]

    far = memories[0].far
    assert far is not None
    assert not far.keys[:, :, :-3].any()
    assert not far.values[:, :, :-3].any()
    assert memories[0].far_mask is None
    assert memories[1].far_mask is not None
    assert memories[1].far_mask.flatten().tolist() == [False] * 9 + [True] * 3
    queries = torch.zeros(1, HEADS, 1, 8, dtype=torch.float64)
    reads = [sink.stack.blocks()[2].heads.read(queries, far, each.far_mask) for each in memories]
    torch.testing.assert_close(reads[0], reads[1] * 3 / 12)


def test_masks_do_not_matter_once_the_queue_is_full_or_while_it_is_empty() -> None:
    """They tell the two apart in between."""
    sink, masked = make_model(), make_model(**VARIANTS["masked slots"])
    tokens = make_tokens(6, batch_size=1)
    states = [sink(tokens[:, : end * WINDOW]).state for end in range(6)[1:]]
    follow = make_tokens(1, batch_size=1, seed=8)

    def differ(state: Any) -> bool:
        return bool((sink(follow, state).logits - masked(follow, state).logits).abs().max() > 1e-9)

    assert [differ(each) for each in states] == [True, True, True, False, False]
    assert not differ(sink.initial_state(1))


def test_a_head_whose_scale_is_zero_or_negative_is_well_behaved() -> None:
    """The size of the scale counts; at zero, attention is even and finite."""
    model = make_model()
    tokens = make_tokens(2, batch_size=1)
    before = model(tokens).logits
    for block in model.stack.blocks():
        block.heads.scale.data.neg_()

    assert torch.equal(model(tokens).logits, before)
    for block in model.stack.blocks():
        block.heads.scale.data.zero_()
    model(tokens).logits.sum().backward()
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)
    assert before.shape[-1] == VOCAB
