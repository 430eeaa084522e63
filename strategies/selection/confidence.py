"""Uncertain images for people, confident ones for the model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from strategies.selection.arrays import Indices, Scores, checked_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CealSplit:
    """One CEAL round: indices for the annotator, their groups, and indices that the model labels itself.

    Attributes:
        oracle: indices for the annotator: lowest, then highest, then the random draw from the confident part.
        pseudo: indices for pseudo-labels, most confident first.
        groups: ``"lowest"``, ``"highest"`` or ``"confident"`` for every entry of ``oracle``.
        shrunk: one sentence when the pool was too small for the asked sizes, else empty.
    """

    oracle: Indices
    pseudo: Indices
    groups: tuple[str, ...] = ()
    shrunk: str = ""


def ceal(
    scores: Scores,
    rng: np.random.Generator,
    round: int,
    lowest: int = 10,
    highest: int = 10,
    confident: int = 15,
    pseudo_per_round: int = 20,
) -> CealSplit:
    """Split a pool between the annotator and the model (002, section 4.2).

    Ascending by score: the ``lowest`` images (likely missed by the model) and the ``highest`` go to the annotator.
    The confident part, the next ``confident + pseudo_per_round * round`` images, holds wrong predictions among the
    right ones: ``confident`` of them, drawn at random, go to the annotator too, the others get pseudo-labels.

    Args:
        scores: ``(n,)``, ``variance_sum`` in the paper.
        rng: source of randomness.
        round: 1 for the first round; later rounds trust the model with more images.
        lowest: images with the smallest scores.
        highest: images with the largest scores.
        confident: images drawn from the confident part.
        pseudo_per_round: pseudo-labels per round number.

    Returns:
        The split; groups never overlap. A pool too small for the sizes shrinks the pseudo-labels first, then the
        random draw, then the lowest, and ``shrunk`` says so.

    Raises:
        ValueError: wrong shape, not finite, empty, ``round`` below 1 or a negative size.
    """
    values = checked_scores(scores)
    if round < 1:
        raise ValueError(f"round must be at least 1, got {round}")
    asked = {"highest": highest, "lowest": lowest, "confident": confident, "pseudo_per_round": pseudo_per_round * round}
    for name, wanted in asked.items():
        if wanted < 0:
            raise ValueError(f"{name} must not be negative, got {wanted}")
    left = len(values)
    sizes: dict[str, int] = {}
    for name, wanted in asked.items():
        sizes[name] = min(wanted, left)
        left -= sizes[name]
    ascending = np.lexsort((np.arange(len(values)), values)).astype(np.int64)
    low = ascending[: sizes["lowest"]]
    high = ascending[len(values) - sizes["highest"] :][::-1]
    confident_part = ascending[sizes["lowest"] : sizes["lowest"] + sizes["confident"] + sizes["pseudo_per_round"]]
    drawn = np.zeros(len(confident_part), dtype=bool)
    drawn[rng.permutation(len(confident_part))[: sizes["confident"]]] = True
    shrunk = ", ".join(f"{name} {wanted} -> {sizes[name]}" for name, wanted in asked.items() if wanted > sizes[name])
    if shrunk:
        shrunk = f"pool of {len(values)} images is too small: {shrunk}"
        logger.warning("ceal: %s", shrunk)
    return CealSplit(
        oracle=np.concatenate([low, high, confident_part[drawn]]),
        pseudo=confident_part[~drawn],
        groups=("lowest",) * len(low) + ("highest",) * len(high) + ("confident",) * int(drawn.sum()),
        shrunk=shrunk,
    )
