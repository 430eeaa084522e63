"""A strategy that cannot work is found out before anybody asks it for an image."""

import dataclasses

import numpy as np
import pytest
import torch

from strategies import acquisition, selection
from strategies.catalogue import CATALOGUE, QueryStrategy
from strategies.checks import StrategyError, check_strategy
from strategies.scores import ANY, NOT_NEGATIVE, SCORE_RANGES, lies_within, shown


def strategy(select=None, **changes) -> QueryStrategy:
    values = {"name": "mine", "description": "Mine", "source": "me", "score": "least_confidence"}
    return QueryStrategy(
        **{**values, "select": select or (lambda pool, k, rng: selection.top(pool.scores, k)), **changes}
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_row_of_the_catalogue_can_work(name):
    check_strategy(CATALOGUE[name])


def power(pool, k, rng):
    return selection.power(pool.scores, k, rng)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("top", "'top' is no QueryStrategy"),
        (strategy(name="Mine"), "lower-case"),
        (strategy(name="a" * 65), "lower-case"),
        (strategy(name="../x"), "lower-case"),
        (strategy(description=""), "description must be one line"),
        (strategy(source="a\nb"), "source must be one line"),
        (strategy(select=selection), "select must be a function"),
        (strategy(score="happiness"), "no scoring gives 'happiness'; scores are dropout_variance"),
        (strategy(power, score="margin", score_range=NOT_NEGATIVE), r"margin is -0.5 to 0, .* takes 0 to infinity"),
        (strategy(power, score="margin"), "scores must not be negative"),
        (strategy(lambda pool, k, rng: 1 / 0), "fails: ZeroDivisionError"),
        (strategy(lambda pool, k, rng: selection.core_set(pool.embeddings, pool.annotated, k)), "reads annotated, but"),
        (strategy(score=None), "reads scores, but declares no score"),
        (
            strategy(lambda pool, k, rng: pool.class_scores.argmax(0)[:k]),
            "reads class_scores, but declares no class_sc",
        ),
        (strategy(lambda pool, k, rng: np.random.default_rng().permutation(len(pool.scores))[:k]), "differently"),
        (strategy(lambda pool, k, rng: np.arange(k) + 1), "not there"),
        (strategy(lambda pool, k, rng: -1 - np.arange(k)), "not there"),
        (strategy(lambda pool, k, rng: np.zeros(k, int)), "twice"),
        (strategy(lambda pool, k, rng: np.arange(len(pool.scores))), "of 2 images and a batch of 1, it chooses 2"),
        (strategy(lambda pool, k, rng: []), "chooses 0"),
        (strategy(lambda pool, k, rng: np.zeros(k)), "no list of whole numbers"),
        (strategy(lambda pool, k, rng: None), "no list of whole numbers"),
        (strategy(lambda pool, k, rng: ["image00"]), "no list of whole numbers"),
        (strategy(lambda pool, k, rng: [np.argmax(pool.scores[np.ptp(pool.scores) > 0])]), "fails"),
    ],
)
def test_a_row_that_cannot_work_is_refused_in_one_line_that_says_why(row, words):
    with pytest.raises(StrategyError, match=words) as caught:
        check_strategy(row)
    assert "\n" not in str(caught.value)


def test_a_row_of_ones_own_that_works_is_taken():
    check_strategy(strategy(power, score="least_confidence", score_range=(0, 1)))
    check_strategy(strategy(lambda pool, k, rng: rng.permutation(len(pool.image_ids))[:k].tolist(), score=None))
    both = lambda pool, k, rng: selection.dissimilar(pool.scores, pool.embeddings, pool.annotated, k)  # noqa: E731
    check_strategy(strategy(both, embeddings=True))


def test_ranges_are_what_the_acquisition_functions_give():
    rng = np.random.default_rng(0)
    for _ in range(50):
        logits = torch.tensor(rng.normal(0, 10 ** rng.uniform(-2, 2), (4, 3, 5, 5)))
        probs = torch.softmax(logits, 1)
        found = {
            "dropout_variance": acquisition.variance(probs, 0.001),
            "bootstrap_variance": acquisition.variance(probs, 1.0),
            "variance_sum": acquisition.variance_sum(probs),
            "margin": acquisition.margin(probs[0]),
            "least_confidence": acquisition.least_confidence(probs[0]),
            **{
                name: getattr(acquisition, name)(probs)
                for name in ("entropy_kl", "flip_consistency", "predictive_entropy", "bald")
            },
        }
        assert found.keys() == SCORE_RANGES.keys()
        for name, value in found.items():
            assert SCORE_RANGES[name][0] - 1e-9 <= float(value) <= SCORE_RANGES[name][1] + 1e-9, name


def test_ranges():
    assert lies_within((0, 1), ANY)
    assert lies_within((0, 1), (0, 1))
    assert not lies_within(ANY, NOT_NEGATIVE)
    assert not lies_within((0, 2), (0, 1))
    assert shown(ANY) == "minus infinity to infinity"
    assert dataclasses.replace(CATALOGUE["power_bald"], score_range=ANY).score_range == ANY
