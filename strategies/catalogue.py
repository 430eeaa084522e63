"""The named query strategies: acquisition + selection + defaults + source, one table.

Adding a strategy is one row here (and one function in ``acquisition`` or ``selection`` if the mathematics is new), or
in a package of your own, see :mod:`strategies.registry`. Apps, server, simulation and documentation read this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from strategies import selection
from strategies.scores import ANY, NOT_NEGATIVE, Range
from strategies.selection import CealSplit, Embeddings, Indices, Scores


@dataclass(frozen=True)
class Pool:
    """What a query strategy sees: the images that may be chosen, sorted by image id, and the labelled ones.

    Attributes:
        image_ids: ``n`` ids, ascending.
        scores: ``(n,)`` of the strategy's acquisition function, empty if it has none.
        class_scores: ``(n, classes)`` entropies weighted per foreground class, ``(n, 0)`` if not needed.
        embeddings: ``(n, d)``, ``(n, 0)`` if not needed.
        annotated: ``(m, d)`` embeddings of the labelled images, ``(0, d)`` if not needed.
        held: ``(h,)`` scores of unlabelled images that cannot be chosen: leased, or in an open round already.
        round: 1 for the first scored round.
    """

    image_ids: tuple[str, ...]
    scores: Scores = field(default_factory=lambda: np.zeros(0))
    class_scores: Scores = field(default_factory=lambda: np.zeros((0, 0)))
    embeddings: Embeddings = field(default_factory=lambda: np.zeros((0, 0)))
    annotated: Embeddings = field(default_factory=lambda: np.zeros((0, 0)))
    held: Scores = field(default_factory=lambda: np.zeros(0))
    round: int = 1


Select = Callable[[Pool, int, np.random.Generator], Indices | CealSplit]
"""Ordered indices; or a split that also says what group they are of and what the model labels itself."""


@dataclass(frozen=True)
class QueryStrategy:
    """A named acquisition and selection.

    Attributes:
        name: as the viewers show it.
        description: one line for people.
        source: paper and place.
        select: the selection on a pool; returns ordered indices, or a split with groups and pseudo-labels.
        score: name of the acquisition score in a record, None if the strategy uses none.
        score_range: values of that score with which the selection works.
        embeddings: whether the selection needs embeddings.
        class_scores: whether the selection needs per-class entropies.
        pseudo_labels: whether the app must let the model label part of the pool.
    """

    name: str
    description: str
    source: str
    select: Select
    score: str | None = None
    score_range: Range = ANY
    embeddings: bool = False
    class_scores: bool = False
    pseudo_labels: bool = False

    @property
    def needs_records(self) -> bool:
        """Whether the strategy works from a scoring pass; the others work without any model."""
        return self.score is not None or self.embeddings or self.class_scores


PLANNED_ROUNDS = 10
"""Rounds over which ``class_stratified_power`` sharpens its noise."""


def annealed_beta(round: int, planned_rounds: int = PLANNED_ROUNDS) -> float:
    """Noise power that grows exponentially from 1 in the first round to 100 in the last planned one (ClaSP PE).

    Args:
        round: 1 for the first round.
        planned_rounds: rounds until 100 is reached; later rounds stay there.
    """
    progress = min(max(round - 1, 0) / max(planned_rounds - 1, 1), 1.0)
    return float(100.0**progress)


def _first(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    return np.arange(k, dtype=np.int64)


def _random(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    return selection.uniform(len(pool.image_ids), k, rng)


def _top(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    return selection.top(pool.scores, k)


def _power(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    return selection.power(pool.scores, k, rng)


def _trimmed_random(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    # Rather a smaller batch than an image of the trimmed ends; they are those of all unlabelled images, unless all
    # between them are held.
    held = pool.held if len(selection.ranked(pool.scores, 0.1, 0.1, pool.held)) else selection.NOTHING_HELD
    left = len(selection.ranked(pool.scores, 0.1, 0.1, held))
    return selection.trimmed_random(pool.scores, min(k, left), rng, held=held)


def _band(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    # Likewise; fewer than four images have no band.
    for held in (pool.held, selection.NOTHING_HELD):
        size = len(pool.scores) + len(held)
        below = size - selection.share_of(0.4, size)
        if left := len(selection.ranked(pool.scores, 0.1, below / size, held)):
            return selection.band(pool.scores, min(k, left), held=held)
    return selection.top(pool.scores, 1)


def _representative(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    return selection.representative(pool.scores, pool.embeddings, k)


def _dissimilar(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    return selection.dissimilar(pool.scores, pool.embeddings, pool.annotated, k)


def _class_stratified_power(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    return selection.class_stratified_power(pool.scores, pool.class_scores, k, rng, beta=annealed_beta(pool.round))


def _core_set(pool: Pool, k: int, rng: np.random.Generator) -> Indices:
    return selection.core_set(pool.embeddings, pool.annotated, k)


def _ceal(pool: Pool, k: int, rng: np.random.Generator) -> CealSplit:
    # The published sizes, scaled to the batch: 10 lowest, 10 highest, 15 confident; 20 pseudo-labels per round.
    lowest = highest = k * 10 // 35
    return selection.ceal(pool.scores, rng, pool.round, lowest, highest, k - lowest - highest, k * 20 // 35)


CATALOGUE: dict[str, QueryStrategy] = {
    row.name: row
    for row in (
        QueryStrategy("random", "Uniformly random, seeded", "baseline", _random),
        QueryStrategy("first", "First unlabelled image by id", "baseline", _first),
        QueryStrategy(
            "dropout_variance",
            "Largest variance of dropout passes, top 0.1 % of voxels",
            "Kim et al. 2024, Uncertainty Sampling",
            _top,
            score="dropout_variance",
        ),
        QueryStrategy(
            "dropout_variance_representative",
            "Dropout variance, then the batch that best covers the uncertain images",
            "Kim et al. 2024, supplementary algorithm 1",
            _representative,
            score="dropout_variance",
            embeddings=True,
        ),
        QueryStrategy(
            "dropout_variance_dissimilar",
            "Dropout variance, then the images least similar to those already labelled",
            "Kim et al. 2024, supplementary algorithm 2",
            _dissimilar,
            score="dropout_variance",
            embeddings=True,
        ),
        QueryStrategy(
            "bootstrap_variance",
            "Largest disagreement of models trained on bootstrap samples",
            "Kim et al. 2024, Uncertainty Sampling",
            _top,
            score="bootstrap_variance",
        ),
        QueryStrategy(
            "entropy_kl",
            "Committee entropy and divergence, outliers trimmed, random among the rest",
            "Hao et al. 2021, eqs. 1-2 and section 3.3",
            _trimmed_random,
            score="entropy_kl",
        ),
        QueryStrategy(
            "entropy_kl_band",
            "Committee entropy and divergence, from the 10th to the 40th percentile",
            "Hao et al. 2021, figure 3",
            _band,
            score="entropy_kl",
        ),
        QueryStrategy(
            "entropy_kl_top",
            "Largest committee entropy and divergence",
            "Hao et al. 2021, eqs. 1-2",
            _top,
            score="entropy_kl",
        ),
        QueryStrategy(
            "entropy_kl_representative",
            "Committee entropy and divergence, then the batch that best covers the uncertain images",
            "Hao et al. 2021; Kim et al. 2024, supplementary algorithm 1",
            _representative,
            score="entropy_kl",
            embeddings=True,
        ),
        QueryStrategy(
            "entropy_kl_dissimilar",
            "Committee entropy and divergence, then the images least similar to those already labelled",
            "Hao et al. 2021; Kim et al. 2024, supplementary algorithm 2",
            _dissimilar,
            score="entropy_kl",
            embeddings=True,
        ),
        QueryStrategy(
            "flip_consistency",
            "Predictions that change most when the image is flipped",
            "PCDAL 2023, eqs. 1-3",
            _top,
            score="flip_consistency",
        ),
        QueryStrategy(
            "margin",
            "Smallest distance between the two most probable classes",
            "Kim et al. 2024, eq. 1",
            _top,
            score="margin",
        ),
        QueryStrategy(
            "least_confidence",
            "Least probability of the predicted class",
            "Kim et al. 2024, Introduction",
            _top,
            score="least_confidence",
        ),
        QueryStrategy(
            "predictive_entropy",
            "Largest entropy of the mean prediction",
            "PCDAL 2023, Max-Entropy",
            _top,
            score="predictive_entropy",
        ),
        QueryStrategy(
            "bald",
            "Largest mutual information between prediction and weights",
            "PCDAL 2023, reference 43",
            _top,
            score="bald",
        ),
        QueryStrategy(
            "power_bald",
            "BALD with Gumbel noise, so that a batch is diverse",
            "Kirsch et al. 2023",
            _power,
            score="bald",
            score_range=NOT_NEGATIVE,
        ),
        QueryStrategy(
            "class_stratified_power",
            "Noisy entropy with a share of the batch for every class",
            "ClaSP PE 2026, whole-image form",
            _class_stratified_power,
            score="predictive_entropy",
            score_range=NOT_NEGATIVE,
            class_scores=True,
        ),
        QueryStrategy(
            "core_set",
            "Images farthest from everything labelled",
            "Sener & Savarese 2018",
            _core_set,
            embeddings=True,
        ),
        QueryStrategy(
            "dropout_variance_sum",
            "Largest variance of dropout passes, summed over the image",
            "Jethaliya 2022, section 4.1",
            _top,
            score="variance_sum",
        ),
        QueryStrategy(
            "ceal",
            "Likely missed, most uncertain and some confident images; the model labels the sure ones",
            "Jethaliya 2022, section 4.2",
            _ceal,
            score="variance_sum",
            pseudo_labels=True,
        ),
        QueryStrategy(
            "ceal_oracle",
            "The images that `ceal` asks people for, without pseudo-labels",
            "Jethaliya 2022, section 4.2, annotated part",
            _ceal,
            score="variance_sum",
        ),
    )
}
