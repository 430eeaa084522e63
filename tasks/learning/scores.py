"""What a scoring pass gives for one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """What one pass learned about one image.

    Attributes:
        scores: acquisition name -> score.
        class_entropies: class name -> entropy weighted with the class's probability, in nats.
        embedding: ``(d,)`` float32.
    """

    scores: dict[str, float]
    class_entropies: dict[str, float]
    embedding: np.ndarray
