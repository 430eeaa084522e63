"""The inferers ``segmentation`` and ``segmentation_bootstrap`` (mean of the committee)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.transforms import Compose

from tasks.geometry.volumes import preprocessing
from tasks.learning.checkpoints import Checkpoint, ModelRegistry
from tasks.segmentation.inference import SegmentationInferTask
from tasks.segmentation.inferer import WindowInferer
from tasks.volume_segmentation.presets import voxels


class VolumeInferTask(SegmentationInferTask):
    """Segments a volume with the current model of a name; the result has the image's own geometry.

    Args:
        name: name of the published model.
        description: one line for people.
        registry: finds the current checkpoint.
        labels: foreground label names, value 1 first.
        channels: channel names, empty for single files.
    """

    def __init__(
        self, name: str, description: str, registry: ModelRegistry, labels: Sequence[str], channels: Sequence[str] = ()
    ) -> None:
        super().__init__(name, description, registry, labels, dimension=3)
        self.channels = list(channels)

    def preprocessing(self, checkpoint: Checkpoint) -> Compose:
        """Orientation, spacing and normalisation."""
        return checkpoint_preprocessing(checkpoint, self.channels)

    def inferer(self, data: dict[str, Any] | None = None) -> WindowInferer:
        """Sliding windows; the map is stitched on the CPU, so that GPU memory is bounded by the window."""
        return volume_inferer(self.current(data).checkpoint)


def volume_inferer(checkpoint: Checkpoint) -> WindowInferer:
    """Sliding windows as the checkpoint was validated with, stitched on the CPU."""
    settings = checkpoint.preprocessing
    roi = voxels(settings["roi_size"], "roi_size")
    return WindowInferer(roi, settings["overlap"], checkpoint.architecture.divisor, torch.device("cpu"))


def checkpoint_preprocessing(checkpoint: Checkpoint, channels: Sequence[str]) -> Compose:
    """Preprocessing of images as the checkpoint was trained with."""
    architecture = checkpoint.architecture
    spacing, intensity = checkpoint.preprocessing["spacing"], checkpoint.preprocessing.get("intensity")
    sizes = (architecture.out_channels, architecture.in_channels)
    return preprocessing(channels, *sizes, spacing, intensity=intensity)
