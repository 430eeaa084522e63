"""The acquisition scores that records hold, and between which values each lies.

``math.inf`` is no bound; the functions are in :mod:`strategies.acquisition`, whose docstrings give the ranges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

Range = tuple[float, float]
"""Smallest and largest value."""

ANY: Range = (-math.inf, math.inf)
NOT_NEGATIVE: Range = (0.0, math.inf)
SCORE_RANGES: Mapping[str, Range] = {
    "dropout_variance": (0.0, 0.25),
    "bootstrap_variance": (0.0, 0.25),
    "variance_sum": NOT_NEGATIVE,
    "entropy_kl": NOT_NEGATIVE,
    "flip_consistency": (0.0, 0.25),
    "margin": (-0.5, 0.0),
    "least_confidence": (0.0, 1.0),
    "predictive_entropy": NOT_NEGATIVE,
    "bald": NOT_NEGATIVE,
}
"""Name in a record -> range."""


def lies_within(inner: Range, outer: Range) -> bool:
    """Whether every value of one range is one of another."""
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def shown(values: Range) -> str:
    """A range for people, such as ``0 to infinity``."""
    return " to ".join({math.inf: "infinity", -math.inf: "minus infinity"}.get(value, f"{value:g}") for value in values)
