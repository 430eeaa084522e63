"""Uncertain and unlike each other, unlike what is annotated, or spread over the pool."""

from __future__ import annotations

import numpy as np
import torch

from strategies.selection.arrays import (
    Embeddings,
    Indices,
    Scores,
    check_batch_size,
    checked_annotated,
    checked_matrix,
    first_largest,
    scores_and_embeddings,
    unit_vectors,
)
from strategies.selection.ranking import top

_EXACT_LIMIT = 4096
"""Up to this many candidates similarities are float64; above, float32 keeps time and memory in bounds."""

_BLOCK = 2**20
"""Similarities computed at once: they fit a processor's cache."""


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
    values, vectors = scores_and_embeddings(scores, embeddings)
    order = most_uncertain(values, k, candidates)
    pool = np.sort(order)
    exact = len(pool) <= _EXACT_LIMIT
    tie = (1e-12 if exact else 1e-8) * len(pool)
    unit = torch.from_numpy(unit_vectors(vectors[pool]).astype(np.float64 if exact else np.float32))
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
    values, vectors = scores_and_embeddings(scores, embeddings)
    members = checked_annotated(annotated, vectors.shape[1])
    if aggregate not in ("mean", "max"):
        raise ValueError(f"aggregate must be 'mean' or 'max', got {aggregate!r}")
    order = most_uncertain(values, k, candidates)
    pool = np.sort(order)
    unit = unit_vectors(vectors[pool])
    combine = np.add if aggregate == "mean" else np.maximum
    first = None if len(members) else int(np.searchsorted(pool, order[0]))
    return pool[_farthest(unit, unit_vectors(members), k, first, combine)]


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
    vectors = checked_matrix(embeddings, "embeddings")
    members = unit_vectors(checked_annotated(annotated, vectors.shape[1]))
    check_batch_size(k, len(vectors))
    unit = unit_vectors(vectors)
    first = None if len(members) else first_largest(unit @ unit.mean(0))
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
        choice = first if step == 0 and first is not None else first_largest(np.where(taken, -np.inf, -similarity))
        taken[choice] = True
        picked.append(choice)
        similarity = combine(similarity, unit @ unit[choice])
    return np.asarray(picked, dtype=np.int64)


def most_uncertain(values: np.ndarray, k: int, candidates: int | None) -> Indices:
    """The most uncertain images, ``2 k`` of them by default, by descending score."""
    check_batch_size(k, len(values))
    count = min(2 * k, len(values)) if candidates is None else candidates
    if not k <= count <= len(values):
        raise ValueError(f"candidates must be between k = {k} and the pool size {len(values)}, got {count}")
    return top(values, count)
