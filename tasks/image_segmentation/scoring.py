"""The scoring method ``records`` for images; where the strategy asks for it, it makes pseudo-labels too."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import Compose
from monailabel.interfaces.datastore import Datastore

from tasks.image_segmentation.inference import checkpoint_preprocessing, image_inferer
from tasks.image_segmentation.model_masks import PseudoLabeller
from tasks.learning.checkpoints import Checkpoint, ModelRegistry
from tasks.segmentation.inferer import WindowInferer
from tasks.segmentation.scoring import ScoreSegmentations
from tasks.store.store import Store


class ScoreSlices(ScoreSegmentations):
    """Scores images; afterwards the model labels the part of the pool that it is sure of.

    Args:
        registry: the current models.
        store: takes the records.
        labeller: makes the pseudo-labels; None for none.
        passes: stochastic passes ``T``.
        seed: decides the dropout masks.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        store: Store,
        labeller: PseudoLabeller | None = None,
        passes: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(registry, store, passes, seed)
        self.labeller = labeller

    def inferer(self, checkpoint: Checkpoint) -> WindowInferer:
        """The whole image at once."""
        return image_inferer(checkpoint)

    def preprocessing(self, checkpoint: Checkpoint) -> Compose:
        """Size and normalisation."""
        return checkpoint_preprocessing(checkpoint)

    def scored(self, datastore: Datastore, device: torch.device) -> dict[str, Any]:
        """Make the pseudo-labels of this model version."""
        return {} if self.labeller is None else {"pseudo_labels": self.labeller(datastore, device)}
