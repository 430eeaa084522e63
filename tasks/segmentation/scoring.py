"""What the scoring methods of segmentation models share: which networks score an image."""

from __future__ import annotations

from abc import abstractmethod

import torch
from monai.transforms import Compose

from tasks.learning.checkpoints import Checkpoint
from tasks.learning.scoring import Prepared, ScoreRecords
from tasks.segmentation.inferer import WindowInferer
from tasks.segmentation.models import BOOTSTRAP, SINGLE
from tasks.segmentation.records import Scorer


class ScoreSegmentations(ScoreRecords):
    """Scores images with the single model and, if there is one, the bootstrap committee."""

    @abstractmethod
    def inferer(self, checkpoint: Checkpoint) -> WindowInferer:
        """Windows as the checkpoint was validated with."""

    @abstractmethod
    def preprocessing(self, checkpoint: Checkpoint) -> Compose:
        """Preprocessing of images as the checkpoint was trained with."""

    def prepare(self, device: torch.device) -> Prepared:
        """Load the current models."""
        models = {row.name: self.registry.read(row) for row in self.registry.scoring_models()}
        if SINGLE not in models:
            raise ValueError("the checkpoint of the current model is missing: train again")
        single, committee = models[SINGLE], models.get(BOOTSTRAP)
        members = committee.networks(device) if committee and committee.architecture == single.architecture else []
        network, inferer = single.networks(device)[0], self.inferer(single)
        scorer = Scorer(network, members, inferer, single.labels, self.passes, self.seed, device)
        transform = self.preprocessing(single)
        return Prepared(lambda image: transform({"image": image})["image"].as_tensor(), scorer)
