"""The scoring method ``records`` for volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from strategies.store import Store
from tasks.models import ModelRegistry
from tasks.scoring import Prepared, ScoreRecords
from tasks.segmentation.inference import checkpoint_preprocessing, volume_inferer
from tasks.segmentation.models import BOOTSTRAP, SINGLE
from tasks.segmentation.records import Scorer
from tasks.segmentation.volumes import channel_files


class ScoreVolumes(ScoreRecords):
    """Scores volumes with the single model and, if there is one, the bootstrap committee.

    Args:
        registry: the current models.
        store: takes the records.
        channels: channel names, empty for single files.
        passes: stochastic passes ``T``.
        seed: decides the dropout masks.
    """

    def __init__(
        self, registry: ModelRegistry, store: Store, channels: Sequence[str] = (), passes: int = 20, seed: int = 0
    ) -> None:
        super().__init__(registry, store, passes, seed)
        self.channels = list(channels)

    def files(self, image: str) -> list[Path]:
        """The files of all channels."""
        return channel_files(image, self.channels)

    def prepare(self, device: torch.device) -> Prepared:
        """Load the current models."""
        single = self.registry.load(SINGLE)
        if single is None:
            raise ValueError("the checkpoint of the current model is missing: train again")
        committee = self.registry.load(BOOTSTRAP)
        members = committee.networks(device) if committee and committee.architecture == single.architecture else []
        inferer = volume_inferer(single)
        scorer = Scorer(single.networks(device)[0], members, inferer, single.labels, self.passes, self.seed, device)
        transform = checkpoint_preprocessing(single, self.channels)
        return Prepared(lambda image: transform({"image": image})["image"].as_tensor(), scorer)
