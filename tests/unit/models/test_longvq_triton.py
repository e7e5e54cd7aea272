"""Factored attention in Triton equals the same in torch, output and gradients.

On a GPU: `make gpu`. Without one, in Triton's interpreter, where Triton is installed:
`TRITON_INTERPRET=1 pytest tests/unit/models/test_longvq_triton.py`. What it is compared with is
computed in float64, for which there are no kernels.
"""

from __future__ import annotations

import importlib.util
import os
from typing import NamedTuple

import pytest
import torch

from memstore.models.longvq_attention import AttentionRule, Past, factored_attention
from memstore.models.longvq_config import Weighting
from memstore.models.longvq_groups import BlockTensors, Layout

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# NumPy, in which the interpreter computes, warns of exp(large) that is not used.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

RULES = pytest.mark.parametrize(
    "rule",
    [
        AttentionRule(window=4, weighting=weighting, is_causal=is_causal)
        for weighting in Weighting
        for is_causal in (True, False)
    ],
    ids=str,
)


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """A GPU, or the CPU in the interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if request.param == "cpu" and not IS_INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1")
    if request.param == "cuda" and (IS_INTERPRETED or not torch.cuda.is_available()):
        pytest.skip("needs a CUDA device and no TRITON_INTERPRET")
    return str(request.param)


class Case(NamedTuple):
    """One call in float32, all of it with gradients."""

    queries: torch.Tensor
    near_keys: torch.Tensor
    values: torch.Tensor
    codes: torch.Tensor
    codebook: torch.Tensor
    bias: torch.Tensor
    mask: torch.Tensor | None

    @property
    def sources(self) -> tuple[torch.Tensor, ...]:
        """What is differentiated by."""
        return self.queries, self.near_keys, self.values, self.codebook, self.bias

    def cast(self, dtype: torch.dtype) -> Case:
        """Return it in another dtype, as leaves of their own."""
        leaves = (each.detach().to(dtype).requires_grad_() for each in self.sources)
        queries, near_keys, values, codebook, bias = leaves
        return Case(queries, near_keys, values, self.codes, codebook, bias, self.mask)


def make_case(
    rule: AttentionRule,
    device: str,
    *,
    length: int,
    num_codes: int = 5,
    num_texts: int = 1,
    num_heads: int = 1,
    key_dim: int = 6,
    value_dim: int = 7,
    has_holes: bool = False,
) -> Case:
    """Return random tensors; near keys are the centroids, as leaves of their own."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    shape = num_texts, num_heads, length
    codes = torch.randint(max(1, num_codes), shape, generator=generator).to(device)
    codebook = normal(num_heads, num_codes, key_dim)
    near_keys = normal(*shape, key_dim)
    if num_codes:
        near_keys = codebook[torch.arange(num_heads, device=device)[:, None], codes].clone()
    mask = None
    if has_holes:
        mask = (torch.rand(num_texts, length, generator=generator) > 0.4).to(device)
    return Case(
        queries=normal(*shape, key_dim).mul(5 / key_dim).requires_grad_(),
        near_keys=near_keys.requires_grad_(),
        values=normal(*shape, value_dim).requires_grad_(),
        codes=codes,
        codebook=codebook.requires_grad_(),
        bias=normal(num_heads, rule.num_biases).requires_grad_(),
        mask=mask,
    )


def run(
    case: Case, rule: AttentionRule, past: Past | None = None, *, moment_width: int = 0
) -> list[torch.Tensor]:
    """Return the output and the gradients, always for the same gradient and projection."""
    output = factored_attention(*case, rule, past, moment_width=moment_width)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(0)
    return [output, *torch.autograd.grad(output, case.sources, weights.to(output))]


def assert_same(
    case: Case, rule: AttentionRule, past: Past | None = None, *, moment_width: int = 0
) -> None:
    """Compare the kernels' float32 with torch's float64, to 1e-5 of the largest."""
    got = run(case, rule, past, moment_width=moment_width)
    wanted = run(case.cast(torch.float64), rule, past, moment_width=moment_width)
    for one, other in zip(got, wanted, strict=True):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5 * scale)


@RULES
@pytest.mark.parametrize("moment_width", [3, 7])
def test_kernels_give_what_torch_gives(device: str, rule: AttentionRule, moment_width: int) -> None:
    """Output and all gradients; heads, holes, a last block that is not full, moments."""
    case = make_case(rule, device, length=23, num_heads=2, has_holes=True)
    assert_same(case, rule, moment_width=moment_width)


@pytest.mark.parametrize("weighting", Weighting)
@pytest.mark.parametrize("is_causal", [True, False])
def test_kernels_go_through_several_tiles(
    device: str, weighting: Weighting, is_causal: bool
) -> None:
    """Sizes above a tile's and no powers of two, and values projected for the moments."""
    rule = AttentionRule(70, weighting, is_causal)
    case = make_case(rule, device, length=290, num_codes=67, key_dim=17, value_dim=66)
    assert_same(case, rule, moment_width=3)


@RULES
def test_kernels_go_through_a_text_part_by_part(
    device: str, rule: AttentionRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables hold some blocks of some rows at a time; here two blocks of one row."""
    monkeypatch.setattr("memstore.models.longvq_triton_call._TABLE", 2 * 5 * 49)
    case = make_case(rule, device, length=26, num_texts=2)
    assert_same(case, rule, moment_width=3)


@RULES
def test_a_text_of_less_than_a_block(device: str, rule: AttentionRule) -> None:
    """One block of queries, lower than the window."""
    assert_same(make_case(rule, device, length=3), rule, moment_width=7)


@pytest.mark.parametrize("weighting", Weighting)
def test_a_past_is_seen(device: str, weighting: Weighting) -> None:
    """Sums of what came before, and the tokens just before the text."""
    rule = AttentionRule(4, weighting, is_causal=True)
    earlier = make_case(rule, device, length=4)
    past = Past(
        codes=earlier.codes,
        keys=earlier.near_keys.detach(),
        values=earlier.values.detach(),
        mask=torch.tensor([[False, True, True, True]], device=device),
        sums=torch.arange(35.0, device=device).view(1, 1, 5, 7) / 7,
        counts=torch.tensor([[[2.0, 0.0, 3.0, 1.0, 6.0]]], device=device),
    )
    assert_same(make_case(rule, device, length=10, has_holes=True), rule, past, moment_width=7)


@pytest.mark.parametrize("weighting", Weighting)
def test_the_band_alone(device: str, weighting: Weighting) -> None:
    """A local rule, without codes."""
    rule = AttentionRule(4, weighting, is_causal=False, is_local=True)
    assert_same(make_case(rule, device, length=14, num_codes=0), rule)


@RULES
def test_a_text_of_nothing_gives_nothing(device: str, rule: AttentionRule) -> None:
    """No token at all in one of two rows: zeros, and no NaN in the gradients of either."""
    case = make_case(rule, device, length=14, num_texts=2, has_holes=True)
    assert case.mask is not None
    case.mask[0] = False

    output, *gradients = run(case, rule, moment_width=7)

    assert not output[0].any()
    assert output[1].any()
    assert all(each.isfinite().all() for each in gradients)
    assert not gradients[2][0].any()


@RULES
def test_nothing_is_read_that_was_not_written(device: str, rule: AttentionRule) -> None:
    """Torch fills new memory with NaN in its deterministic mode."""
    if device != "cpu":
        pytest.skip("the mode refuses torch's running sums on a GPU")
    case = make_case(rule, device, length=14)
    wanted = run(case, rule, moment_width=7)
    torch.use_deterministic_algorithms(True)
    try:
        got = run(case, rule, moment_width=7)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, got, wanted))


def test_float32_runs_in_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And float64, with which the other tests compare, does not."""
    from memstore.models import longvq_triton

    shown: list[torch.dtype] = []
    attend = longvq_triton.attend

    def show(tensors: BlockTensors, layout: Layout) -> object:
        shown.append(tensors.queries.dtype)
        return attend(tensors, layout)

    monkeypatch.setattr(longvq_triton, "attend", show)
    rule = AttentionRule(4, Weighting.SOFTMAX, is_causal=True)
    case = make_case(rule, device, length=3)
    factored_attention(*case, rule)
    factored_attention(*case.cast(torch.float64), rule)
    assert shown == [torch.float32]


@pytest.mark.parametrize("weighting", Weighting)
@pytest.mark.parametrize("is_causal", [True, False])
def test_a_model_s_sizes(device: str, weighting: Weighting, is_causal: bool) -> None:
    """As they are by default: right, and the same bits each time."""
    if device == "cpu":
        pytest.skip("takes hours in the interpreter")
    rule = AttentionRule(128, weighting, is_causal)
    sizes = {"num_codes": 256, "key_dim": 64, "value_dim": 256}
    case = make_case(rule, device, length=5000, num_texts=2, has_holes=True, **sizes)
    assert_same(case, rule, moment_width=16)
    first, second = (run(case, rule, moment_width=16) for _ in range(2))
    assert all(map(torch.equal, first, second))
