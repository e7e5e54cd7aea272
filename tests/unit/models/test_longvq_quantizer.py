"""The codebooks follow the keys, rare codes come back, and a collapse is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memstore.errors import ShapeError
from memstore.models.longvq_config import KeyGradient
from memstore.models.longvq_quantizer import COLLAPSED_BELOW, KeyQuantizer, check_finite


def make_quantizer(**changes: Any) -> KeyQuantizer:
    """Return two heads of six codes for keys four wide."""
    torch.manual_seed(1)
    options = {
        "decay": 0.9,
        "commitment": 0.5,
        "gradient": KeyGradient.LOCAL,
        "learns": True,
        **changes,
    }
    return KeyQuantizer(2, 6, 4, **options)


def make_keys(seed: int = 2) -> torch.Tensor:
    """Return (3, 2, 40, 4): near three points for each head, all about equally often."""
    generator = torch.Generator().manual_seed(seed)
    points = 3 * torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(7))
    chosen = torch.randint(3, (3, 2, 40), generator=generator)
    noise = 0.05 * torch.randn(3, 2, 40, 4, generator=generator)
    return points[torch.arange(2)[:, None], chosen] + noise


def learn(quantizer: KeyQuantizer, keys: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
    """Run a batch and take it in."""
    quantized = quantizer(keys, mask, quantizer.centroids())
    quantizer.learn(quantized.use)
    return quantized


def test_a_key_has_the_nearest_centroid() -> None:
    """And stands for it, with the gradient of the key."""
    quantizer, keys = make_quantizer(), make_keys().requires_grad_()
    centroids = quantizer.centroids()

    quantized = quantizer(keys, None, centroids)

    distances = (keys[..., None, :] - centroids[None, :, None]).norm(dim=-1)
    assert torch.equal(quantized.codes, distances.argmin(-1))
    heads = torch.arange(2)[:, None]
    assert torch.equal(quantized.keys, centroids[heads, quantized.codes])
    (grad,) = torch.autograd.grad(quantized.keys.sum(), keys)
    assert torch.equal(grad, torch.ones_like(keys))


def test_a_codebook_finds_the_keys() -> None:
    """Every point gets a code or more."""
    quantizer = make_quantizer()
    for seed in range(60):
        quantized = learn(quantizer, make_keys(seed))

    assert float((quantized.keys - make_keys(59)).abs().max()) < 0.3
    assert (quantizer.usage_perplexity() > 2.9).all()


def test_averages_are_those_of_the_paper() -> None:
    """Counts and sums decay alike; the centroid is their quotient."""
    quantizer = make_quantizer()
    learn(quantizer, make_keys(0))
    counts, sums = quantizer.counts.clone(), quantizer.sums.clone()

    use = learn(quantizer, make_keys(1)).use

    wanted_counts = 0.9 * counts + 0.1 * use.counts
    is_kept = wanted_counts >= 0.05 * wanted_counts.mean(1, keepdim=True)
    wanted = (0.9 * sums + 0.1 * use.sums) / wanted_counts[..., None]
    assert is_kept.any()
    torch.testing.assert_close(quantizer.codebook[is_kept], wanted[is_kept])
    assert float(use.counts.sum()) == 3 * 2 * 40


def test_a_code_that_is_not_used_is_put_where_a_key_is() -> None:
    """Five of six centroids far from all keys do not stay there."""
    quantizer = make_quantizer()
    learn(quantizer, make_keys(0))
    quantizer.codebook[:, 1:] = 100
    quantizer.sums[:, 1:] = 100 * quantizer.counts[:, 1:, None]

    for seed in range(60):
        learn(quantizer, make_keys(seed))

    assert float(quantizer.codebook.abs().max()) < 20
    assert (quantizer.usage_perplexity() > 2.9).all()


def test_keys_that_are_all_alike_have_one_code() -> None:
    """Codes are put where they are again and again, but none of them tells keys apart."""
    quantizer = make_quantizer()
    keys = make_keys()
    keys[:, 1] = keys[0, 1, 0]
    for _ in range(60):
        learn(quantizer, keys)
    several, one = quantizer.usage_perplexity().tolist()
    assert several > 2.9
    assert one < COLLAPSED_BELOW


def test_padding_teaches_nothing() -> None:
    """Neither counts nor sums nor samples, nor the loss."""
    keys, mask = make_keys(), torch.ones(3, 40, dtype=torch.bool)
    mask[:, 20:] = False
    other = keys.clone()
    other[:, :, 20:] = 50
    first, second = make_quantizer(), make_quantizer()

    for batch in (keys, other):
        learn(first, keys, mask)
        losses = [learn(second, batch, mask).loss]
    assert torch.equal(first.codebook, second.codebook)
    assert torch.equal(first.counts, second.counts)
    assert all(float(loss) < 50 for loss in losses)


def test_a_second_run_finds_the_same_codes() -> None:
    """Whatever was learnt in between: the centroids are an argument."""
    quantizer, keys = make_quantizer(), make_keys()
    centroids = quantizer.centroids()
    before = quantizer(keys, None, centroids)

    quantizer.learn(before.use)
    after = quantizer(keys, None, centroids)

    assert not torch.equal(quantizer.centroids(), centroids)
    assert torch.equal(after.codes, before.codes)


@pytest.mark.parametrize("gradient", KeyGradient)
def test_far_queries_teach_as_the_option_says(gradient: KeyGradient) -> None:
    """Through the centroids: nothing, the keys of a code alike, or the codebook."""
    quantizer, keys = make_quantizer(gradient=gradient), make_keys().requires_grad_()
    learn(quantizer, keys.detach())

    quantized = quantizer(keys, None, quantizer.centroids())
    weights = torch.randn(2, 6, 4)

    if gradient is KeyGradient.LEARNED:
        (quantized.centroids * weights).sum().backward()
        torch.testing.assert_close(quantizer.codebook.grad, weights)
    elif gradient is KeyGradient.MEANS:
        (quantized.centroids * weights).sum().backward()
        codes = quantized.codes
        share = 1 / quantized.use.counts[torch.arange(2)[:, None], codes]
        wanted = weights[torch.arange(2)[:, None], codes] * share[..., None]
        torch.testing.assert_close(keys.grad, wanted)
    else:
        assert not quantized.centroids.requires_grad


def test_a_learned_codebook_is_drawn_to_its_keys() -> None:
    """By a loss of its own; the averages only count."""
    quantizer, keys = make_quantizer(gradient=KeyGradient.LEARNED), make_keys()
    learn(quantizer, keys)
    with torch.no_grad():
        quantizer.codebook.add_(0.2)

    before = quantizer(keys, None, quantizer.centroids())
    (grad,) = torch.autograd.grad(before.loss, quantizer.codebook)
    with torch.no_grad():
        quantizer.codebook.sub_(grad)
    after = quantizer(keys, None, quantizer.centroids())

    assert float(after.loss.detach()) < float(before.loss.detach())


def test_a_frozen_codebook_stays() -> None:
    """To the bit; its use is still counted."""
    quantizer = make_quantizer(learns=False)
    before = quantizer.centroids()
    for seed in range(3):
        learn(quantizer, make_keys(seed))

    assert torch.equal(quantizer.centroids(), before)
    assert (quantizer.usage_perplexity() < 6).all()


def test_drawn_centroids_are_as_long_as_keys() -> None:
    """Short ones would be the nearest of most keys, whatever these are."""
    centroids = make_quantizer(learns=False).centroids()
    torch.testing.assert_close(centroids.norm(dim=2), torch.full((2, 6), 2**0.5), rtol=0.01, atol=0)


def test_a_text_shorter_than_the_codebook_is_enough() -> None:
    """Some centroids are then the same key; they stay as long as keys are."""
    quantizer = make_quantizer()
    keys = torch.nn.functional.normalize(make_keys()[:1, :, :1], dim=3)
    for _ in range(200):
        quantized = learn(quantizer, keys)
    assert quantized.keys.isfinite().all()
    assert (quantizer.usage_perplexity() <= 6.01).all()
    torch.testing.assert_close(quantizer.centroids().norm(dim=2), torch.ones(2, 6))


def test_keys_that_are_not_finite_are_refused() -> None:
    """The layer is named."""
    quantizer, keys = make_quantizer(), make_keys()
    good = quantizer(keys, None, quantizer.centroids()).use
    keys[0, 0, 0, 0] = torch.nan
    bad = quantizer(keys, None, quantizer.centroids()).use

    check_finite([])
    check_finite([good])
    with pytest.raises(ShapeError, match="layer 1"):
        check_finite([good, bad])


def test_buffers_stay_wide_when_the_model_is_cast() -> None:
    """An average in bfloat16 would not move."""
    quantizer = make_quantizer().bfloat16()
    assert {each.dtype for each in quantizer.buffers()} == {torch.float32, torch.int64}

    quantized = learn(quantizer, make_keys().bfloat16())

    assert quantized.keys.dtype == torch.bfloat16
    assert quantizer.double().codebook.dtype == torch.float64
