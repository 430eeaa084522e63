"""The table of query strategies."""

from dataclasses import replace

import numpy as np
import pytest

from strategies.catalogue import CATALOGUE, Pool, annealed_beta
from strategies.registry import offered
from strategies.selection import CealSplit

SCORED = {row.score for row in CATALOGUE.values() if row.score}


def pool(n: int = 30, d: int = 4) -> Pool:
    rng = np.random.default_rng(0)
    return Pool(
        image_ids=tuple(f"i{i:02d}" for i in range(n)),
        scores=rng.random(n),
        class_scores=rng.random((n, 2)),
        embeddings=rng.standard_normal((n, d)),
        annotated=rng.standard_normal((3, d)),
    )


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("k", [1, 7, 30])
def test_every_strategy_orders_a_batch(name, k):
    chosen = CATALOGUE[name].select(pool(), k, np.random.default_rng(1))
    picked = chosen.oracle if isinstance(chosen, CealSplit) else chosen
    # The ends of the ranking are not served: rather a smaller batch.
    largest = {"entropy_kl": 24, "entropy_kl_band": 9}.get(name, 30)
    assert len(picked) == len(set(picked.tolist())) == min(k, largest)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_strategy_names_description_and_source(name):
    row = CATALOGUE[name]
    assert row.name == name
    assert row.description
    assert row.source


def test_entropy_kl_never_serves_the_ends():
    scores = pool().scores
    ends = set(np.argsort(scores)[[0, 1, 2, -1, -2, -3]])
    for seed in range(50):
        assert not ends & set(CATALOGUE["entropy_kl"].select(pool(), 8, np.random.default_rng(seed)).tolist())


@pytest.mark.parametrize("n", range(1, 25))
@pytest.mark.parametrize("name", ["entropy_kl", "entropy_kl_band"])
def test_trimmed_strategies_serve_small_pools_to_the_end(name, n):
    assert 1 <= len(CATALOGUE[name].select(pool(n), 10, np.random.default_rng(0))) <= 10


def test_the_band_is_in_rank_order_from_the_tenth_to_the_fortieth_percentile():
    order = np.argsort(-pool().scores)
    assert CATALOGUE["entropy_kl_band"].select(pool(), 30, np.random.default_rng(0)).tolist() == order[3:12].tolist()


def test_the_default_comes_first_and_random_is_always_there():
    names = [row.name for row in offered("margin", {"margin"})]
    assert names == ["margin", "random", "first"]
    assert "core_set" in [row.name for row in offered("random", {"margin"}, embeddings=True)]


def test_ceal_needs_pseudo_labels():
    assert "ceal" not in [row.name for row in offered("random", SCORED)]
    assert "ceal" in [row.name for row in offered("random", SCORED, pseudo_labels=True)]


@pytest.mark.parametrize(
    ("k", "groups", "pseudo"),
    [
        (35, {"lowest": 10, "highest": 10, "confident": 15}, 60),  # as published, third round
        (10, {"lowest": 2, "highest": 2, "confident": 6}, 15),
        (1, {"confident": 1}, 0),
    ],
)
def test_ceal_scales_the_published_sizes_to_the_batch(k, groups, pseudo):
    split = CATALOGUE["ceal"].select(replace(pool(200), round=3), k, np.random.default_rng(0))
    assert {name: split.groups.count(name) for name in split.groups} == groups
    assert len(split.pseudo) == pseudo
    scores = pool(200).scores
    order = np.argsort(scores, kind="stable")
    lowest = groups.get("lowest", 0)
    assert split.oracle[:lowest].tolist() == order[:lowest].tolist()
    confident_part = order[lowest : lowest + groups["confident"] + pseudo]
    assert set(split.pseudo) | set(split.oracle[-groups["confident"] :]) == set(confident_part)


def test_a_pool_too_small_for_ceal_gives_up_pseudo_labels_first():
    split = CATALOGUE["ceal"].select(replace(pool(12), round=4), 10, np.random.default_rng(0))
    assert (len(split.oracle), len(split.pseudo)) == (10, 2)
    assert "too small" in split.shrunk


def test_an_unknown_default_lists_what_is_offered():
    with pytest.raises(ValueError, match=r"strategy must be one of .*random"):
        offered("nonsense", SCORED)


def test_noise_sharpens_from_1_to_100():
    assert annealed_beta(1) == 1
    assert annealed_beta(10) == annealed_beta(50) == pytest.approx(100)
    assert annealed_beta(4) == pytest.approx(100 ** (3 / 9))
