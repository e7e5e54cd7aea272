"""The quantizing layer: what goes through it, what it learns, and the codec that it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from memstore.codec import ProductCodec
from memstore.errors import ConfigError, ShapeError
from memstore.models.vq import NEW_USE, ProductVQ

D, M, K, V = 16, 4, 16, 40
LENGTHS = [7, 1, 30, 0, 2]  # of passages
STAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "pca": {"rotation": "pca"},
    "blocks": {"rotation": "pca", "rotation_block": 8},
    "token": {"predictor": "token"},
    "context": {"predictor": "context"},
    "pca-context": {"rotation": "pca", "predictor": "context"},
}
EACH_STAGE = pytest.mark.parametrize("stages", STAGES)


def make_batch(
    num_repeats: int = 1, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return memories that depend on their tokens, token ids and offsets."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS * num_repeats)])
    token_ids = rng.integers(0, V, offsets[-1])
    table = np.random.default_rng(99).normal(size=(V, D)) * 2
    vectors = table[token_ids] + rng.normal(size=(len(token_ids), D)) * np.geomspace(1, 0.1, D)
    return (
        torch.from_numpy(vectors.astype(np.float32)),
        torch.from_numpy(token_ids),
        torch.from_numpy(offsets),
    )


def make_codec(stages: str = "plain", **options: Any) -> ProductCodec:
    """Train a small codec."""
    vectors, token_ids, offsets = (each.numpy() for each in make_batch(12, seed=1))
    options = {"num_subspaces": M, "codebook_size": K, "vocabulary": V, **STAGES[stages], **options}
    return ProductCodec.train(vectors, token_ids=token_ids, offsets=offsets, **options)


def make_layer(stages: str = "plain", **options: Any) -> ProductVQ:
    """Start a layer from a small codec."""
    return ProductVQ.from_codec(make_codec(stages), **options)


def state_of(layer: ProductVQ) -> dict[str, torch.Tensor]:
    """Return a copy of all buffers."""
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def assert_same_state(layer: ProductVQ, before: dict[str, torch.Tensor]) -> None:
    """Every buffer has the same bits."""
    assert layer.state_dict().keys() == before.keys()
    for name, tensor in layer.state_dict().items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name


def codes_in(codec: ProductCodec, records: np.ndarray) -> np.ndarray:
    """Return the (T, M) codes of records of one byte a code."""
    assert codec.codebook_size <= 256
    return records.view(np.uint8)[:, : codec.num_subspaces]


@EACH_STAGE
def test_in_eval_mode_it_gives_what_the_store_would(stages: str) -> None:
    """The codec's codes and, to rounding, its vectors; nothing is learnt."""
    layer = make_layer(stages).eval()
    before = state_of(layer)
    memories, token_ids, offsets = make_batch(3)

    output = layer(memories, token_ids, offsets)

    codec = layer.to_codec("float32")
    records = codec.encode(memories.numpy(), token_ids.numpy(), offsets.numpy())
    np.testing.assert_array_equal(output.codes.numpy(), codes_in(codec, records))
    decoded = codec.decode(records, offsets.numpy())
    np.testing.assert_allclose(output.quantized.numpy(), decoded, rtol=1e-5, atol=1e-5)
    assert output.num_resets == 0
    assert_same_state(layer, before)


def test_after_training_it_still_equals_its_codec() -> None:
    """Codebook and stages go together into the codec."""
    layer = make_layer("pca-context", decay=0.5)
    for seed in range(5):
        layer(*make_batch(3, seed=seed))
    memories, token_ids, offsets = make_batch(3, seed=9)

    output = layer.eval()(memories, token_ids, offsets)

    codec = layer.to_codec("float32")
    records = codec.encode(memories.numpy(), token_ids.numpy(), offsets.numpy())
    np.testing.assert_array_equal(output.codes.numpy(), codes_in(codec, records))
    decoded = codec.decode(records, offsets.numpy())
    np.testing.assert_allclose(output.quantized.numpy(), decoded, rtol=1e-5, atol=1e-5)


@EACH_STAGE
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_codec_comes_back_as_it_went_in(stages: str, dtype: str) -> None:
    """The same id, thus the same bits of codebook and stages."""
    codec = make_codec(stages, dtype=dtype)

    assert ProductVQ.from_codec(codec).to_codec(dtype) == codec


def test_passages_without_offsets_are_one() -> None:
    """As in the codec."""
    layer = make_layer("context").eval()
    memories, token_ids, _ = make_batch()
    whole = torch.tensor([0, len(memories)])

    assert torch.equal(
        layer(memories, token_ids).quantized, layer(memories, token_ids, whole).quantized
    )


@EACH_STAGE
@pytest.mark.parametrize("is_training", [False, True])
def test_the_gradient_passes_as_if_nothing_were_quantized(stages: str, is_training: bool) -> None:
    """The gradient of the memories is that of the quantized ones, bit for bit."""
    layer = make_layer(stages).train(is_training)
    memories, token_ids, offsets = make_batch()
    memories.requires_grad_()
    weights = torch.randn(memories.shape, generator=torch.Generator().manual_seed(0))

    (layer(memories, token_ids, offsets).quantized * weights).sum().backward()

    assert memories.grad is not None
    assert torch.equal(memories.grad, weights)


def test_it_learns_as_the_moving_averages_say() -> None:
    """Codes, averages and codebook over several batches, against float64 NumPy."""
    decay = 0.7
    layer = make_layer(decay=decay, reset_below=None)
    codebook = layer.codebook.numpy().astype(np.float64)
    counts, sums = np.zeros((M, K)), np.zeros((M, K, D // M))
    for step in range(6):
        memories = make_batch(2, seed=step)[0]
        points = memories.numpy().astype(np.float64).reshape(-1, M, D // M)
        distances = np.square(points[:, :, None] - codebook).sum(axis=3)  # (T, M, K)
        codes = distances.argmin(axis=2)
        is_chosen = (codes[:, :, None] == np.arange(K)).astype(np.float64)
        if step == 0:
            counts[:] = NEW_USE * len(points) / K
            sums = counts[..., None] * codebook
        counts = decay * counts + (1 - decay) * is_chosen.sum(axis=0)
        sums = decay * sums + (1 - decay) * np.einsum("tmk,tmw->mkw", is_chosen, points)
        used = is_chosen.any(axis=0)
        codebook[used] = (sums / counts[..., None])[used]

        output = layer(memories)

        np.testing.assert_array_equal(output.codes.numpy(), codes)
        np.testing.assert_allclose(layer.ema_counts.numpy(), counts, rtol=1e-5)
        np.testing.assert_allclose(layer.ema_sums.numpy(), sums, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.codebook.numpy(), codebook, rtol=1e-4, atol=1e-5)
        assert int(layer.num_updates) == step + 1


def test_it_learns_without_recorded_gradients_and_not_in_eval_mode() -> None:
    """Training mode decides, `no_grad` does not."""
    layer = make_layer()
    memories = make_batch()[0]
    with torch.no_grad():
        layer(memories)
    assert int(layer.num_updates) == 1

    layer.eval()(memories)

    assert int(layer.num_updates) == 1


def test_a_batch_is_quantized_before_it_is_learnt_from() -> None:
    """Training mode gives what eval mode would have given."""
    layer = make_layer("pca")
    memories = make_batch(seed=3)[0]
    expected = layer.eval()(memories).quantized

    assert torch.equal(layer.train()(memories).quantized, expected)
    assert not torch.equal(layer.eval()(memories).quantized, expected)


def test_codes_without_memories_keep_their_centroids() -> None:
    """To the bit, over many batches; the one that is used moves."""
    layer = make_layer(decay=0.9, reset_below=None)
    before = layer.codebook.clone()
    memories = (before[:, 3] * 1.01).flatten()[None]  # (1, D), at centroid 3 of every subspace

    for _ in range(20):
        assert (layer(memories).codes == 3).all()

    unused = torch.arange(K) != 3
    assert torch.equal(layer.codebook[:, unused], before[:, unused])
    assert not torch.equal(layer.codebook[:, 3], before[:, 3])


def test_perplexity_is_the_number_of_codes_in_use() -> None:
    """K if all are used alike, 1 if one is."""
    layer = make_layer("plain").eval()
    every = layer.codebook.transpose(0, 1).reshape(K, D)  # memory k has code k everywhere

    uniform = layer(torch.cat([every, every]))
    single = layer(every[5:6].expand(9, D))

    assert torch.equal(uniform.codes[:K], torch.arange(K)[:, None].expand(K, M))
    torch.testing.assert_close(uniform.perplexity, torch.full((M,), float(K)))
    torch.testing.assert_close(single.perplexity, torch.ones(M))


@EACH_STAGE
def test_initialization_is_decided_by_its_seed(stages: str) -> None:
    """The same seed, the same bits, whatever torch's own generator does."""
    codec, batch = make_codec(stages), make_batch(10)
    codebooks: list[torch.Tensor] = []
    for seed in (4, 4, 5):
        torch.manual_seed(len(codebooks))
        layer = ProductVQ(D, M, K, rotation=codec.rotation, predictor=codec.predictor)
        layer.initialize(*batch, seed=seed)
        codebooks.append(layer.codebook)

    assert torch.equal(codebooks[0], codebooks[1])
    assert not torch.equal(codebooks[0], codebooks[2])


def test_a_saved_state_goes_on_exactly() -> None:
    """All buffers, stages too, and the next steps, resets among them."""
    layer = make_layer("pca-context", decay=0.3)
    for seed in range(3):
        layer(*make_batch(seed=seed))
    codec = make_codec("pca-context", seed=8, dtype="float32")
    other = ProductVQ.from_codec(codec, decay=0.3)

    other.load_state_dict(layer.state_dict())

    assert int(other.num_updates) == 3
    assert_same_state(other, state_of(layer))
    for seed in range(3, 8):
        batch = make_batch(seed=seed)
        expected, output = layer(*batch), other(*batch)
        assert torch.equal(output.quantized, expected.quantized)
        assert output.num_resets == expected.num_resets
    assert_same_state(other, state_of(layer))


def test_commitment_is_the_weighted_squared_distance() -> None:
    """Its value, and a gradient that reaches the memories alone."""
    memories = make_batch()[0].requires_grad_()

    output = make_layer("pca", commitment=0.25)(memories)
    output.commitment_loss.backward()

    distance = (memories - output.quantized).detach()
    torch.testing.assert_close(output.commitment_loss, 0.25 * distance.square().mean())
    assert memories.grad is not None
    torch.testing.assert_close(memories.grad, 0.25 * 2 * distance / distance.numel())


def test_without_commitment_there_is_no_such_loss() -> None:
    """The default: zero, and no gradient."""
    loss = make_layer()(make_batch()[0].requires_grad_()).commitment_loss

    assert loss.dtype == torch.float32
    assert float(loss) == 0
    assert not loss.requires_grad


@pytest.mark.parametrize("is_training", [False, True])
@EACH_STAGE
def test_a_batch_without_memories_changes_nothing(stages: str, is_training: bool) -> None:
    """Empty results; the averages do not decay."""
    layer = make_layer(stages, commitment=1.0).train(is_training)
    layer(*make_batch())
    before = state_of(layer)

    for offsets in ([0], [0, 0, 0]):
        output = layer(torch.zeros(0, D), torch.zeros(0, dtype=torch.int64), torch.tensor(offsets))

        assert output.quantized.shape == (0, D)
        assert output.codes.shape == (0, M)
        assert float(output.commitment_loss) == 0
        assert output.num_resets == 0
        assert torch.equal(output.perplexity, torch.ones(M))
    assert_same_state(layer, before)


@EACH_STAGE
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_and_nothing_learnt(stages: str, bad: float) -> None:
    """The first such row is named, in training, in eval mode and at the start."""
    layer = make_layer(stages)
    batch = make_batch(3)
    layer(*batch)
    before = state_of(layer)
    memories = batch[0].clone()
    memories[[5, 9], 3] = bad

    for call in (layer, layer.initialize, layer.eval()):
        with pytest.raises(ShapeError, match="row 5 holds NaN or infinity") as raised:
            call(memories, *batch[1:])
        assert raised.value.details["row"] == "5"
        assert_same_state(layer, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_subspaces": 3}, "num_subspaces: got 3"),
        ({"num_subspaces": 0}, "num_subspaces: got 0"),
        ({"dim": 0}, "the dimension 0"),
        ({"codebook_size": 1}, "codebook_size: got 1"),
        ({"codebook_size": 65_537}, "codebook_size: got 65537"),
        ({"decay": 1.0}, "decay: got 1.0"),
        ({"decay": 0.0}, "decay: got 0.0"),
        ({"decay": float("nan")}, "decay: got nan"),
        ({"commitment": -0.1}, "commitment: got -0.1"),
        ({"commitment": float("nan")}, "commitment: got nan"),
        ({"reset_below": 0.0}, "reset_below: got 0.0"),
        ({"reset_below": NEW_USE}, "reset_below: got 0.1"),
    ],
)
def test_options_that_make_no_quantizer_are_refused(changes: dict[str, Any], message: str) -> None:
    """With the option's name and value."""
    options: dict[str, Any] = {"dim": D, "num_subspaces": M, "codebook_size": K}
    with pytest.raises(ConfigError, match=message):
        ProductVQ(**{**options, **changes})


@pytest.mark.parametrize("stages", ["pca", "token"])
def test_stages_of_another_width_are_refused(stages: str) -> None:
    """Before anything is quantized."""
    codec = make_codec(stages)

    with pytest.raises(ShapeError, match=r"rotation|predictor"):
        ProductVQ(2 * D, M, K, rotation=codec.rotation, predictor=codec.predictor)


def test_a_layer_without_a_codebook_is_refused() -> None:
    """It neither quantizes nor becomes a codec."""
    layer = ProductVQ(D, M, K)

    with pytest.raises(ConfigError, match="no codebook yet; call initialize"):
        layer(make_batch()[0])
    with pytest.raises(ConfigError, match="no codebook yet"):
        layer.to_codec()


def test_a_codec_of_another_dtype_is_refused() -> None:
    """Codebooks are float32 or bfloat16."""
    with pytest.raises(ConfigError, match="dtype: got 'float16'"):
        make_layer().to_codec("float16")


@pytest.mark.parametrize(
    ("memories", "message"),
    [
        (torch.zeros(3, D, dtype=torch.int64), "floating-point"),
        (np.zeros((3, D), np.float32), "floating-point"),
        (torch.zeros(3, D + 1), r"got shape \(3, 17\), wanted \(T, 16\)"),
        (torch.zeros(2, 3, D), "without padding"),
    ],
)
def test_memories_of_another_shape_are_refused(memories: Any, message: str) -> None:
    """Padded batches among them."""
    with pytest.raises(ShapeError, match=message):
        make_layer()(memories)


@pytest.mark.parametrize(
    ("token_ids", "offsets", "message"),
    [
        (None, None, "token_ids: got none"),
        ([1, 2, 3], None, "token_ids: wanted a tensor"),
        (torch.ones(3), None, "token_ids: wanted a tensor"),
        (torch.ones(4, dtype=torch.int64), None, r"token_ids: got shape \(4,\)"),
        (torch.tensor([0, V, -1]), None, f"token_ids: row 1 is {V}, wanted 0 to {V - 1}"),
        (torch.tensor([0, 1, -1]), None, "token_ids: row 2 is -1"),
        (torch.tensor([0, 1, 2]), [0, 3], "offsets: wanted a tensor"),
        (torch.tensor([0, 1, 2]), torch.tensor([0.0, 3.0]), "offsets: got an array of float32"),
        (torch.tensor([0, 1, 2]), torch.tensor([0, 2]), "offsets: wanted rising values"),
        (torch.tensor([0, 1, 2]), torch.tensor([0, 2, 1, 3]), "offsets: wanted rising values"),
    ],
)
def test_what_the_predictor_cannot_read_is_refused(
    token_ids: Any, offsets: Any, message: str
) -> None:
    """Nothing is learnt then."""
    layer = make_layer("context")
    before = state_of(layer)

    with pytest.raises(ShapeError, match=message):
        layer(torch.zeros(3, D), token_ids, offsets)

    assert_same_state(layer, before)


@EACH_STAGE
def test_a_cast_leaves_codebook_and_averages_in_float32(stages: str) -> None:
    """Cast with the model around it, the layer learns as one that was not."""
    layer, other = make_layer(stages, decay=0.5), make_layer(stages, decay=0.5)
    before = state_of(layer)
    model = torch.nn.Sequential(torch.nn.Linear(D, D), layer).to(torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    assert_same_state(layer, before)
    memories, *rest = make_batch()
    memories = memories.bfloat16()

    output = layer(memories, *rest)

    assert output.quantized.dtype == torch.bfloat16
    assert torch.equal(output.codes, other(memories.float(), *rest).codes)
    assert_same_state(layer, state_of(other))


@EACH_STAGE
def test_autocast_changes_neither_codes_nor_averages(stages: str) -> None:
    """Search and averages stay float32 under it."""
    layer = make_layer(stages, decay=0.5, commitment=1.0)
    other = make_layer(stages, decay=0.5, commitment=1.0)
    for seed in range(4):
        batch = make_batch(2, seed=seed)
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(*batch)
        expected = other(*batch)
        assert output.commitment_loss.dtype == torch.float32
        assert torch.equal(output.quantized, expected.quantized)
        assert torch.equal(output.commitment_loss, expected.commitment_loss)
    assert_same_state(layer, state_of(other))


def test_it_says_what_it_is() -> None:
    """In `print`, with its options."""
    assert "dim=16, num_subspaces=4, codebook_size=16, decay=0.5" in repr(make_layer(decay=0.5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EACH_STAGE
def test_on_a_gpu_it_learns_as_on_the_processor(stages: str) -> None:
    """Codes, vectors and averages over some batches, to rounding; resets among them."""
    layer, other = make_layer(stages, decay=0.5), make_layer(stages, decay=0.5).cuda()
    for seed in range(4):
        batch = make_batch(4, seed=seed)
        expected, output = layer(*batch), other(*(tensor.cuda() for tensor in batch))
        assert torch.equal(output.codes.cpu(), expected.codes)
        assert output.num_resets == expected.num_resets
        torch.testing.assert_close(output.quantized.cpu(), expected.quantized, rtol=1e-4, atol=1e-4)
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor.cpu(), state_of(layer)[name], rtol=1e-4, atol=1e-4)
