"""Selection functions: scores and embeddings of the pool -> an ordered batch of ``k`` indices.

All functions are pure: the same arrays, parameters and generator state give the same batch. Larger score = more
informative. Ties go to the lower index, so a pool sorted by image id gives the same ranking every time. Indices
are int64, in the order in which the images should be annotated. Misuse raises ``ValueError`` naming the argument.

Sources: 001 = Hao et al. 2021; 002 = Jethaliya 2022; 003 = Kim et al. 2024.
"""

from __future__ import annotations

from strategies.selection.arrays import Embeddings, Indices, Scores, share_of
from strategies.selection.confidence import CealSplit, ceal
from strategies.selection.noise import class_stratified_power, power
from strategies.selection.ranking import NOTHING_HELD, band, ranked, top, trimmed_random, uniform
from strategies.selection.similarity import core_set, dissimilar, representative

__all__ = [
    "NOTHING_HELD",
    "CealSplit",
    "Embeddings",
    "Indices",
    "Scores",
    "band",
    "ceal",
    "class_stratified_power",
    "core_set",
    "dissimilar",
    "power",
    "ranked",
    "representative",
    "share_of",
    "top",
    "trimmed_random",
    "uniform",
]
