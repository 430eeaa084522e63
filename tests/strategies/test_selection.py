"""What every selection function promises, checked against plain loops and by properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from strategies import selection as s
from strategies.selection import similarity

SCORES = np.array([0.3, 0.9, 0.1, 0.9, 0.5])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm else 0.0


def loop_representative(scores: np.ndarray, embeddings: np.ndarray, k: int, candidates: int) -> list[int]:
    pool = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:candidates]
    picked = [pool[0]]
    while len(picked) < k:

        def cover(extra: int) -> float:
            return sum(max(cosine(embeddings[i], embeddings[j]) for j in [*picked, extra]) for i in pool)

        rest = sorted(set(pool) - set(picked))
        best = max(cover(j) for j in rest)
        picked.append(next(j for j in rest if cover(j) >= best - 1e-9))
    return picked


def loop_dissimilar(scores, embeddings, annotated, k, candidates, combine) -> list[int]:
    pool = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:candidates]
    picked: list[int] = [] if len(annotated) else [pool[0]]
    while len(picked) < k:
        members = [*annotated, *embeddings[picked]]
        rest = sorted(set(pool) - set(picked))
        similarity = {i: combine([cosine(embeddings[i], m) for m in members]) for i in rest}
        least = min(similarity.values())
        picked.append(next(i for i in rest if similarity[i] <= least + 1e-9))
    return picked


def loop_core_set(embeddings, annotated, k) -> list[int]:
    picked: list[int] = []
    if not len(annotated):
        unit = [e / np.linalg.norm(e) for e in embeddings]
        picked.append(int(np.argmax([u @ np.mean(unit, axis=0) for u in unit])))
    while len(picked) < k:
        members = [*annotated, *embeddings[picked]]
        rest = sorted(set(range(len(embeddings))) - set(picked))
        nearest = {i: min(1 - cosine(embeddings[i], m) for m in members) for i in rest}
        far = max(nearest.values())
        picked.append(next(i for i in rest if nearest[i] >= far - 1e-9))
    return picked


def test_top_orders_by_score_and_breaks_ties_by_lower_index():
    assert s.top(SCORES, 5).tolist() == [1, 3, 4, 0, 2]
    assert s.top(np.zeros(4), 2).tolist() == [0, 1]
    assert s.top(SCORES, 3).dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-5, 5).map(lambda v: round(v, 1))), st.data())
def test_top_is_a_stable_sort(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    assert s.top(scores, k).tolist() == sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_rank_based_selections_do_not_depend_on_the_order_of_the_pool(n, seed):
    scores = rng(seed).permutation(n).astype(float)
    order = rng(seed + 1).permutation(n)
    k = max(1, n // 4)
    assert scores[s.top(scores, k)].tolist() == scores[order][s.top(scores[order], k)].tolist()
    pair = [values[s.trimmed_random(values, k, rng(7))].tolist() for values in (scores, scores[order])]
    assert pair[0] == pair[1]


def test_trimmed_random_never_draws_from_either_end():
    scores = np.arange(30.0)
    drawn = {int(i) for seed in range(200) for i in s.trimmed_random(scores, 5, rng(seed))}
    assert drawn == set(range(3, 27))
    assert sorted(s.trimmed_random(scores, 24, rng())) == list(range(3, 27))
    with pytest.raises(ValueError, match="k must"):
        s.trimmed_random(scores, 25, rng())


def test_trimmed_random_is_uniform():
    counts = np.bincount(
        np.concatenate([s.trimmed_random(np.arange(10.0), 2, rng(i)) for i in range(4000)]), minlength=10
    )
    assert counts[[0, 9]].sum() == 0
    assert np.abs(counts[1:9] / 1000 - 1).max() < 0.15


def test_band_takes_ranks_between_the_percentiles_in_order():
    scores = np.arange(20.0)
    assert s.band(scores, 6).tolist() == [17, 16, 15, 14, 13, 12]
    assert s.band(scores, 2).tolist() == [17, 16]
    with pytest.raises(ValueError, match="k must"):
        s.band(scores, 7)
    assert s.band(np.arange(100.0), 1, low=0.29, high=0.5).tolist() == [70]


@pytest.mark.parametrize("seed", range(6))
def test_representative_equals_the_plain_loop(seed):
    scores, embeddings = rng(seed).random(24), rng(seed + 50).standard_normal((24, 6))
    assert s.representative(scores, embeddings, 5).tolist() == loop_representative(scores, embeddings, 5, 10)
    picked = s.representative(scores, embeddings, 5, candidates=24).tolist()
    assert picked == loop_representative(scores, embeddings, 5, 24)


def test_representative_above_the_exact_limit_equals_the_exact_one(monkeypatch):
    scores, embeddings = rng(1).random(300), rng(2).standard_normal((300, 16))
    exact = s.representative(scores, embeddings, 30, candidates=300)
    monkeypatch.setattr(similarity, "_EXACT_LIMIT", 10)
    assert s.representative(scores, embeddings, 30, candidates=300).tolist() == exact.tolist()


def test_representative_takes_one_of_each_cluster_of_near_duplicates():
    centres = np.eye(4)
    embeddings = np.repeat(centres, 5, axis=0) + rng().normal(0, 0.01, (20, 4))
    picked = s.representative(np.linspace(1, 0.5, 20), embeddings, 4, candidates=20)
    assert sorted(i // 5 for i in picked) == [0, 1, 2, 3]
    assert picked[0] == 0


def test_equal_embeddings_are_picked_by_index():
    scores = np.linspace(1, 0.9, 8)
    same = np.tile(rng().standard_normal(5), (8, 1))
    assert s.representative(scores, same, 4, candidates=8).tolist() == [0, 1, 2, 3]
    assert s.core_set(same, same[:1], 4).tolist() == [0, 1, 2, 3]
    assert s.dissimilar(scores, same, same[:2], 4, candidates=8).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("aggregate", "combine"), [("mean", np.mean), ("max", max)])
@pytest.mark.parametrize("m", [0, 1, 5])
@pytest.mark.parametrize("seed", range(3))
def test_dissimilar_equals_the_plain_loop(aggregate, combine, m, seed):
    scores, embeddings = rng(seed).random(20), rng(seed + 9).standard_normal((20, 4))
    annotated = rng(seed + 99).standard_normal((m, 4))
    expected = loop_dissimilar(scores, embeddings, annotated, 6, 12, combine)
    assert s.dissimilar(scores, embeddings, annotated, 6, aggregate=aggregate).tolist() == expected


def test_cosine_of_a_zero_vector_is_zero():
    embeddings = np.array([[1.0, 0], [0, 0], [-1, 0]])
    assert s.dissimilar(np.ones(3), embeddings, np.array([[1.0, 0]]), 1, candidates=3).tolist() == [2]
    assert s.dissimilar(np.ones(3), embeddings, np.array([[-1.0, 0], [-2, 0]]), 3, candidates=3).tolist() == [0, 1, 2]
    assert s.core_set(embeddings, np.zeros((1, 2)), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("m", [0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_core_set_equals_the_plain_loop(m, seed):
    embeddings, annotated = rng(seed).standard_normal((20, 5)), rng(seed + 9).standard_normal((m, 5))
    assert s.core_set(embeddings, annotated, 6).tolist() == loop_core_set(embeddings, annotated, 6)


def test_core_set_without_labels_starts_nearest_the_mean_direction():
    embeddings = np.array([[1.0, 0], [0.8, 0.6], [0, 1.0]])
    assert s.core_set(embeddings, np.zeros((0, 2)), 1).tolist() == [1]


def test_ceal_groups():
    split = s.ceal(np.arange(100.0), rng(), round=1)
    assert split.oracle[:10].tolist() == list(range(10))
    assert split.oracle[10:20].tolist() == list(range(99, 89, -1))
    assert split.groups == ("lowest",) * 10 + ("highest",) * 10 + ("confident",) * 15
    confident = split.oracle[20:]
    assert set(confident) | set(split.pseudo) == set(range(10, 45))
    assert len(split.pseudo) == 20
    assert np.all(np.diff(split.pseudo) > 0)
    assert not split.shrunk
    assert len(s.ceal(np.arange(100.0), rng(), round=2).pseudo) == 40


@pytest.mark.parametrize(
    ("n", "pseudo", "confident", "lowest", "highest"),
    [(55, 20, 15, 10, 10), (45, 10, 15, 10, 10), (35, 0, 15, 10, 10), (25, 0, 5, 10, 10), (15, 0, 0, 5, 10)],
)
def test_ceal_shrinks_pseudo_labels_first(n, pseudo, confident, lowest, highest):
    split = s.ceal(np.arange(float(n)), rng(), round=1)
    assert len(split.pseudo) == pseudo
    assert [split.groups.count(g) for g in ("confident", "lowest", "highest")] == [confident, lowest, highest]
    assert bool(split.shrunk) == (n < 55)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**31))
def test_ceal_groups_never_overlap(n, number, seed):
    split = s.ceal(rng(seed).random(n), rng(seed), round=number)
    everything = np.concatenate([split.oracle, split.pseudo])
    assert len(set(everything)) == len(everything) <= n
    assert len(split.groups) == len(split.oracle)


def test_power_with_large_beta_is_top_and_zeros_come_last():
    scores = np.array([0.0, 3.0, 1.0, 2.0, 0.0])
    assert s.power(scores, 5, rng(), beta=1e9).tolist() == [1, 3, 2, 0, 4]
    assert set(s.power(scores, 3, rng(3))) == {1, 2, 3}


def test_power_draws_in_proportion_to_the_score():
    first = np.array([s.power(np.array([1.0, 2.0, 5.0]), 1, rng(i))[0] for i in range(6000)])
    assert np.bincount(first) / 6000 == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.025)


def test_class_stratified_power_fills_the_quotas():
    n = 40
    by_class = np.full((n, 3), 1e-6)
    by_class[:10, 0], by_class[10:20, 1], by_class[20:30, 2] = 1, 1, 1
    scores = np.full(n, 1e-6)
    scores[30:] = 1
    picked = s.class_stratified_power(scores, by_class, 10, rng(), beta=1e6)
    assert [int(i) // 10 for i in picked] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert len(set(picked)) == 10


def test_class_stratified_power_picks_an_image_once():
    scores = np.arange(1.0, 7)
    picked = s.class_stratified_power(scores, np.stack([scores, scores], 1), 6, rng(), beta=1e9)
    assert sorted(picked) == list(range(6))


def test_uniform_is_seeded_and_complete():
    assert sorted(s.uniform(9, 9, rng())) == list(range(9))
    assert s.uniform(9, 4, rng(5)).tolist() == s.uniform(9, 4, rng(5)).tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 25), st.integers(0, 2**31))
def test_every_selection_returns_distinct_int64_indices_and_is_reproducible(n, seed):
    scores, embeddings = rng(seed).random(n), rng(seed).standard_normal((n, 3))
    annotated = rng(seed + 1).standard_normal((2, 3))
    k = max(1, n // 4)
    calls = [
        lambda: s.top(scores, k),
        lambda: s.trimmed_random(scores, k, rng(seed)),
        lambda: s.band(scores, 1),
        lambda: s.representative(scores, embeddings, k),
        lambda: s.dissimilar(scores, embeddings, annotated, k),
        lambda: s.power(scores, k, rng(seed)),
        lambda: s.class_stratified_power(scores, np.abs(embeddings), k, rng(seed), beta=2.0),
        lambda: s.core_set(embeddings, annotated, k),
    ]
    for call in calls:
        picked = call()
        assert picked.dtype == np.int64
        assert len(set(picked.tolist())) == len(picked)
        assert picked.min() >= 0
        assert picked.max() < n
        assert call().tolist() == picked.tolist()


E5 = np.eye(5)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: s.top(SCORES, 0), "k must"),
        (lambda: s.top(SCORES, 6), "k must"),
        (lambda: s.top(SCORES, 2.0), "k must"),
        (lambda: s.top(SCORES, True), "k must"),
        (lambda: s.top(SCORES[None], 1), "scores"),
        (lambda: s.top(np.array([]), 1), "scores"),
        (lambda: s.top(np.array([1, np.nan]), 1), "scores"),
        (lambda: s.top(np.array([1, np.inf]), 1), "scores"),
        (lambda: s.trimmed_random(SCORES, 1, rng(), trim=0.5), "trim"),
        (lambda: s.band(SCORES, 1, low=0.5, high=0.4), "low"),
        (lambda: s.representative(SCORES, E5[:4], 2), "embeddings"),
        (lambda: s.representative(SCORES, E5 * np.nan, 2), "embeddings"),
        (lambda: s.representative(SCORES, E5, 3, candidates=2), "candidates"),
        (lambda: s.representative(SCORES, E5, 3, candidates=6), "candidates"),
        (lambda: s.dissimilar(SCORES, E5, np.ones((2, 4)), 2), "annotated"),
        (lambda: s.dissimilar(SCORES, E5, E5, 2, aggregate="median"), "aggregate"),
        (lambda: s.ceal(SCORES, rng(), 0), "round"),
        (lambda: s.ceal(SCORES, rng(), 1, lowest=-1), "lowest"),
        (lambda: s.power(-SCORES, 1, rng()), "scores"),
        (lambda: s.power(SCORES, 1, rng(), beta=0), "beta"),
        (lambda: s.class_stratified_power(SCORES, E5[:3], 1, rng(), 1.0), "class_scores"),
        (lambda: s.class_stratified_power(SCORES, E5, 1, rng(), 1.0, foreground=1.5), "foreground"),
        (lambda: s.class_stratified_power(SCORES, E5, 6, rng(), 1.0), "k must"),
        (lambda: s.core_set(E5, np.ones((1, 3)), 1), "annotated"),
        (lambda: s.core_set(E5, np.zeros((0, 5)), 6), "k must"),
        (lambda: s.uniform(3, 4, rng()), "k must"),
    ],
)
def test_misuse_names_the_argument(call, argument):
    with pytest.raises(ValueError, match=argument):
        call()


@given(st.integers(2, 40), st.integers(0, 20), st.integers(0, 1000))
def test_held_images_take_part_in_the_order_but_are_never_picked(n, held_count, seed):
    rng = np.random.default_rng(seed)
    scores, held = rng.random(n), rng.random(held_count)
    everything = np.concatenate([scores, held])
    cut = len(everything) // 10
    order = np.argsort(-everything)
    middle = [index for index in order[cut : len(order) - cut] if index < n]
    assert s.ranked(scores, 0.1, 0.1, held).tolist() == middle
    if middle:
        picked = s.trimmed_random(scores, len(middle), rng, held=held)
        assert sorted(picked.tolist()) == sorted(middle)
    inside = [index for index in order[cut : len(order) * 4 // 10] if index < n]
    if inside:
        assert s.band(scores, len(inside), held=held).tolist() == inside
