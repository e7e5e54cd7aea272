"""What a codebook is made with: search, sums and draws, in one process and in several."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, multiprocessing

from memstore.codec import ProductCodec
from memstore.errors import ShapeError
from memstore.models import vq_codebook
from memstore.models.vq import ProductVQ

D, M, K = 16, 4, 16


def make_memories(num_memories: int, seed: int = 0) -> torch.Tensor:
    """Return (N, D) memories around thirty centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(30, D)) * 2
    memories = centres[rng.integers(0, 30, num_memories)] + rng.normal(size=(num_memories, D))
    return torch.from_numpy(memories.astype(np.float32))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return float32 normals."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("num_tokens", "num_subspaces", "codebook_size", "width"),
    [(0, 2, 4, 3), (1, 1, 2, 1), (50, 5, 7, 3), (40, 2, 65_536, 2), (3_000, 3, 512, 2)],
)
def test_the_search_finds_the_nearest(
    num_tokens: int, num_subspaces: int, codebook_size: int, width: int
) -> None:
    """In one block of scores and in several, to float32 rounding."""
    points = normal(num_tokens, num_subspaces, width)
    codebook = normal(num_subspaces, codebook_size, width, seed=1)

    codes = vq_codebook.nearest(points, codebook)

    assert codes.shape == (num_tokens, num_subspaces)
    chosen = vq_codebook.gather(codes, codebook)
    for m in range(num_subspaces):
        assert torch.equal(chosen[:, m], codebook[m, codes[:, m]])
        distances = torch.cdist(points[:, m].double(), codebook[m].double())
        found = distances.gather(1, codes[:, m, None])[:, 0]
        torch.testing.assert_close(found, distances.amin(dim=1), rtol=1e-4, atol=1e-4)


def test_of_equal_centroids_the_lowest_code_is_found() -> None:
    """As in the codec."""
    codebook = normal(2, 1, 3).expand(2, 9, 3).contiguous()

    assert not vq_codebook.nearest(normal(20, 2, 3), codebook).any()


def test_counts_and_sums_are_by_subspace_and_code() -> None:
    """Against loops."""
    points = normal(60, 3, 2)
    codes = torch.randint(0, 5, (60, 3), generator=torch.Generator().manual_seed(1))
    codes[codes == 4] = 0

    counts, sums = vq_codebook.count(codes, 5), vq_codebook.add_up(points, codes, 5)

    assert counts.dtype == torch.float32
    for m in range(3):
        for code in range(5):
            has_code = codes[:, m] == code
            assert counts[m, code] == has_code.sum()
            torch.testing.assert_close(sums[m, code], points[has_code, m].sum(dim=0))


def test_perplexity_counts_codes_by_their_use() -> None:
    """All alike, half of them, one, one and a little, none."""
    counts = torch.tensor([[2, 2, 2, 2], [5, 0, 5, 0], [0, 0, 0, 9], [3, 1, 0, 0], [0, 0, 0, 0]])

    found = vq_codebook.perplexity(counts.float())

    mixed = float(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    torch.testing.assert_close(found, torch.tensor([4, 2, 1, mixed, 1]))


def test_draws_are_in_proportion_to_the_squared_distance() -> None:
    """Points at distance 1 and 3 from a centroid: 1 to 9. The one on it is never drawn."""
    kept, points = torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    generator = torch.Generator().manual_seed(0)

    draws = [vq_codebook.draw_centroids(points, kept, 1, generator) for _ in range(1_000)]

    drawn = torch.cat(draws).abs().amax(dim=1)
    assert torch.unique(drawn).tolist() == [1, 3]
    assert 70 <= int((drawn == 1).sum()) <= 130


@pytest.mark.parametrize("num_kept", [0, 3])
def test_draws_are_different_points_that_no_centroid_stands_on(num_kept: int) -> None:
    """All of them if as many are wanted, however often each is there, and no more."""
    kinds = normal(20, 2)
    points = kinds[torch.arange(100) % 20]
    generator = torch.Generator().manual_seed(0)

    drawn = vq_codebook.draw_centroids(points, kinds[:num_kept], 30, generator)

    assert torch.equal(torch.unique(drawn, dim=0), torch.unique(kinds[num_kept:], dim=0))
    assert len(drawn) == 20 - num_kept


def test_no_draws_without_points() -> None:
    """An empty batch has none to give."""
    drawn = vq_codebook.draw_centroids(normal(0, 2), normal(3, 2), 2, torch.Generator())

    assert drawn.shape == (0, 2)


def error_of(layer: ProductVQ, memories: torch.Tensor) -> float:
    """Return the mean squared error, measured without learning."""
    was_training = layer.training
    quantized = layer.eval()(memories).quantized
    layer.train(was_training)
    return float((quantized - memories).square().mean())


def far_off_layer(**options: Any) -> ProductVQ:
    """Return a layer whose centroids 4 and up are far from every memory."""
    codebook = make_memories(K, seed=8).view(K, M, D // M).transpose(0, 1).contiguous()
    codebook[:, 4:] += 100
    return ProductVQ.from_codec(ProductCodec(codebook.numpy()), **options)


def test_codes_that_nobody_uses_are_drawn_anew() -> None:
    """At memories of the batch, with averages to match; the error falls and all are used."""
    layer = far_off_layer(decay=0.5)
    memories = make_memories(160)
    before = error_of(layer, memories)

    assert layer(memories).num_resets == 0  # what is new has some time
    assert layer(memories).num_resets == M * (K - 4)

    points = memories.view(-1, M, D // M)
    for m in range(M):
        for centroid in layer.codebook[m, 4:]:
            assert (points[:, m] == centroid).all(dim=1).any()
    assert torch.allclose(
        layer.ema_sums[:, 4:], layer.ema_counts[:, 4:, None] * layer.codebook[:, 4:]
    )
    for _ in range(10):
        output = layer(memories)
    assert error_of(layer, memories) < 0.5 * before
    assert (output.perplexity > 8).all()
    assert (layer.usage_perplexity() > 8).all()


def test_no_code_is_drawn_anew_if_none_shall_be() -> None:
    """`reset_below=None`."""
    layer = far_off_layer(decay=0.5, reset_below=None)
    before = layer.codebook.clone()
    memories = make_memories(160)

    assert [layer(memories).num_resets for _ in range(30)] == [0] * 30
    assert torch.equal(layer.codebook[:, 4:], before[:, 4:])


def test_no_more_codes_are_drawn_anew_than_memories_differ() -> None:
    """A batch of one memory, however often it is there, has one to draw."""
    layer = far_off_layer(decay=0.5)
    memories = make_memories(1).expand(8, D)

    resets = [layer(memories).num_resets for _ in range(20)]

    assert max(resets) == M
    assert torch.isfinite(layer.codebook).all()


def random_layer(memories: torch.Tensor, seed: int) -> ProductVQ:
    """Return a layer whose centroids are memories drawn at random."""
    rows = torch.randperm(len(memories), generator=torch.Generator().manual_seed(seed))[:K]
    codebook = memories[rows].view(K, M, D // M).transpose(0, 1).contiguous()
    return ProductVQ.from_codec(ProductCodec(codebook.numpy()))


def test_initialization_beats_random_draws() -> None:
    """On the memories that it saw and on others."""
    memories, others = make_memories(400), make_memories(400, seed=7)
    layer = ProductVQ(D, M, K)
    layer.initialize(memories)
    assert int(layer.num_updates) == 0

    for seed in range(5):
        drawn = random_layer(memories, seed)
        assert error_of(layer, memories) < 0.9 * error_of(drawn, memories)
        assert error_of(layer, others) < error_of(drawn, others)


@pytest.mark.parametrize("num_kinds", [5, K])
def test_initialization_is_exact_if_there_are_no_more_kinds_than_centroids(num_kinds: int) -> None:
    """However often each is there. Spare centroids are copies; nothing becomes NaN."""
    memories = make_memories(num_kinds).repeat(4, 1)
    layer = ProductVQ(D, M, K)

    layer.initialize(memories)

    assert torch.isfinite(layer.codebook).all()
    assert error_of(layer, memories) < 1e-10


def test_initialization_refuses_fewer_memories_than_centroids() -> None:
    """The layer stays without a codebook."""
    layer = ProductVQ(D, M, K)

    with pytest.raises(ShapeError, match=f"got {K - 1}, wanted at least {K}"):
        layer.initialize(make_memories(K - 1))

    assert int(layer.num_updates) == -1
    assert not layer.codebook.any()


def test_an_autoencoder_learns_through_it() -> None:
    """Encoder, codebook and decoder together lose less than at the start."""
    torch.manual_seed(0)
    inputs = make_memories(320)
    encoder, decoder = torch.nn.Linear(D, 8), torch.nn.Linear(8, D)
    layer = ProductVQ(8, 4, K, decay=0.9)
    layer.initialize(encoder(inputs))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.01)
    losses = []
    for _ in range(150):
        loss = (decoder(layer(encoder(inputs)).quantized) - inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.4 * losses[0]


# Rows of each batch that the first process sees; the other one sees the rest. Two shares are empty.
_SHARES = [70, 20, 0, 90, 33, 50]


def make_shares(step: int) -> list[torch.Tensor]:
    """Return what each of two processes sees at a step."""
    memories = make_memories(90, seed=step)
    return [memories[: _SHARES[step]], memories[_SHARES[step] :]]


def learn(rank: int | None) -> dict[str, torch.Tensor]:
    """Train a layer on one process's shares, or on all; return its state and what it reported."""
    codes, perplexities, resets = [], [], []
    layer = ProductVQ(D, M, K, decay=0.5)
    shares = make_shares(0)
    layer.initialize(torch.cat(shares) if rank is None else shares[rank], seed=3)
    results = {"initial": layer.codebook.clone()}
    for step in range(len(_SHARES)):
        shares = make_shares(step)
        output = layer(torch.cat(shares) if rank is None else shares[rank])
        codes.append(output.codes)
        perplexities.append(output.perplexity)
        resets.append(output.num_resets)
    results["codes"], results["perplexity"] = torch.cat(codes), torch.stack(perplexities)
    return results | {"resets": torch.tensor(resets)} | layer.state_dict()


def refusals(rank: int) -> list[str]:
    """Return what a process is told if the other one's memories hold a NaN, or both are too few."""
    layer, bad = ProductVQ(D, M, K), make_memories(K)
    layer.initialize(make_memories(K, seed=rank))
    if rank == 1:
        bad[7, 2] = torch.nan
    messages = []
    for call, memories in ((layer, bad), (layer.initialize, make_memories(K // 2 - 1))):
        with pytest.raises(ShapeError) as raised:
            call(memories)
        messages.append(str(raised.value))
    assert int(layer.num_updates) == 0
    return messages


def run_process(rank: int, folder: Path) -> None:
    """Be one of two processes; leave the results in the folder."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=(folder / "group").as_uri(),
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=1),  # for processes that wait for each other in vain
    )
    try:
        save_file(learn(rank), folder / f"{rank}.safetensors")
        (folder / f"{rank}.txt").write_text("\n".join(refusals(rank)))
    finally:
        distributed.destroy_process_group()


def test_two_processes_learn_as_one_that_sees_all(tmp_path: Path) -> None:
    """The same start, codes, averages, resets and perplexity; in both the same bits; and a process
    is refused what the other one is.
    """
    multiprocessing.spawn(run_process, (tmp_path,), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    alone = learn(None)

    assert alone["resets"].any()
    assert torch.equal(first["resets"], alone["resets"])
    for name in ("initial", "codebook", "ema_counts", "ema_sums", "num_updates", "perplexity"):
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], alone[name], rtol=1e-4, atol=1e-5)
    sizes = [_SHARES, [90 - size for size in _SHARES]]
    parts = [first["codes"].split(sizes[0]), second["codes"].split(sizes[1])]
    together = [codes for step in zip(*parts, strict=True) for codes in step]
    assert torch.equal(torch.cat(together), alone["codes"])
    told = [(tmp_path / f"{rank}.txt").read_text().split("\n") for rank in range(2)]
    assert told[0][0].startswith("memories: those of another process hold NaN")
    assert told[1][0].startswith("memories: row 7 holds NaN")
    assert told[0][1] == told[1][1]
    assert f"got {2 * (K // 2 - 1)}, wanted at least {K}" in told[0][1]
