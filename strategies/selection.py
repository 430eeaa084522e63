"""Selection functions: scores and embeddings of the pool -> an ordered batch of ``k`` indices.

All functions are pure: the same arrays, parameters and generator state give the same batch. Larger score = more
informative. Ties go to the lower index, so a pool sorted by image id gives the same ranking every time. Indices
are int64, in the order in which the images should be annotated. Misuse raises ``ValueError`` naming the argument.

Sources: 001 = Hao et al. 2021; 002 = Jethaliya 2022; 003 = Kim et al. 2024.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

logger = logging.getLogger(__name__)

Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]
Embeddings = npt.NDArray[np.floating]

_EXACT_LIMIT = 4096
"""Up to this many candidates similarities are float64; above, float32 keeps time and memory in bounds."""

_BLOCK = 2**20
"""Similarities computed at once: they fit a processor's cache."""


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
    values = _scores(scores)
    _batch_size(k, len(values))
    threshold = np.partition(values, len(values) - k)[len(values) - k]
    above = np.flatnonzero(values > threshold)
    ties = np.flatnonzero(values == threshold)[: k - len(above)]
    return _descending(values, np.concatenate([above, ties]))


NOTHING_HELD: Scores = np.zeros(0)


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
    _batch_size(k, n)
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
    values = _scores(scores)
    everything = np.concatenate([values, np.asarray(held, dtype=np.float64)])
    size = len(everything)
    kept = _descending(everything)[share_of(first, size) : size - share_of(last, size)]
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
    size = len(_scores(scores)) + len(held)
    inside = share_of(high, size)
    kept = ranked(scores, low, (size - inside) / size, held)
    _batch_size(k, len(kept))
    return kept[:k]


def representative(scores: Scores, embeddings: Embeddings, k: int, candidates: int | None = None) -> Indices:
    """Greedy maximum set cover of the most uncertain images (003, supplementary algorithm 1).

    Maximises ``F(S) = sum over candidates i of max over j in S of cos(h_i, h_j)``; the first pick is the most
    uncertain candidate, each later one raises ``F`` most.

    Args:
        scores: ``(n,)``.
        embeddings: ``(n, d)``; the cosine of a zero vector is 0.
        k: batch size.
        candidates: how many of the most uncertain images compete, ``k <= candidates <= n``; default ``2 * k``
            (or ``n`` where that is less).

    Returns:
        ``(k,)`` int64 indices in the order picked.

    Raises:
        ValueError: wrong shapes, not finite, ``k`` or ``candidates`` out of range.

    Note:
        Only rows whose best similarity changed are visited after a pick, so a batch costs about
        ``K^2 (d + 2 ln k)`` operations instead of ``K^2 (d + k)``. Above 4,096 candidates similarities are
        float32, and gains closer than 1e-8 per candidate count as ties.
    """
    values, vectors = _scores_and_embeddings(scores, embeddings)
    order = _candidates(values, k, candidates)
    pool = np.sort(order)
    exact = len(pool) <= _EXACT_LIMIT
    tie = (1e-12 if exact else 1e-8) * len(pool)
    unit = torch.from_numpy(_unit(vectors[pool]).astype(np.float64 if exact else np.float32))
    similarity = unit @ unit.T
    picked = [int(np.searchsorted(pool, order[0]))]
    covered = similarity[picked[0]].clone()
    gains = _rows_gain(similarity, covered, torch.full_like(covered, torch.inf), torch.arange(len(pool)))
    while len(picked) < k:
        gains[picked[-1]] = -torch.inf
        choice = int(torch.nonzero(gains >= gains.max() - tie)[0])
        better = torch.maximum(covered, similarity[choice])
        changed = torch.nonzero(better > covered).flatten()
        gains -= _rows_gain(similarity, covered, better, changed)
        covered = better
        picked.append(choice)
    return pool[picked]


def dissimilar(
    scores: Scores,
    embeddings: Embeddings,
    annotated: Embeddings,
    k: int,
    candidates: int | None = None,
    aggregate: str = "mean",
) -> Indices:
    """The most uncertain images least similar to what is already annotated (003, supplementary algorithm 2).

    Repeatedly adds the candidate whose similarity to *annotated and already picked* is least. With nothing
    annotated the first pick is the most uncertain candidate.

    Args:
        scores: ``(n,)``.
        embeddings: ``(n, d)`` of the pool; the cosine of a zero vector is 0.
        annotated: ``(m, d)`` of the labelled images, ``m`` may be 0.
        k: batch size.
        candidates: how many of the most uncertain images compete, ``k <= candidates <= n``; default ``2 * k``
            (or ``n`` where that is less).
        aggregate: similarity to a set is the ``"mean"`` cosine over its members (as published) or the ``"max"``.

    Returns:
        ``(k,)`` int64 indices in the order picked.

    Raises:
        ValueError: wrong shapes, not finite, ``k``, ``candidates`` or ``aggregate`` out of range.
    """
    values, vectors = _scores_and_embeddings(scores, embeddings)
    members = _annotated(annotated, vectors.shape[1])
    if aggregate not in ("mean", "max"):
        raise ValueError(f"aggregate must be 'mean' or 'max', got {aggregate!r}")
    order = _candidates(values, k, candidates)
    pool = np.sort(order)
    unit = _unit(vectors[pool])
    combine = np.add if aggregate == "mean" else np.maximum
    first = None if len(members) else int(np.searchsorted(pool, order[0]))
    return pool[_farthest(unit, _unit(members), k, first, combine)]


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
    values = _scores(scores)
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
    values = _scores(scores)
    if (values < 0).any():
        raise ValueError(f"scores must not be negative for power selection, got {values.min()}")
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    noise = rng.gumbel(0.0, 1.0 / beta, size=len(values))
    with np.errstate(divide="ignore"):
        disturbed = np.log(values) + noise
    _batch_size(k, len(values))
    return _descending(disturbed)[:k]


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
    values = _scores(scores)
    by_class = _matrix(class_scores, "class_scores", rows=len(values))
    if by_class.shape[1] == 0:
        raise ValueError("class_scores must have at least one class")
    if not 0 <= foreground <= 1:
        raise ValueError(f"foreground must be in [0, 1], got {foreground}")
    _batch_size(k, len(values))
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


def core_set(embeddings: Embeddings, annotated: Embeddings, k: int) -> Indices:
    """k-centre greedy: each pick is the image farthest from its nearest member (Sener & Savarese 2018).

    Distance is one minus the cosine; members are the labelled images and the picks. With nothing labelled the
    first pick is the image nearest the mean direction.

    Args:
        embeddings: ``(n, d)`` of the pool; the cosine of a zero vector is 0.
        annotated: ``(m, d)`` of the labelled images, ``m`` may be 0.
        k: batch size, 1 <= k <= n.

    Returns:
        ``(k,)`` int64 indices in the order picked.

    Raises:
        ValueError: wrong shapes, not finite, ``k`` out of range.
    """
    vectors = _matrix(embeddings, "embeddings")
    members = _unit(_annotated(annotated, vectors.shape[1]))
    _batch_size(k, len(vectors))
    unit = _unit(vectors)
    first = None if len(members) else _first_largest(unit @ unit.mean(0))
    return _farthest(unit, members, k, first, np.maximum)


def _farthest(unit: np.ndarray, members: np.ndarray, k: int, first: int | None, combine: np.ufunc) -> Indices:
    """Greedily pick the row least similar to members and picks; ``combine`` aggregates similarities to a set.

    The sum of cosines ranks as their mean does, because every candidate sees the same number of members.
    """
    if combine is np.add:
        similarity = unit @ members.sum(0) if len(members) else np.zeros(len(unit))
    else:
        similarity = np.full(len(unit), -np.inf)
        rows = max(1, _BLOCK // max(1, len(members)))
        for start in range(0, len(unit) if len(members) else 0, rows):
            similarity[start : start + rows] = (unit[start : start + rows] @ members.T).max(1)
    taken = np.zeros(len(unit), dtype=bool)
    picked = []
    for step in range(k):
        choice = first if step == 0 and first is not None else _first_largest(np.where(taken, -np.inf, -similarity))
        taken[choice] = True
        picked.append(choice)
        similarity = combine(similarity, unit @ unit[choice])
    return np.asarray(picked, dtype=np.int64)


def _first_largest(values: np.ndarray) -> int:
    # Equal vectors can differ in the last bits of a matrix product; they must still count as ties.
    return int(np.flatnonzero(values >= values.max() - 1e-12 * max(1.0, abs(values.max())))[0])


def _rows_gain(
    similarity: torch.Tensor, covered: torch.Tensor, better: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Sum over ``rows`` i of what column j gains there between ``covered[i]`` and ``better[i]``, for every j.

    That is ``clamp(similarity[i, j], covered[i], better[i]) - covered[i]``, in blocks that fit a processor's cache.
    """
    gain = torch.zeros(similarity.shape[1], dtype=torch.float64)
    for block in rows.split(128):
        values = similarity[block].sub_(covered[block, None]).relu_()
        gain += torch.minimum(values, (better - covered)[block, None], out=values).sum(0)
    return gain


def _descending(values: np.ndarray, among: np.ndarray | None = None) -> Indices:
    """Indices (all, or those in ``among``) by descending value, ties by ascending index."""
    index = np.arange(len(values)) if among is None else among
    return index[np.lexsort((index, -values[index]))].astype(np.int64)


def _candidates(values: np.ndarray, k: int, candidates: int | None) -> Indices:
    _batch_size(k, len(values))
    count = min(2 * k, len(values)) if candidates is None else candidates
    if not k <= count <= len(values):
        raise ValueError(f"candidates must be between k = {k} and the pool size {len(values)}, got {count}")
    return top(values, count)


def share_of(fraction: float, n: int) -> int:
    """``floor(fraction * n)``, robust against rounding: a tenth of 70 is 7."""
    return int(np.floor(fraction * n + 1e-9))


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def _batch_size(k: int, available: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= available:
        raise ValueError(f"k must be an integer from 1 to the {available} images available, got {k!r}")


def _scores(scores: Scores) -> npt.NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"scores must have the shape (n,) with n > 0, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite, found NaN or infinity")
    return values


def _matrix(array: npt.ArrayLike, name: str, rows: int | None = None) -> npt.NDArray[np.float64]:
    values = np.asarray(array, dtype=np.float64)
    if values.ndim != 2 or (rows is not None and len(values) != rows):
        raise ValueError(f"{name} must have the shape ({'n' if rows is None else rows}, d), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, found NaN or infinity")
    return values


def _annotated(annotated: Embeddings, width: int) -> npt.NDArray[np.float64]:
    values = _matrix(annotated, "annotated")
    if len(values) and values.shape[1] != width:
        raise ValueError(f"annotated must have the shape (m, {width}) like embeddings, got {values.shape}")
    return values


def _scores_and_embeddings(
    scores: Scores, embeddings: Embeddings
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    values = _scores(scores)
    return values, _matrix(embeddings, "embeddings", rows=len(values))
