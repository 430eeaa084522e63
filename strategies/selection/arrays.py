"""Scores and embeddings as selections take them: checked, and how ties are broken."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]
Embeddings = npt.NDArray[np.floating]


def first_largest(values: np.ndarray) -> int:
    """Index of the first of the largest values."""
    # Equal vectors can differ in the last bits of a matrix product; they must still count as ties.
    return int(np.flatnonzero(values >= values.max() - 1e-12 * max(1.0, abs(values.max())))[0])


def descending(values: np.ndarray, among: np.ndarray | None = None) -> Indices:
    """Indices (all, or those in ``among``) by descending value, ties by ascending index."""
    index = np.arange(len(values)) if among is None else among
    return index[np.lexsort((index, -values[index]))].astype(np.int64)


def share_of(fraction: float, n: int) -> int:
    """``floor(fraction * n)``, robust against rounding: a tenth of 70 is 7."""
    return int(np.floor(fraction * n + 1e-9))


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a zero row stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def check_batch_size(k: int, available: int) -> None:
    """Raise :class:`ValueError` unless ``k`` is a whole number from 1 to what is available."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= available:
        raise ValueError(f"k must be an integer from 1 to the {available} images available, got {k!r}")


def checked_scores(scores: Scores) -> npt.NDArray[np.float64]:
    """Scores as ``(n,)`` float64, or :class:`ValueError`."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"scores must have the shape (n,) with n > 0, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite, found NaN or infinity")
    return values


def checked_matrix(array: npt.ArrayLike, name: str, rows: int | None = None) -> npt.NDArray[np.float64]:
    """Vectors as ``(n, d)`` float64, or :class:`ValueError` naming them."""
    values = np.asarray(array, dtype=np.float64)
    if values.ndim != 2 or (rows is not None and len(values) != rows):
        raise ValueError(f"{name} must have the shape ({'n' if rows is None else rows}, d), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, found NaN or infinity")
    return values


def checked_annotated(annotated: Embeddings, width: int) -> npt.NDArray[np.float64]:
    """Embeddings of annotated images as ``(m, width)``, or :class:`ValueError`."""
    values = checked_matrix(annotated, "annotated")
    if len(values) and values.shape[1] != width:
        raise ValueError(f"annotated must have the shape (m, {width}) like embeddings, got {values.shape}")
    return values


def scores_and_embeddings(
    scores: Scores, embeddings: Embeddings
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Both, of the same images."""
    values = checked_scores(scores)
    return values, checked_matrix(embeddings, "embeddings", rows=len(values))
