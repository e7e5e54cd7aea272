"""Attention through codes and a band equals attention to every token, output and gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memstore.models.longvq_attention import (
    AttentionRule,
    Past,
    dense_attention,
    factored_attention,
)
from memstore.models.longvq_config import Weighting

RULES = pytest.mark.parametrize(
    "rule",
    [
        AttentionRule(window=4, weighting=weighting, is_causal=is_causal)
        for weighting in Weighting
        for is_causal in (True, False)
    ],
    ids=str,
)


class Case(NamedTuple):
    """One call, all of it with gradients."""

    queries: torch.Tensor
    near_keys: torch.Tensor
    values: torch.Tensor
    codes: torch.Tensor
    codebook: torch.Tensor
    bias: torch.Tensor
    mask: torch.Tensor | None


def make_case(
    rule: AttentionRule,
    *,
    length: int,
    num_codes: int = 5,
    batch_size: int = 2,
    num_heads: int = 2,
    has_holes: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Return random tensors; near keys are the centroids, as leaves of their own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    shape = batch_size, num_heads, length
    codes = torch.randint(num_codes, shape, generator=generator)
    codebook = normal(num_heads, num_codes, 6)
    near_keys = codebook[torch.arange(num_heads)[:, None], codes]
    mask = torch.rand(batch_size, length, generator=generator) > 0.4 if has_holes else None
    return Case(
        queries=normal(*shape, 6).mul(2).requires_grad_(),
        near_keys=near_keys.clone().requires_grad_(),
        values=normal(*shape, 7).requires_grad_(),
        codes=codes,
        codebook=codebook.requires_grad_(),
        bias=normal(num_heads, rule.num_biases).requires_grad_(),
        mask=mask,
    )


def assert_exact_by_moments(case: Case, rule: AttentionRule) -> None:
    """Compare with attention to keys that stand for themselves, near and far."""
    sources = case.queries, case.near_keys, case.values, case.bias
    got = factored_attention(*case, rule, moment_width=7)
    wanted = dense_attention(case.queries, case.near_keys, case.values, case.bias, case.mask, rule)
    weights = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(9))
    for one, other in zip(
        torch.autograd.grad(got, sources, weights),
        torch.autograd.grad(wanted, sources, weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def dense(case: Case, rule: AttentionRule) -> torch.Tensor:
    """The same, key by key."""
    heads = torch.arange(len(case.codebook))[:, None]
    far_keys = case.codebook[heads, case.codes]
    return dense_attention(
        case.queries, case.near_keys, case.values, case.bias, case.mask, rule, far_keys
    )


def assert_same(case: Case, rule: AttentionRule, tolerance: float = 1e-11) -> None:
    """Compare output and every gradient of the two forms."""
    sources = case.queries, case.near_keys, case.values, case.codebook, case.bias
    got, wanted = factored_attention(*case, rule), dense(case, rule)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
    weights = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(9))
    for one, other in zip(
        torch.autograd.grad(got, sources, weights),
        torch.autograd.grad(wanted, sources, weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(1, 9),
    weighting=st.sampled_from(Weighting),
    is_causal=st.booleans(),
    length=st.integers(1, 70),
    num_codes=st.integers(1, 40),
    num_heads=st.integers(1, 3),
    has_holes=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_factored_is_dense(
    window: int,
    weighting: Weighting,
    is_causal: bool,
    length: int,
    num_codes: int,
    num_heads: int,
    has_holes: bool,
    seed: int,
) -> None:
    """Any number of codes and heads, any band, any length, holes or none: output and gradients."""
    rule = AttentionRule(window, weighting, is_causal)
    case = make_case(
        rule,
        length=length,
        num_codes=num_codes,
        num_heads=num_heads,
        has_holes=has_holes,
        seed=seed,
    )
    assert_same(case, rule)
    assert_exact_by_moments(case, rule)


@RULES
def test_factored_is_dense_over_several_groups(
    rule: AttentionRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long texts are worked on part by part; here a part is two blocks."""
    monkeypatch.setattr("memstore.models.longvq_groups._SCORES", 150)
    case = make_case(rule, length=90, has_holes=True)
    assert_same(case, rule)
    assert_exact_by_moments(case, rule)


@RULES
def test_factored_is_dense_in_float32(rule: AttentionRule) -> None:
    """To 1e-5, over two hundred blocks of codes that come and go."""
    case = make_case(rule, length=800, batch_size=1, dtype=torch.float32)
    with torch.no_grad():
        got, wanted = factored_attention(*case, rule), dense(case, rule)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_moments_of_wide_values_are_right_on_average() -> None:
    """Projected at random to a width of four, four hundred times."""
    torch.manual_seed(0)
    rule = AttentionRule(4, Weighting.SOFTMAX, is_causal=False)
    case = make_case(rule, length=40, batch_size=1, num_heads=1)
    weights = torch.randn(1, 1, 40, 7, dtype=torch.float64)

    def gradient(moment_width: int) -> torch.Tensor:
        output = factored_attention(*case, rule, moment_width=moment_width)
        return torch.autograd.grad(output, case.near_keys, weights)[0]

    exact, local = gradient(7), gradient(0)
    tries = torch.stack([gradient(4) for _ in range(400)])

    error = (tries.mean(0) - exact).norm() / exact.norm()
    assert float(error) < 0.1 < float((local - exact).norm() / exact.norm())
    assert float((tries[0] - exact).norm()) > 0


@RULES
def test_moments_of_values_that_codes_tell_are_exact(rule: AttentionRule) -> None:
    """Only what differs from the mean of its code is projected, here to one number."""
    case = make_case(rule, length=40, has_holes=True)
    of_code = torch.randn(2, 2, case.codebook.shape[1], 7, dtype=torch.float64)
    values = of_code.gather(2, case.codes[..., None].expand(-1, -1, -1, 7))
    case = case._replace(values=values)
    weights = torch.randn(2, 2, 40, 7, dtype=torch.float64)
    exact, projected = (
        torch.autograd.grad(
            factored_attention(*case, rule, moment_width=width), case.near_keys, weights
        )[0]
        for width in (7, 1)
    )
    torch.testing.assert_close(projected, exact, rtol=0, atol=1e-12)


@RULES
def test_dense_is_the_formula(rule: AttentionRule) -> None:
    """Sums over single numbers, for one head and one text."""
    case = make_case(rule, length=9, batch_size=1, num_heads=1, has_holes=True)
    assert case.mask is not None
    got = dense_attention(case.queries, case.near_keys, case.values, case.bias, case.mask, rule)
    queries, keys = case.queries[0, 0].detach(), case.near_keys[0, 0].detach()
    values, bias = case.values[0, 0].detach(), case.bias[0].detach()
    lowest = 0 if rule.is_causal else 1 - rule.window
    is_token = case.mask[0].tolist()

    for i in range(9):
        weights = {}
        for j in range(9):
            if not (is_token[i] and is_token[j]) or (rule.is_causal and j > i):
                continue
            logit = float(queries[i] @ keys[j])
            if abs(i - j) < rule.window:
                logit += float(bias[i - j - lowest])
            if rule.weighting is Weighting.SOFTMAX:
                weights[j] = math.exp(logit)
            else:
                deviation = math.sqrt(0.25 / math.pi)
                weights[j] = (1 + math.erf((logit - 0.5**0.5) / (deviation * 2**0.5))) / 2
        total = sum(weights.values()) + (rule.weighting is Weighting.LAPLACE)
        wanted = sum((w / total * values[j] for j, w in weights.items()), torch.zeros(7))
        torch.testing.assert_close(got[0, 0, i], wanted.to(got), rtol=0, atol=1e-12)


@RULES
def test_a_text_of_nothing_gives_nothing(rule: AttentionRule) -> None:
    """No token at all in one of two rows: zeros, and no NaN in the gradients of either."""
    case = make_case(rule, length=20, has_holes=True)
    assert case.mask is not None
    case.mask[0] = False

    output = factored_attention(*case, rule)
    output.sum().backward()

    assert not output[0].any()
    assert output[1].any()
    assert case.queries.grad is not None
    assert case.values.grad is not None
    assert case.queries.grad.isfinite().all()
    assert not case.values.grad[0].any()


@RULES
def test_what_padding_holds_does_not_matter(rule: AttentionRule) -> None:
    """Not even NaN."""
    case = make_case(rule, length=20, has_holes=True)
    assert case.mask is not None
    wanted = factored_attention(*case, rule)

    spoiled = case.values.detach().clone()
    spoiled[~case.mask[:, None].expand(spoiled.shape[:3])] = torch.nan

    got = factored_attention(*case._replace(values=spoiled), rule)
    assert torch.equal(got, wanted)


@RULES
def test_length_zero_is_empty(rule: AttentionRule) -> None:
    """Not an error here; the model refuses it."""
    assert factored_attention(*make_case(rule, length=0), rule).shape == (2, 2, 0, 7)


@RULES
def test_large_logits_do_not_overflow(rule: AttentionRule) -> None:
    """A thousand times what exp can take."""
    case = make_case(rule, length=30, dtype=torch.float32)
    large = case._replace(queries=case.queries.detach() * 1e5)
    assert factored_attention(*large, rule).isfinite().all()


@pytest.mark.parametrize("weighting", Weighting)
def test_a_local_rule_sees_the_band_alone(weighting: Weighting) -> None:
    """Exactly the tokens nearer than the window, wherever blocks begin."""
    rule = AttentionRule(4, weighting, is_causal=False, is_local=True)
    case = make_case(rule, length=30)
    none = case._replace(codebook=case.codebook[:, :0])
    wanted = dense_attention(case.queries, case.near_keys, case.values, case.bias, None, rule)

    got = factored_attention(*none, rule)

    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    moved = case.values.detach().clone()
    moved[:, :, 10] += 1
    changed = factored_attention(*none._replace(values=moved), rule) - got
    seen = (changed.abs().amax(dim=(0, 1, 3)) > 0).nonzero()[:, 0].tolist()
    assert seen == list(range(7, 14))


@pytest.mark.parametrize("weighting", Weighting)
@pytest.mark.parametrize("parts", [(1,) * 23, (3, 4, 16), (9, 14), (23,)])
def test_a_text_in_parts_is_the_text(weighting: Weighting, parts: tuple[int, ...]) -> None:
    """The past is W tokens and sums, wherever it was cut; holes stay holes."""
    rule = AttentionRule(4, weighting, is_causal=True)
    case = make_case(rule, length=23, has_holes=True)
    assert case.mask is not None
    wanted = factored_attention(*case, rule)
    past = Past(
        codes=torch.zeros(2, 2, 4, dtype=torch.int64),
        keys=torch.zeros(2, 2, 4, 6, dtype=torch.float64),
        values=torch.zeros(2, 2, 4, 7, dtype=torch.float64),
        mask=torch.zeros(2, 4, dtype=torch.bool),
        sums=torch.zeros(2, 2, 5, 7, dtype=torch.float64),
        counts=torch.zeros(2, 2, 5, dtype=torch.float64),
    )

    outputs, start = [], 0
    for size in parts:
        some = slice(start, start + size)
        part = case._replace(
            queries=case.queries[:, :, some],
            near_keys=case.near_keys[:, :, some],
            values=case.values[:, :, some],
            codes=case.codes[:, :, some],
            mask=case.mask[:, some],
        )
        outputs.append(factored_attention(*part, rule, past))
        past = past.advance(part.codes, part.near_keys, part.values, part.mask)
        start += size

    torch.testing.assert_close(torch.cat(outputs, dim=2), wanted, rtol=0, atol=1e-11)


def test_what_is_kept_for_the_backward_pass_is_linear_in_length() -> None:
    """No scores: twice the text, twice the bytes, whatever L is beside W and S."""
    rule = AttentionRule(8, Weighting.SOFTMAX, is_causal=False)

    def kept_bytes(length: int) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        case = make_case(rule, length=length, num_codes=16)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = factored_attention(*case, rule)
        assert output.requires_grad
        return sum(kept.values())

    assert kept_bytes(2048) < 2.1 * kept_bytes(1024)
    assert kept_bytes(2048) < 2048 * 4 * 8 * 40  # of B·H·L rows, 40 numbers each
