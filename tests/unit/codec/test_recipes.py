"""What the codec's names stand for, and how the best candidate is found."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.codec.recipes import Recipe, choose_recipes, train_best
from memstore.codec.sample import Sample
from memstore.errors import ConfigError

MINILM = {"dim": 384, "num_vectors": 131_072, "vocabulary_size": 30_522}


def test_a_post_norm_encoder_is_rotated_and_predicted() -> None:
    """ADR 0006: one candidate, nothing left to find out."""
    (recipe,) = choose_recipes("auto", **MINILM, is_post_norm=True, num_tokens=10_000_000)
    assert recipe == Recipe(48, 256, "pca", "context")


def test_a_small_corpus_gets_no_table_that_outweighs_it() -> None:
    """23 MB of token table for a corpus of a million tokens would be half of what it saves."""
    (recipe,) = choose_recipes("auto", **MINILM, is_post_norm=True, num_tokens=1_000_000)
    assert recipe == Recipe(48, 256, "pca", None)


def test_memories_without_token_ids_are_not_predicted() -> None:
    """Nothing to predict from."""
    (recipe,) = choose_recipes(
        "auto", dim=384, num_vectors=131_072, is_post_norm=True, num_tokens=10**9
    )
    assert recipe.predictor is None


def test_an_encoder_of_another_kind_is_measured() -> None:
    """T5's memories come from a stream that is not normalized: no default is carried over."""
    recipes = choose_recipes("auto", **MINILM, is_post_norm=False, num_tokens=10**8)
    assert [(recipe.rotation, recipe.predictor) for recipe in recipes] == [
        (None, None),
        ("pca", None),
        (None, "context"),
        ("pca", "context"),
    ]


def test_the_plain_layout_of_the_paper_has_a_name() -> None:
    """Sixteen dimensions a subspace, 65,536 centroids, no stages."""
    (recipe,) = choose_recipes("memory-vq", dim=4096, num_vectors=3_000_000, is_post_norm=False)
    assert recipe == Recipe(256, 65_536, None, None)


@pytest.mark.parametrize(("name", "dim"), [("memory-vq", 24), ("opq", 384), ("", 384)])
def test_a_name_that_stands_for_nothing_is_refused(name: str, dim: int) -> None:
    """And so is a width that the named layout cannot cut."""
    with pytest.raises(ConfigError):
        choose_recipes(name, dim=dim, num_vectors=10_000)


def test_the_candidate_with_the_least_error_on_held_out_vectors_is_kept() -> None:
    """Correlated vectors want the rotation; its error is measured on a tenth left out."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(4000, 4)) @ rng.normal(size=(4, 16))).astype(np.float32)
    recipes = [Recipe(4, 16), Recipe(4, 16, "pca")]
    calls: list[tuple[int, int]] = []
    codec, error = train_best(recipes, Sample(vectors), progress=lambda *call: calls.append(call))
    plain, plain_error = train_best(recipes[:1], Sample(vectors))
    assert codec.rotation is not None
    assert plain.rotation is None
    assert error < plain_error
    assert calls[-1] == (8, 8)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_sample_too_small_to_hold_vectors_out_is_measured_on_itself() -> None:
    """A passage of one token held out has no spread to measure an error against."""
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    sample = Sample(vectors, offsets=np.array([0, 5, 6]))  # one of the two is held out
    alone, among = (sample.split(0.1, seed)[1].vectors for seed in _seeds_by_held_out(sample))
    assert (len(alone), len(among)) == (1, 5)
    for seed in _seeds_by_held_out(sample):
        _, error = train_best([Recipe(2, 2)], sample, seed=seed)
        assert np.isfinite(error)


def _seeds_by_held_out(sample: Sample) -> list[int]:
    """Return a seed that holds out one vector, and one that holds out five."""
    sizes = [len(sample.split(0.1, seed)[1].vectors) for seed in range(20)]
    return [sizes.index(1), sizes.index(5)]
