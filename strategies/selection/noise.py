"""Scores with noise, so that a batch is not all of one kind."""

from __future__ import annotations

import numpy as np

from strategies.selection.arrays import Indices, Scores, check_batch_size, checked_matrix, checked_scores, descending


def power(scores: Scores, k: int, rng: np.random.Generator, beta: float = 1.0) -> Indices:
    """Top ``k`` after adding ``Gumbel(0, 1/beta)`` noise to ``log(score)`` (PowerBALD, Kirsch et al. 2023).

    Equals drawing without replacement with weights ``score ** beta``.

    Args:
        scores: ``(n,)``, not negative; zeros come last.
        k: batch size, 1 <= k <= n.
        rng: source of randomness.
        beta: > 0; large values approach :func:`top`, small ones :func:`uniform`.

    Returns:
        ``(k,)`` int64 indices, largest disturbed score first.

    Raises:
        ValueError: wrong shape, not finite, negative scores, ``beta`` or ``k`` out of range.
    """
    values = checked_scores(scores)
    if (values < 0).any():
        raise ValueError(f"scores must not be negative for power selection, got {values.min()}")
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    noise = rng.gumbel(0.0, 1.0 / beta, size=len(values))
    with np.errstate(divide="ignore"):
        disturbed = np.log(values) + noise
    check_batch_size(k, len(values))
    return descending(disturbed)[:k]


def class_stratified_power(
    scores: Scores,
    class_scores: Scores,
    k: int,
    rng: np.random.Generator,
    beta: float,
    foreground: float = 0.66,
) -> Indices:
    """Power selection with a share of the batch reserved for the foreground classes (ClaSP PE, whole-image form).

    ``round(foreground * k)`` images are split evenly over the classes (remainders to the first classes) and taken
    by that class's scores, the others by ``scores``; an image is picked once.

    Args:
        scores: ``(n,)``, predictive entropies.
        class_scores: ``(n, classes)``, one column per foreground class, see
            :func:`strategies.acquisition.class_entropies`.
        k: batch size, 1 <= k <= n.
        rng: source of randomness.
        beta: power of the noise, see :func:`power`.
        foreground: share of the batch that goes to the classes, in [0, 1].

    Returns:
        ``(k,)`` int64 indices: the classes' picks in class order, then the others.

    Raises:
        ValueError: wrong shapes, not finite, negative scores, ``foreground``, ``beta`` or ``k`` out of range.
    """
    values = checked_scores(scores)
    by_class = checked_matrix(class_scores, "class_scores", rows=len(values))
    if by_class.shape[1] == 0:
        raise ValueError("class_scores must have at least one class")
    if not 0 <= foreground <= 1:
        raise ValueError(f"foreground must be in [0, 1], got {foreground}")
    check_batch_size(k, len(values))
    quota = round(foreground * k)
    each, remainder = divmod(quota, by_class.shape[1])
    sizes = [each + (c < remainder) for c in range(by_class.shape[1])] + [k - quota]
    free = np.arange(len(values))
    picked = []
    for column, size in zip([*by_class.T, values], sizes, strict=True):
        if size:
            chosen = free[power(column[free], size, rng, beta)]
            picked.append(chosen)
            free = np.setdiff1d(free, chosen)
    return np.concatenate(picked).astype(np.int64)
