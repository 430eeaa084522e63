"""Acquisition functions: probabilities of one image -> one number, larger = more informative.

All functions are pure, deterministic and free of side effects. ``probs`` are probabilities (softmax or
sigmoid outputs, never logits); a single sigmoid channel ``p`` stands for the two classes ``(1 - p, p)``.
Logarithms are natural and taken of ``max(p, 1e-12)``. Class vectors (no spatial axes) are computed in
float64; maps keep their own floating type (half precision is raised to float32) and are averaged in float64.

The ``*_map`` functions give the value of every voxel; a scoring pass over sliding windows stitches those maps
and reduces them with :func:`top_mean`, so that both ways run the same mathematics. They trust their argument
(at least two classes, valid probabilities): the functions that return one number validate it.

Sources: 001 = Hao et al. 2021; 002 = Jethaliya 2022; 003 = Kim et al. 2024; 004 = PCDAL 2023.
"""

from __future__ import annotations

import math

import torch

DROPOUT_VARIANCE_FRACTION = 0.001
"""Share of the variance map that ``dropout_variance`` averages: the top 0.1 % (003, Uncertainty Sampling)."""

BOOTSTRAP_VARIANCE_FRACTION = 1.0
"""``bootstrap_variance`` averages the whole variance map (003, Uncertainty Sampling)."""

_TINY = 1e-12
_RANGE_TOLERANCE = 1e-6


def entropy_kl(probs: torch.Tensor) -> torch.Tensor:
    """Committee disagreement: the members' entropies plus all ordered pairwise KL divergences (001, eqs. 1-2).

    Args:
        probs: ``[M, C, *S]``, class probabilities of ``M`` committee members.

    Returns:
        0-d tensor in nats, >= 0; for maps the mean over voxels.

    Raises:
        ValueError: wrong shape, NaN, or not probabilities.
    """
    return _mean(entropy_kl_map(_checked(probs, stacked=True)))


def variance(probs: torch.Tensor, top_fraction: float) -> torch.Tensor:
    """Mean of the largest values of the variance map (003, Uncertainty Sampling).

    ``dropout_variance`` uses ``top_fraction = 0.001`` over dropout passes, ``bootstrap_variance`` uses 1.0 over
    models trained on bootstrap samples.

    Args:
        probs: ``[T, C, *S]``, ``T`` stochastic outputs.
        top_fraction: share of voxels averaged, in (0, 1]; at least one voxel is always used.

    Returns:
        0-d tensor, 0 <= value <= 0.25.

    Raises:
        ValueError: wrong shape, NaN, not probabilities, or ``top_fraction`` out of range.
    """
    return top_mean(variance_map(_checked(probs, stacked=True)), top_fraction)


def variance_sum(probs: torch.Tensor) -> torch.Tensor:
    """Sum of the variance map over all voxels (002, section 4.1).

    Args:
        probs: ``[T, C, *S]``, ``T`` stochastic outputs.

    Returns:
        0-d tensor, >= 0.

    Raises:
        ValueError: wrong shape, NaN, or not probabilities.
    """
    return variance_map(_checked(probs, stacked=True)).sum(dtype=torch.float64)


def margin(probs: torch.Tensor) -> torch.Tensor:
    """Negative half distance between the two most probable classes (003, eq. 1, for any number of classes).

    Args:
        probs: ``[C, *S]``, one probability map or class vector.

    Returns:
        0-d tensor, -0.5 (certain) <= value <= 0; for two classes ``-mean(|p - 0.5|)``.

    Raises:
        ValueError: wrong shape, NaN, or not probabilities.
    """
    return _mean(margin_map(_checked(probs, stacked=False)))


def least_confidence(probs: torch.Tensor) -> torch.Tensor:
    """One minus the probability of the most probable class, averaged over voxels (003, Introduction).

    Args:
        probs: ``[C, *S]``, one probability map or class vector.

    Returns:
        0-d tensor, 0 <= value <= 1 - 1/C.

    Raises:
        ValueError: wrong shape, NaN, or not probabilities.
    """
    return _mean(least_confidence_map(_checked(probs, stacked=False)))


def flip_consistency(probs: torch.Tensor) -> torch.Tensor:
    """Mean squared deviation of flipped views from their mean (004, eqs. 1-3).

    Args:
        probs: ``[V, C, *S]``, outputs for ``V`` views, maps already flipped back to the image's orientation.

    Returns:
        0-d tensor, 0 (all views agree) <= value <= 0.25.

    Raises:
        ValueError: wrong shape, NaN, or not probabilities.
    """
    return _mean(variance_map(_checked(probs, stacked=True)))


def predictive_entropy(probs: torch.Tensor) -> torch.Tensor:
    """Entropy of the mean prediction, averaged over voxels (004, Max-Entropy).

    Args:
        probs: ``[T, C, *S]``, ``T`` stochastic or committee outputs.

    Returns:
        0-d tensor in nats, 0 <= value <= log C.

    Raises:
        ValueError: wrong shape, NaN, or not probabilities.
    """
    return _mean(predictive_entropy_map(_checked(probs, stacked=True)))


def bald(probs: torch.Tensor) -> torch.Tensor:
    """Mutual information: entropy of the mean minus mean of the entropies, averaged over voxels (004, ref. 43).

    Args:
        probs: ``[T, C, *S]``, ``T`` stochastic or committee outputs.

    Returns:
        0-d tensor in nats, 0 <= value <= ``predictive_entropy(probs)``.

    Raises:
        ValueError: wrong shape, NaN, or not probabilities.
    """
    checked = _checked(probs, stacked=True)
    return (_mean(predictive_entropy_map(checked)) - _mean(expected_entropy_map(checked))).clamp(min=0.0)


def class_entropies(probs: torch.Tensor) -> torch.Tensor:
    """Entropy of the mean prediction weighted with each class's mean probability (ClaSP PE, whole-image form).

    Args:
        probs: ``[T, C, *S]``, ``T`` stochastic or committee outputs.

    Returns:
        ``[C]`` float64 tensor in nats; the classes add up to ``predictive_entropy(probs)``.

    Raises:
        ValueError: wrong shape, NaN, or not probabilities.
    """
    mean = _checked(probs, stacked=True).mean(0)
    return weighted_entropies(mean, _entropy(mean, class_axis=0))


def weighted_entropies(mean_probs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    """Average of an entropy map weighted with each class's probability.

    Args:
        mean_probs: ``[C, *S]``, mean probabilities.
        entropy: ``[*S]``, entropy of every voxel.

    Returns:
        ``[C]`` float64 tensor in nats.
    """
    return (mean_probs * entropy).flatten(1).mean(1, dtype=torch.float64) if entropy.ndim else mean_probs * entropy


def variance_map(probs: torch.Tensor) -> torch.Tensor:
    """Population variance over the first axis, averaged over classes: ``[T, C, *S]`` -> ``[*S]``."""
    # torch.var over the leading axis is five times slower than this on a CPU.
    return (probs - probs.mean(0)).square_().mean(0).mean(0)


def predictive_entropy_map(probs: torch.Tensor) -> torch.Tensor:
    """Entropy of the mean over the first axis: ``[T, C, *S]`` -> ``[*S]`` in nats."""
    return _entropy(probs.mean(0), class_axis=0)


def expected_entropy_map(probs: torch.Tensor) -> torch.Tensor:
    """Mean over the first axis of the entropies: ``[T, C, *S]`` -> ``[*S]`` in nats."""
    return _entropy(probs, class_axis=1).mean(0)


def entropy_kl_map(probs: torch.Tensor) -> torch.Tensor:
    """:func:`entropy_kl` of every voxel: ``[M, C, *S]`` -> ``[*S]`` in nats."""
    # The sum over ordered pairs m != n of sum_c p_m log(p_m / p_n) needs no pair loop: with L = log p it is
    # M * sum_m p_m L_m - (sum_m p_m)(sum_n L_n), because the pairs m = n add nothing.
    log_p = probs.clamp(min=_TINY).log()
    negative_entropy = (probs * log_p).sum(0)
    divergence = probs.shape[0] * negative_entropy - probs.sum(0) * log_p.sum(0)
    return (divergence - negative_entropy).sum(0).clamp(min=0.0)


def margin_map(probs: torch.Tensor) -> torch.Tensor:
    """:func:`margin` of every voxel: ``[C, *S]`` -> ``[*S]``."""
    best, second = torch.topk(probs, k=2, dim=0).values
    return (second - best) / 2


def least_confidence_map(probs: torch.Tensor) -> torch.Tensor:
    """:func:`least_confidence` of every voxel: ``[C, *S]`` -> ``[*S]``."""
    return 1 - probs.amax(0)


def top_mean(values: torch.Tensor, fraction: float) -> torch.Tensor:
    """Mean of the largest ``max(1, floor(fraction * N))`` values (003: noise outside the region is filtered out).

    Args:
        values: any shape, ``N`` numbers in all.
        fraction: share of the values averaged, in (0, 1].

    Returns:
        0-d float64 tensor.

    Raises:
        ValueError: ``fraction`` out of range or no values.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"top_fraction must be in (0, 1], got {fraction}")
    flat = values.reshape(-1)
    if flat.numel() == 0:
        raise ValueError("values must not be empty")
    count = max(1, math.floor(fraction * flat.numel() + 1e-9))
    if count == flat.numel():
        return _mean(flat)
    return _mean(torch.topk(flat, count, sorted=False).values)


def _entropy(p: torch.Tensor, class_axis: int) -> torch.Tensor:
    return -(p * p.clamp(min=_TINY).log()).sum(class_axis)


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean(dtype=torch.float64)


def _checked(probs: torch.Tensor, stacked: bool) -> torch.Tensor:
    """Validate probabilities, raise their precision where needed, expand one sigmoid channel to two classes."""
    if not isinstance(probs, torch.Tensor):
        raise ValueError(f"probs must be a torch.Tensor, got {type(probs).__name__}")
    class_axis = 1 if stacked else 0
    layout = "[samples, classes, *spatial]" if stacked else "[classes, *spatial]"
    if probs.ndim <= class_axis or probs.numel() == 0:
        raise ValueError(f"probs must have the shape {layout} and not be empty, got {tuple(probs.shape)}")
    if not probs.is_floating_point():
        raise ValueError(f"probs must be floating point, got {probs.dtype}")
    sum_tolerance = 1e-2 if probs.dtype in (torch.float16, torch.bfloat16) else 1e-4
    if probs.ndim == class_axis + 1:
        probs = probs.double()
    elif probs.dtype in (torch.float16, torch.bfloat16):
        probs = probs.float()
    low, high = torch.aminmax(probs)
    # NaN makes every comparison false, so "not (inside)" refuses it too.
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise ValueError(f"probs must be probabilities in [0, 1] without NaN, got {low.item()} to {high.item()}")
    probs = probs.clamp(0, 1) if low < 0 or high > 1 else probs
    if probs.shape[class_axis] == 1:
        return torch.cat([1 - probs, probs], dim=class_axis)
    total_low, total_high = torch.aminmax(probs.sum(class_axis))
    if total_low < 1 - sum_tolerance or total_high > 1 + sum_tolerance:
        raise ValueError(f"probs must sum to 1 over classes, got {total_low.item()} to {total_high.item()}")
    return probs
