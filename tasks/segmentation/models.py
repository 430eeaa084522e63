"""The models of the volumetric app."""

from __future__ import annotations

from pathlib import Path

from strategies.store import Store
from tasks.models import ModelRegistry
from tasks.segmentation.networks import Architecture

SINGLE = "segmentation"
BOOTSTRAP = "segmentation_bootstrap"


def segmentation_models(folder: Path, store: Store) -> ModelRegistry:
    """Scoring uses the single model and, if there is one, the bootstrap committee."""
    return ModelRegistry(folder, store, Architecture, (SINGLE, BOOTSTRAP), together=True)
