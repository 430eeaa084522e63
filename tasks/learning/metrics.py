"""How good a strategy is: Dice and HD95 of a model, learning curves, equivalence, paired comparison.

Source: Kim et al. 2024, section Experiments (equivalence after Lakens 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from monai.networks.utils import one_hot
from scipy import stats
from scipy.integrate import trapezoid
from sklearn.metrics import accuracy_score, precision_score, roc_auc_score


def segmentation_metrics(
    prediction: torch.Tensor, label: torch.Tensor, classes: int, spacing: Sequence[float], ignore_empty: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Dice and 95th percentile of the Hausdorff distance per foreground class.

    Args:
        prediction: ``[X, Y, Z]`` class values.
        label: ``[X, Y, Z]`` class values.
        classes: number of classes, background included.
        spacing: voxel size in mm.
        ignore_empty: whether a class that the label lacks has no Dice; else it is 1 if the prediction lacks it too.

    Returns:
        Two ``(classes - 1,)`` arrays. Dice is NaN where the label lacks the class and ``ignore_empty``; HD95 (mm) is
        NaN where label or prediction lack it.
    """
    y_pred, y = _one_hot(prediction, classes), _one_hot(label, classes)
    dice = _dice(y_pred, y, ignore_empty)
    hd95 = np.full(classes - 1, np.nan)
    for index in range(1, classes):
        if y[0, index].any() and y_pred[0, index].any():
            pair = (y_pred[:, index : index + 1], y[:, index : index + 1])
            distance = compute_hausdorff_distance(
                *pair, include_background=True, percentile=95, spacing=[float(side) for side in spacing]
            )
            hd95[index - 1] = float(distance)
    return dice, hd95


def dice_per_label(
    prediction: torch.Tensor, label: torch.Tensor, classes: int, ignore_empty: bool = True
) -> np.ndarray:
    """Dice per foreground class; arguments and result as in :func:`segmentation_metrics`."""
    return _dice(_one_hot(prediction, classes), _one_hot(label, classes), ignore_empty)


def _one_hot(mask: torch.Tensor, classes: int) -> torch.Tensor:
    return one_hot(mask[None, None], classes)


def _dice(y_pred: torch.Tensor, y: torch.Tensor, ignore_empty: bool) -> np.ndarray:
    return np.asarray(compute_dice(y_pred, y, include_background=False, ignore_empty=ignore_empty)[0])


def area_under_curve(labelled: Sequence[int], values: Sequence[float]) -> float:
    """Mean height of a learning curve: its trapezoidal area over the range of labelled images, divided by the range."""
    x, y = np.asarray(labelled, float), np.asarray(values, float)
    if len(x) < 2:
        return float(y.mean())
    return float(trapezoid(y, x) / (x[-1] - x[0]))


def equivalence_bound(full: Sequence[float]) -> float:
    """Half-width within which a model counts as equivalent to the full-data model (Kim et al. 2024, Experiments).

    Twice the half-width at which the full-data model is equivalent to itself at p = 0.05 in two one-sided t tests.

    Args:
        full: result of the full-data model on every test image.
    """
    values = np.asarray(full, float)
    n = len(values)
    standard_error = np.sqrt(2 * values.var(ddof=1) / n)
    return float(2 * stats.t.ppf(0.95, 2 * n - 2) * standard_error)


def equivalent(values: Sequence[float], full: Sequence[float], alpha: float = 0.05) -> bool:
    """Whether a model is statistically equivalent to the full-data model (two one-sided Student's t tests).

    Args:
        values: result of the model on every test image.
        full: result of the full-data model on the same images.
        alpha: level of both tests.
    """
    bound = equivalence_bound(full)
    shifted = np.asarray(values, float)
    above = stats.ttest_ind(shifted + bound, full, alternative="greater").pvalue
    below = stats.ttest_ind(shifted - bound, full, alternative="less").pvalue
    return bool(max(above, below) < alpha)


def labels_needed(curve: Mapping[int, Sequence[float]], full: Sequence[float]) -> int | None:
    """The smallest number of labelled images whose model is equivalent to the full-data model.

    Args:
        curve: labelled images -> result on every test image.
        full: result of the full-data model on the same images.

    Returns:
        The number, or None if no point of the curve is equivalent.
    """
    return next((count for count in sorted(curve) if equivalent(curve[count], full)), None)


def first_reaching(labelled: Sequence[int], values: Sequence[float], target: float) -> int | None:
    """The smallest number of labelled images whose result reaches a target, None if none does."""
    return next((count for count, value in sorted(zip(labelled, values, strict=True)) if value >= target), None)


def compare_to_baseline(
    baseline: Sequence[float], others: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, float]]:
    """Paired comparison of areas under the curve over seeds, corrected after Holm.

    Args:
        baseline: one area per seed.
        others: strategy -> one area per seed, in the same order of seeds.

    Returns:
        Strategy -> mean ``difference``, ``p`` of the paired t test and ``p_holm``; p is NaN with fewer than 2 seeds.
    """
    results = {}
    for name, areas in others.items():
        difference = np.asarray(areas, float) - np.asarray(baseline, float)
        p = float(stats.ttest_rel(areas, baseline).pvalue) if len(difference) > 1 else float("nan")
        results[name] = {"difference": float(difference.mean()), "p": p}
    adjusted = holm([row["p"] for row in results.values()])
    for row, p in zip(results.values(), adjusted, strict=True):
        row["p_holm"] = p
    return results


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    result = np.empty_like(p)
    result[order] = adjusted
    return [float(value) for value in result]


def classification_metrics(probs: torch.Tensor, classes: torch.Tensor) -> dict[str, float]:
    """How good class probabilities are.

    Args:
        probs: ``(n, C)`` probabilities.
        classes: ``(n,)`` true classes.

    Returns:
        ``auc`` (one against the rest, mean over the classes for which it is defined, NaN if for none), ``accuracy``,
        ``precision`` (mean over classes; 0 for a class that is never predicted) and mean ``cross_entropy`` in nats; all
        are NaN if a probability is.
    """
    truth = classes.long().cpu().numpy()
    p = probs.double().cpu().numpy()
    if not np.isfinite(p).all():  # the training diverged, and says so itself
        return dict.fromkeys(("auc", "accuracy", "precision", "cross_entropy"), float("nan"))
    every = np.arange(p.shape[1])
    areas = [roc_auc_score(truth == index, p[:, index]) for index in every if 0 < (truth == index).sum() < len(truth)]
    predicted = p.argmax(1)
    return {
        "auc": float(np.mean(areas)) if areas else float("nan"),
        "accuracy": float(accuracy_score(truth, predicted)),
        "precision": float(precision_score(truth, predicted, labels=every, average="macro", zero_division=0)),
        "cross_entropy": float(-np.log(p[np.arange(len(truth)), truth].clip(min=1e-12)).mean()),
    }
