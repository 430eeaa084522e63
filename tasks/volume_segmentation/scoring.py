"""The scoring method ``records`` for volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai.transforms import Compose

from tasks.geometry.volumes import channel_files
from tasks.learning.checkpoints import Checkpoint, ModelRegistry
from tasks.segmentation.inferer import WindowInferer
from tasks.segmentation.scoring import ScoreSegmentations
from tasks.store.store import Store
from tasks.volume_segmentation.inference import checkpoint_preprocessing, volume_inferer


class ScoreVolumes(ScoreSegmentations):
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

    def inferer(self, checkpoint: Checkpoint) -> WindowInferer:
        """Sliding windows, stitched on the CPU."""
        return volume_inferer(checkpoint)

    def preprocessing(self, checkpoint: Checkpoint) -> Compose:
        """Orientation, spacing and normalisation."""
        return checkpoint_preprocessing(checkpoint, self.channels)
