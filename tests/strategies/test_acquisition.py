"""Reference values of the specification and properties of every acquisition function."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from strategies import acquisition as a

EXACT = {"rel": 0, "abs": 1e-9}
DOUBLE = torch.float64

STACKED = {
    "entropy_kl": a.entropy_kl,
    "dropout_variance": lambda p: a.variance(p, a.DROPOUT_VARIANCE_FRACTION),
    "bootstrap_variance": lambda p: a.variance(p, a.BOOTSTRAP_VARIANCE_FRACTION),
    "variance_sum": a.variance_sum,
    "flip_consistency": a.flip_consistency,
    "predictive_entropy": a.predictive_entropy,
    "bald": a.bald,
}
SINGLE = {"margin": a.margin, "least_confidence": a.least_confidence}
FOREGROUND = torch.tensor([[0.1, 0.5, 0.9, 0.2], [0.3, 0.5, 0.7, 0.2], [0.2, 0.5, 0.1, 0.2]], dtype=DOUBLE)


def two_class(p: torch.Tensor) -> torch.Tensor:
    return torch.stack([1 - p, p], dim=-2)


def vectors(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


@st.composite
def stacks(draw: st.DrawFn, classes: int | None = None) -> torch.Tensor:
    shape = (
        draw(st.integers(1, 4)),
        classes or draw(st.integers(2, 4)),
        *draw(st.lists(st.integers(1, 4), max_size=3)),
    )
    raw = draw(arrays(np.float64, shape, elements=st.floats(1e-3, 1)))
    return torch.from_numpy(raw / raw.sum(1, keepdims=True))


def test_entropy_kl_of_two_classes():
    p = vectors((0.9, 0.1), (0.6, 0.4), (0.5, 0.5))
    entropies = [a.entropy_kl(row[None]).item() for row in p]
    assert entropies == pytest.approx([0.325082973391, 0.673011667009, 0.693147180560], **EXACT)
    assert a.entropy_kl(p).item() == pytest.approx(3.148206003474, **EXACT)
    assert a.entropy_kl(p).item() - sum(entropies) == pytest.approx(1.456964182514, **EXACT)


def test_entropy_kl_of_three_classes():
    p = vectors((0.7, 0.2, 0.1), (0.2, 0.5, 0.3), (1 / 3, 1 / 3, 1 / 3))
    assert a.entropy_kl(p).item() == pytest.approx(2.930083855276 + 1.881271543831, **EXACT)


def test_entropy_kl_equals_the_sum_over_all_ordered_pairs():
    p = torch.softmax(torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE), 1)
    total = -(p * p.log()).sum((0, 1))
    for m in range(5):
        for n in range(5):
            total = total + (p[m] * (p[m] / p[n]).log()).sum(0)
    assert a.entropy_kl(p).item() == pytest.approx(total.mean().item(), **EXACT)


def test_flip_consistency_of_class_vectors():
    p = vectors((0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.9, 0.1))
    assert a.flip_consistency(p).item() == pytest.approx(0.0125, **EXACT)


@pytest.mark.parametrize("probs", [two_class(FOREGROUND), FOREGROUND[:, None]], ids=["two classes", "one sigmoid"])
def test_variance_map_mean_and_sum(probs):
    assert a.variance(probs, 0.25).item() == pytest.approx(26 / 225, **EXACT)
    assert a.variance(probs, 1.0).item() == pytest.approx(0.030555555556, abs=1e-9)
    assert a.variance_sum(probs).item() == pytest.approx(0.122222222222, abs=1e-9)
    expected = [0.006666666667, 0, 0.115555555556, 0]
    assert a.variance_map(two_class(FOREGROUND)).tolist() == pytest.approx(expected, abs=1e-9)


def test_margin_of_a_map():
    p = FOREGROUND[0]
    p = torch.tensor([0.1, 0.5, 0.9, 0.2], dtype=DOUBLE)
    assert a.margin(p[None]).item() == pytest.approx(-0.275, **EXACT)
    assert a.margin(two_class(p)).item() == pytest.approx(-0.275, **EXACT)


def test_bald_and_predictive_entropy():
    p = vectors((0.9, 0.1), (0.1, 0.9))
    assert a.bald(p).item() == pytest.approx(0.368064207168, **EXACT)
    assert a.predictive_entropy(p).item() == pytest.approx(0.693147180560, **EXACT)


def test_top_fraction_averages_at_least_one_voxel_and_does_not_lose_one_to_rounding():
    values = torch.arange(100, dtype=DOUBLE)
    assert a.top_mean(values, 0.001).item() == 99
    assert a.top_mean(values, 0.29).item() == pytest.approx(np.mean(range(71, 100)))


def test_class_entropies_add_up_to_the_predictive_entropy():
    p = torch.softmax(torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1), dtype=DOUBLE), 1)
    assert a.class_entropies(p).shape == (4,)
    assert a.class_entropies(p).sum().item() == pytest.approx(a.predictive_entropy(p).item(), **EXACT)


def test_zero_probabilities_are_finite():
    p = vectors((1.0, 0.0), (0.0, 1.0))
    assert a.entropy_kl(p).item() == pytest.approx(2 * -math.log(1e-12), rel=1e-9)
    assert a.bald(p).item() == pytest.approx(math.log(2), **EXACT)


def test_half_precision_maps_are_computed_in_single_precision():
    p = torch.softmax(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(2)), 1)
    for function in STACKED.values():
        assert function(p.half()).item() == pytest.approx(function(p).item(), rel=0.02, abs=1e-3)


@pytest.mark.parametrize("name", STACKED)
@settings(max_examples=40, deadline=None)
@given(p=stacks())
def test_order_of_passes_and_of_voxels_does_not_matter(name, p):
    function = STACKED[name]
    result = function(p)
    assert result.ndim == 0
    assert result.is_floating_point()
    assert function(p.flip(0)).item() == pytest.approx(result.item(), abs=1e-9)
    if p.ndim > 2:
        assert function(p.flip(tuple(range(2, p.ndim)))).item() == pytest.approx(result.item(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(p=stacks())
def test_bounds(p):
    classes = p.shape[1]
    assert 0 <= a.variance(p, 1.0) <= a.variance(p, 0.001) <= 0.25
    assert 0 <= a.flip_consistency(p) <= 0.25
    assert 0 <= a.bald(p) <= a.predictive_entropy(p) + 1e-12
    assert a.predictive_entropy(p) <= math.log(classes) + 1e-9
    assert -0.5 <= a.margin(p[0]) <= 0
    assert 0 <= a.least_confidence(p[0]) <= 1 - 1 / classes + 1e-9
    assert a.entropy_kl(p) >= 0


@settings(max_examples=40, deadline=None)
@given(p=stacks())
def test_agreeing_passes_have_no_disagreement(p):
    same = p[:1].expand(3, *p.shape[1:])
    for name in ("dropout_variance", "bootstrap_variance", "variance_sum", "flip_consistency", "bald"):
        assert STACKED[name](same).item() == pytest.approx(0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 0.99), st.floats(0.0, 0.009))
def test_less_certain_scores_higher(p, step):
    certain, less = vectors((p + step, 1 - p - step)), vectors((p, 1 - p))
    for function in SINGLE.values():
        assert function(less[0]) >= function(certain[0])
    assert a.predictive_entropy(less) >= a.predictive_entropy(certain)


GOOD = two_class(FOREGROUND)


@pytest.mark.parametrize("name", STACKED)
@pytest.mark.parametrize(
    "bad",
    [
        GOOD[0, 0],
        GOOD[:0],
        torch.where(GOOD > 0.85, torch.nan, GOOD),
        GOOD * 1.2,
        GOOD * 2 - 0.5,
        (GOOD * 10).long(),
        GOOD.numpy(),
    ],
    ids=["too few axes", "empty", "NaN", "sum not 1", "outside", "integers", "array"],
)
def test_misuse_of_stacks_names_the_argument(name, bad):
    with pytest.raises(ValueError, match="probs"):
        STACKED[name](bad)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("bad", [torch.tensor(0.5), torch.tensor([0.5, torch.nan]), torch.tensor([0.9, 0.9])])
def test_misuse_of_maps_names_the_argument(name, bad):
    with pytest.raises(ValueError, match="probs"):
        SINGLE[name](bad)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_top_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="top_fraction"):
        a.variance(GOOD, fraction)
