"""The models of the classification app."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.classification.networks import ClassifierArchitecture
from tasks.learning.checkpoints import ModelRegistry
from tasks.store.store import Store

CLASSIFIER = "classifier"
COMMITTEE = "classifier_committee"


def classification_models(folder: Path, store: Store, labels: Sequence[str] | None = None) -> ModelRegistry:
    """Scoring uses the committee or the single model, whichever was trained last."""
    return ModelRegistry(folder, store, ClassifierArchitecture, (COMMITTEE, CLASSIFIER), together=False, labels=labels)
