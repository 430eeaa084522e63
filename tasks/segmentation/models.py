"""The models of the segmentation apps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.learning.checkpoints import Architecture as AnyArchitecture
from tasks.learning.checkpoints import ModelRegistry
from tasks.segmentation.networks import Architecture
from tasks.store.store import Store

SINGLE = "segmentation"
BOOTSTRAP = "segmentation_bootstrap"
BOOTSTRAP_MEMBERS = 4


def segmentation_models(
    folder: Path,
    store: Store,
    architecture: Callable[..., AnyArchitecture] = Architecture,
    labels: Sequence[str] | None = None,
) -> ModelRegistry:
    """Scoring uses the single model and, if there is one that has seen the same labels, the bootstrap committee."""
    return ModelRegistry(folder, store, architecture, (SINGLE, BOOTSTRAP), together=True, labels=labels)
