"""The inferers ``segmentation`` and ``segmentation_bootstrap`` (mean of the committee)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.transforms import Compose, Invertd, SqueezeDimd, Transform
from monailabel.interfaces.tasks.infer_v2 import InferType

from tasks.inference import CurrentModelInferTask
from tasks.models import Checkpoint, ModelRegistry
from tasks.segmentation.inferer import VolumeInferer
from tasks.segmentation.presets import voxels
from tasks.segmentation.volumes import preprocessing


class VolumeInferTask(CurrentModelInferTask):
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
        values = {label: value for value, label in enumerate(labels, start=1)}
        super().__init__(name, description, registry, InferType.SEGMENTATION, values, dimension=3)
        self.channels = list(channels)

    def preprocessing(self, checkpoint: Checkpoint) -> Compose:
        """Orientation, spacing and normalisation."""
        return checkpoint_preprocessing(checkpoint, self.channels)

    def inferer(self, data: dict[str, Any] | None = None) -> VolumeInferer:
        """Sliding windows; the map is stitched on the CPU, so that GPU memory is bounded by the window."""
        return volume_inferer(self.current(data).checkpoint)

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Most probable class, in the image's own orientation and spacing."""
        # Inverting needs the very transform objects that were applied: a model published in between must not matter.
        transform = self.current(data).preprocessing
        return [
            _LabelMap("pred"),
            Invertd("pred", transform=transform, orig_keys="image", nearest_interp=True, to_tensor=True),
            SqueezeDimd("pred", dim=0),
        ]


def volume_inferer(checkpoint: Checkpoint) -> VolumeInferer:
    """Sliding windows as the checkpoint was validated with, stitched on the CPU."""
    settings = checkpoint.preprocessing
    roi = voxels(settings["roi_size"], "roi_size")
    return VolumeInferer(roi, settings["overlap"], checkpoint.architecture.divisor, torch.device("cpu"))


def checkpoint_preprocessing(checkpoint: Checkpoint, channels: Sequence[str]) -> Compose:
    """Preprocessing of images as the checkpoint was trained with."""
    architecture = checkpoint.architecture
    spacing = checkpoint.preprocessing["spacing"]
    return preprocessing(channels, architecture.out_channels, architecture.in_channels, spacing)


class _LabelMap(Transform):
    """Probabilities ``[C, *S]`` to the most probable class ``[1, *S]``, keeping the geometry."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        data[self.key] = data[self.key].argmax(0, keepdim=True).to(torch.uint8)
        return data
