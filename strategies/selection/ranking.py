"""By rank: the top, or a part of the pool by score."""

from __future__ import annotations

import numpy as np

from strategies.selection.arrays import Indices, Scores, check_batch_size, checked_scores, descending, share_of

NOTHING_HELD: Scores = np.zeros(0)
"""No unlabelled image is held by an annotator."""


def top(scores: Scores, k: int) -> Indices:
    """The ``k`` largest scores, largest first.

    Args:
        scores: ``(n,)``.
        k: batch size, 1 <= k <= n.

    Returns:
        ``(k,)`` int64 indices.

    Raises:
        ValueError: wrong shape, not finite, ``k`` out of range.
    """
    values = checked_scores(scores)
    check_batch_size(k, len(values))
    threshold = np.partition(values, len(values) - k)[len(values) - k]
    above = np.flatnonzero(values > threshold)
    ties = np.flatnonzero(values == threshold)[: k - len(above)]
    return descending(values, np.concatenate([above, ties]))


def uniform(n: int, k: int, rng: np.random.Generator) -> Indices:
    """``k`` of ``n`` images drawn uniformly without replacement: the ``random`` baseline.

    Args:
        n: pool size.
        k: batch size, 1 <= k <= n.
        rng: source of randomness.

    Returns:
        ``(k,)`` int64 indices in drawn order.

    Raises:
        ValueError: ``k`` out of range.
    """
    check_batch_size(k, n)
    return rng.permutation(n)[:k].astype(np.int64)


def ranked(scores: Scores, first: float, last: float, held: Scores = NOTHING_HELD) -> Indices:
    """The images between two shares of the descending order.

    Args:
        scores: ``(n,)``.
        first: share cut off at the upper end, ``floor(first * n)`` images.
        last: share cut off at the lower end, likewise.
        held: ``(h,)`` scores of further images that take part in the order but cannot be picked.

    Returns:
        Indices into ``scores`` in rank order; of equal scores the held ones come last.

    Raises:
        ValueError: wrong shape or not finite.
    """
    values = checked_scores(scores)
    everything = np.concatenate([values, np.asarray(held, dtype=np.float64)])
    size = len(everything)
    kept = descending(everything)[share_of(first, size) : size - share_of(last, size)]
    return kept[kept < len(values)]


def trimmed_random(
    scores: Scores, k: int, rng: np.random.Generator, trim: float = 0.1, held: Scores = NOTHING_HELD
) -> Indices:
    """Uniform draw after dropping the highest and lowest scores (001, sections 3.2-3.3).

    The first ``floor(trim * n)`` of the descending order are outliers, the last ``floor(trim * n)`` hold nothing
    to learn.

    Args:
        scores: ``(n,)``.
        k: batch size, at most the number of images left after trimming.
        rng: source of randomness.
        trim: share dropped at each end, in [0, 0.5).
        held: see :func:`ranked`.

    Returns:
        ``(k,)`` int64 indices in drawn order.

    Raises:
        ValueError: wrong shape, not finite, ``trim`` or ``k`` out of range.
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim must be in [0, 0.5), got {trim}")
    kept = ranked(scores, trim, trim, held)
    return kept[uniform(len(kept), k, rng)]


def band(scores: Scores, k: int, low: float = 0.1, high: float = 0.4, held: Scores = NOTHING_HELD) -> Indices:
    """The first ``k`` of a contiguous range of ranks (001, fig. 3).

    Args:
        scores: ``(n,)``.
        k: batch size, at most the number of images in the range.
        low: start of the range as a share of the descending order.
        high: end of the range, ``low < high <= 1``.
        held: see :func:`ranked`.

    Returns:
        ``(k,)`` int64 indices in rank order, from rank ``floor(low * n)`` on.

    Raises:
        ValueError: wrong shape, not finite, ``low``, ``high`` or ``k`` out of range.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"low and high must satisfy 0 <= low < high <= 1, got {low} and {high}")
    size = len(checked_scores(scores)) + len(held)
    inside = share_of(high, size)
    kept = ranked(scores, low, (size - inside) / size, held)
    check_batch_size(k, len(kept))
    return kept[:k]
