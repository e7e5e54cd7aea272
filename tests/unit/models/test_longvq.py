"""LongVQ as a whole: in parts, in both directions, with and without activations kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memstore.errors import ConfigError, ShapeError
from memstore.models.longvq import LongVQ, LongVQClassifier
from memstore.models.longvq_config import Attention, KeyGradient
from memstore.models.longvq_memory import available_bytes, estimate_bytes
from tests.tiny_longvq import (
    VARIANTS,
    VOCAB,
    WINDOW,
    make_mask,
    make_model,
    make_tokens,
    tiny_config,
)

ALL = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())


@ALL
def test_a_text_in_parts_is_the_text(changes: dict[str, Any]) -> None:
    """Parts of any length, shorter and longer than a block, with holes."""
    model, tokens, mask = make_model(**changes), make_tokens(120), make_mask(120)
    wanted = model(tokens, mask).hidden

    state, outputs, start = model.initial_state(2), [], 0
    for size in (1, 2, 70, 1, 4, 42):
        some = slice(start, start + size)
        output = model(tokens[:, some], mask[:, some], state)
        assert output.state is not None
        state, start = output.state, start + size
        outputs.append(output.hidden)

    torch.testing.assert_close(torch.cat(outputs, dim=1), wanted, rtol=0, atol=1e-10)
    assert torch.equal(state.position, mask.sum(1))


@ALL
def test_a_causal_model_sees_nothing_ahead(changes: dict[str, Any]) -> None:
    """A token changes its own state and later ones, never earlier ones."""
    model, tokens = make_model(**changes), make_tokens(60)
    other = tokens.clone()
    other[:, 33] = (other[:, 33] + 1) % VOCAB

    before, after = model(tokens).hidden, model(other).hidden

    torch.testing.assert_close(after[:, :33], before[:, :33], rtol=0, atol=1e-12)
    assert (after[:, 33] != before[:, 33]).any()


@ALL
def test_a_bidirectional_model_sees_all(changes: dict[str, Any]) -> None:
    """The first state knows of the last token, unless the band is all there is."""
    model, tokens = make_model(is_causal=False, **changes), make_tokens(60)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % VOCAB

    moved = (model(other).hidden - model(tokens).hidden).abs().amax(dim=(0, 2))

    assert bool(moved[-1] > 0)
    assert bool(moved[0] > 0)


@ALL
@pytest.mark.parametrize("is_causal", [True, False])
def test_padding_and_its_side_do_not_matter(changes: dict[str, Any], is_causal: bool) -> None:
    """A text alone, and the same text among padding, on the left or on the right."""
    model, tokens = make_model(is_causal=is_causal, **changes), make_tokens(40)
    wanted = model(tokens).hidden

    for left, right in ((0, 13), (7, 6)):
        padded = torch.nn.functional.pad(tokens, (left, right), value=3)
        mask = torch.zeros_like(padded, dtype=torch.bool)
        mask[:, left : left + 40] = True
        got = model(padded, mask).hidden
        torch.testing.assert_close(got[:, left : left + 40], wanted, rtol=0, atol=1e-10)
        assert not got[~mask].any()


@ALL
@pytest.mark.parametrize("is_causal", [True, False])
def test_checkpointing_changes_no_gradient(changes: dict[str, Any], is_causal: bool) -> None:
    """Nor the loss, nor what the codebooks learn, though blocks run twice."""
    results = []
    for checkpointing in (False, True):
        model = make_model(is_causal=is_causal, checkpointing=checkpointing, **changes).train()
        tokens = make_tokens(60)
        loss = model.loss(model(tokens, make_mask(60)), tokens)
        loss.backward()
        grads = [each.grad for each in model.parameters() if each.grad is not None]
        results.append([loss.detach(), *grads, *model.buffers()])

    kept, again = results
    assert len(kept) == len(again)
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@ALL
def test_every_parameter_learns(changes: dict[str, Any]) -> None:
    """Each has a gradient that is not zero everywhere."""
    model = make_model(is_causal=False, **changes).train()
    tokens = make_tokens(60)

    model.loss(model(tokens), tokens).backward()

    idle = [
        name
        for name, each in model.named_parameters()
        if each.grad is None or not each.grad.any() or not each.grad.isfinite().all()
    ]
    assert idle == []


def test_a_batch_moves_the_codebooks_in_training_alone() -> None:
    """With gradients or without; in eval mode never."""
    model = make_model()
    before = [each.clone() for each in model.buffers()]

    model(make_tokens(50))
    assert all(torch.equal(one, two) for one, two in zip(before, model.buffers(), strict=True))
    with torch.no_grad():
        model.train()(make_tokens(50))
    assert any(not torch.equal(one, two) for one, two in zip(before, model.buffers(), strict=True))


@pytest.mark.parametrize("is_causal", [True, False])
def test_moments_train_as_dense_attention_does(is_causal: bool) -> None:
    """The same output whatever the option; moments as wide as values give the same gradients."""
    tokens, outputs, grads = make_tokens(60), {}, {}
    gradients = set(KeyGradient) - {KeyGradient.LEARNED}  # another codebook
    for gradient in gradients:
        model = make_model(is_causal=is_causal, key_gradient=gradient, moment_width=10).train()
        output = model(tokens, make_mask(60))
        model.loss(output, tokens).backward()
        outputs[gradient] = output.hidden
        grads[gradient] = model.blocks[0].from_mixed.weight.grad

    for gradient in gradients:
        wanted = outputs[KeyGradient.DENSE]
        torch.testing.assert_close(outputs[gradient], wanted, rtol=0, atol=1e-10)
    exact = grads[KeyGradient.DENSE]
    torch.testing.assert_close(grads[KeyGradient.MOMENTS], exact, rtol=1e-9, atol=1e-10)
    assert not torch.allclose(grads[KeyGradient.LOCAL], exact, rtol=1e-3)
    assert not torch.allclose(grads[KeyGradient.MEANS], exact, rtol=1e-3)


@pytest.mark.parametrize("is_causal", [True, False])
def test_short_texts_have_the_exact_gradient(is_causal: bool) -> None:
    """However narrow moments are: up to as many tokens as there are centroids and near keys."""
    longest = 7 + (2 if is_causal else 3) * WINDOW

    def gradients(length: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, found = make_tokens(length), []
        for gradient in (KeyGradient.AUTO, KeyGradient.DENSE):
            model = make_model(is_causal=is_causal, key_gradient=gradient, moment_width=1).train()
            model.loss(model(tokens), tokens).backward()
            found.append(model.blocks[0].from_mixed.weight.grad)
        return found[0], found[1]

    torch.testing.assert_close(*gradients(longest), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(*gradients(longest + 1), rtol=1e-3)
    if is_causal:
        model = make_model().train()
        assert model(make_tokens(3), None, model.initial_state(2)).state is not None


def test_full_attention_is_an_arm() -> None:
    """Keys as they are, to all tokens; whole texts alone."""
    model = make_model(attention=Attention.FULL)
    assert model(make_tokens(60)).hidden.isfinite().all()
    assert len(model.usage_perplexity()) == 0
    with pytest.raises(ConfigError, match="whole texts"):
        model.initial_state(2)


def test_dense_training_reads_whole_texts() -> None:
    """In eval mode the same model reads in parts."""
    model = make_model(key_gradient=KeyGradient.DENSE)
    state = model.initial_state(2)

    assert model(make_tokens(5), None, state).state is not None
    with pytest.raises(ConfigError, match="give no state"):
        model.train()(make_tokens(5), None, state)


def test_what_is_kept_is_linear_in_length() -> None:
    """A training pass over twice the text keeps twice the bytes, or a little less."""

    def kept_bytes(length: int, **changes: Any) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model = make_model(is_causal=False, **changes).train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(make_tokens(length)).hidden.sum()
        assert loss.requires_grad
        return sum(kept.values())

    of_one, of_three = (kept_bytes(2000, num_layers=count) for count in (1, 3))
    assert of_three < 2.1 * kept_bytes(1000, num_layers=3)
    # The last block keeps what it needs, the others what enters them.
    assert kept_bytes(2000, num_layers=3, checkpointing=True) < of_one + (of_three - of_one) / 8


def test_loss_counts_what_has_a_target() -> None:
    """The mean over these, and no logits of the others."""
    model, tokens = make_model(), make_tokens(30)
    output = model(tokens)
    targets = torch.full_like(tokens, -100)
    targets[0, 3], targets[1, 20] = 5, 6

    wanted = -(
        torch.log_softmax(model.predict(output.hidden[0, 3]), -1)[5]
        + torch.log_softmax(model.predict(output.hidden[1, 20]), -1)[6]
    )

    got = model.loss(output, targets) - output.quantizer_loss
    torch.testing.assert_close(got.double(), wanted / 2, rtol=0, atol=1e-5)
    nothing = model.loss(output, torch.full_like(tokens, -100))
    torch.testing.assert_close(nothing.double(), output.quantizer_loss.double())


def test_a_classifier_reads_the_mean_of_the_tokens() -> None:
    """Padding has no part in it."""
    model = LongVQClassifier(make_model(is_causal=False), 3).double()
    tokens = make_tokens(30)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 25:] = False

    logits, loss = model(tokens, mask)

    torch.testing.assert_close(logits, model(tokens[:, :25])[0], rtol=0, atol=1e-10)
    assert logits.shape == (2, 3)
    assert loss.shape == ()


def test_a_collapsed_codebook_is_reported() -> None:
    """With its layer and head."""
    model = make_model()
    assert model.collapsed_codebooks() == []

    model.blocks[1].quantizer.in_use[1] = 1.2

    assert model.collapsed_codebooks() == [(1, 1)]
    assert model.usage_perplexity().shape == (2, 2)


def test_nan_is_refused_and_nothing_learnt() -> None:
    """In a weight, as training that went wrong leaves it."""
    model = make_model().train()
    before = [each.clone() for each in model.buffers()]
    model.blocks[1].ffn[0].weight.data[0, 0] = torch.nan

    with pytest.raises(ShapeError, match="NaN or infinity; nothing was learnt"):
        model(make_tokens(30))
    assert all(torch.equal(one, two) for one, two in zip(before, model.buffers(), strict=True))
    with pytest.raises(ShapeError, match="row 0"):
        model.eval()(make_tokens(30))


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("is_causal", [True, False])
def test_texts_shorter_than_a_block_and_than_the_codebook(length: int, is_causal: bool) -> None:
    """One token and up, in training too."""
    model = make_model(is_causal=is_causal).train()
    output = model(make_tokens(length))
    model.loss(output, make_tokens(length)).backward()
    assert output.hidden.shape == (2, length, 16)


def test_bad_input_is_refused() -> None:
    """Empty texts, floats, masks, targets and states that do not fit."""
    model, tokens = make_model(), make_tokens(10)
    for bad in (tokens[:, :0], tokens[0], tokens.float(), tokens[:0]):
        with pytest.raises(ShapeError, match="tokens: got"):
            model(bad)
    for mask in (torch.ones(2, 9, dtype=torch.bool), torch.ones(2, 10)):
        with pytest.raises(ShapeError, match="mask: got"):
            model(tokens, mask)
    with pytest.raises(ShapeError, match="targets: got"):
        model.loss(model(tokens), tokens[:, 1:])
    with pytest.raises(ShapeError, match="state: got"):
        model(tokens, None, model.initial_state(3))
    with pytest.raises(ConfigError, match="is_causal"):
        make_model(is_causal=False).initial_state(2)


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    """Under the mask they are nothing."""
    model = make_model()
    tokens = make_tokens(6)
    vocab_size = model.config.vocab_size
    for wrong in (-1, vocab_size):
        changed = tokens.clone()
        changed[0, 2] = wrong
        with pytest.raises(ShapeError, match=f"wanted 0 to {vocab_size - 1}"):
            model(changed)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[0, 2] = False
        assert torch.equal(model(changed, mask).hidden, model(tokens, mask).hidden)


def test_a_container_with_a_limit_has_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the machine has; without a limit, it has that. Files in memory make way."""
    monkeypatch.setattr("memstore.models.longvq_memory._CGROUP", tmp_path)
    of_machine = available_bytes(torch.device("cpu"))
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.max").write_text("max\n")
    free = available_bytes(torch.device("cpu"))
    assert (free is None) == (of_machine is None)
    assert free is None or free > 2**20
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 2500\nactive_file 100\ninactive_file 300\n")
    assert available_bytes(torch.device("cpu")) in (None, 2400)


def test_a_text_longer_than_memory_allows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is computed, with the bytes it would take and what to do."""
    monkeypatch.setattr("memstore.models.longvq_memory.available_bytes", lambda device: 2**30)
    model = make_model(is_causal=False)
    tokens = make_tokens(1).expand(2, 3_000_000)

    with pytest.raises(ConfigError, match=r"GiB on cpu, which has 1\.0 GiB.*checkpointing") as info:
        model(tokens)
    assert int(info.value.details["wanted_bytes"]) > int(info.value.details["available_bytes"])


def test_what_was_there_once_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process keeps what it freed, so that later passes would find less than the first."""
    monkeypatch.setattr("memstore.models.longvq_memory._SMALL", 0)
    available = [2**30]
    monkeypatch.setattr("memstore.models.longvq_memory.available_bytes", lambda _: available[0])
    model = make_model(is_causal=False)
    model(make_tokens(40))
    available[0] = 1000

    model(make_tokens(40))
    with pytest.raises(ConfigError, match="would take"):
        model(make_tokens(80))


def test_estimates_follow_the_length() -> None:
    """Linear for codes; not for full attention; less without activations."""
    config, full = tiny_config(), tiny_config(attention=Attention.FULL)

    assert estimate_bytes(config, 2, 2000) == 2 * estimate_bytes(config, 2, 1000)
    assert estimate_bytes(full, 2, 2000) > 3 * estimate_bytes(full, 2, 1000)
    kept = estimate_bytes(config, 2, 1000)
    assert estimate_bytes(config, 2, 1000, checkpointing=True) < kept
    assert estimate_bytes(config, 2, 1000, keeps_activations=False) < kept / 2
    logits = 4 * 2000 * config.vocab_size
    assert estimate_bytes(config, 2, 1000, num_targets=2000) >= kept + 3 * logits
    available = available_bytes(torch.device("cpu"))
    assert available is None or available > 2**20


def test_a_model_in_bfloat16_reads() -> None:
    """Both ways, and in parts; codebooks stay wide."""
    for is_causal in (True, False):
        model = make_model(is_causal=is_causal).bfloat16()
        hidden = model(make_tokens(40), make_mask(40)).hidden
        assert hidden.dtype == torch.bfloat16
    causal = make_model().bfloat16()
    output = causal(make_tokens(10), None, causal.initial_state(2))
    assert output.state is not None
    assert causal(make_tokens(10), None, output.state).hidden.isfinite().all()


def test_defaults_build_a_model() -> None:
    """The config that nobody changed."""
    model = LongVQ(tiny_config(num_heads=1, is_causal=False), checkpointing=True)
    assert model.checkpointing
    assert model(make_tokens(3)).hidden.shape == (2, 3, 16)
