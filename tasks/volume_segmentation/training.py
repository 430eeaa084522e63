"""The trainers ``segmentation`` (one model) and ``segmentation_bootstrap`` (a committee)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    RandCropByPosNegLabeld,
    SpatialPadd,
)
from monailabel.tasks.train.basic_train import Context

from tasks.common.files import ImageError
from tasks.geometry.volumes import channel_files, preprocessing, read_label, read_volume
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.groups import Grouping
from tasks.learning.training import parameters
from tasks.segmentation.inferer import WindowInferer
from tasks.segmentation.networks import Architecture
from tasks.segmentation.outside import BUNDLE
from tasks.segmentation.training import SegmentationTrainTask, augmentation
from tasks.volume_segmentation.bundle import Bundle
from tasks.volume_segmentation.presets import Preset, voxels


class VolumeTrainTask(SegmentationTrainTask):
    """Trains one segmentation model or a bootstrap committee.

    Args:
        name: name under which the model is published, also the trainer's name.
        description: one line for people.
        registry: where the result is published.
        preset: default hyper-parameters; requests may change each of them.
        labels: foreground label names, value 1 first.
        channels: channel names, empty for single files.
        seed: makes split, sampling and initial weights reproducible.
        members: 1 for a single model; more for a committee, each on a sample with replacement.
        grouping: images that must be on the same side of the validation split.
    """

    def __init__(
        self,
        name: str,
        description: str,
        registry: ModelRegistry,
        preset: Preset,
        labels: Sequence[str],
        channels: Sequence[str] = (),
        seed: int = 0,
        members: int = 1,
        grouping: Grouping | None = None,
    ) -> None:
        super().__init__(name, description, registry, preset, labels, seed, members, grouping)
        self.channels = list(channels)
        self.bundle: Bundle | None = None
        """Says how images are preprocessed, if the network is a bundle's."""
        self._in_channels = 1

    def check_item(self, item: dict[str, Any]) -> None:
        """Read the image and its label: shape and values must fit."""
        image = read_volume(item["image"], self.channels)
        read_label(item["label"], len(self.label_names) + 1, like=image.shape[1:])
        item["channels"] = image.shape[0]

    def files(self, item: Mapping[str, Any]) -> list[Path]:
        """The image, its further channels, and the label."""
        image, *label = super().files(item)
        return [*channel_files(image, self.channels), *label]

    def check_together(self, items: Sequence[Mapping[str, Any]]) -> None:
        """All images must have the same channels."""
        self._in_channels = items[0]["channels"]
        for item in items:
            if item["channels"] != self._in_channels:
                raise ImageError(
                    f"{item['image']} has {item['channels']} channels, {items[0]['image']} has {self._in_channels}"
                )

    def architecture(self, preset: Preset) -> Architecture:
        """The 3D U-Net."""
        return preset.architecture(self._in_channels, len(self.label_names) + 1)

    def inference_settings(self, preset: Preset) -> Mapping[str, Any]:
        """Spacing, window and overlap, and a bundle's intensities."""
        return {**preset.inference_settings, **self._of_bundle(preset)}

    def _of_bundle(self, preset: Preset) -> Mapping[str, Any]:
        if self.bundle is None or preset.network != BUNDLE:
            return {}
        steps = [[name, dict(arguments)] for name, arguments in self.bundle.intensity]
        return {"spacing": list(self.bundle.spacing or (0.0, 0.0, 0.0)), "intensity": steps}

    def loss_function(self, context: Context) -> DiceCELoss:
        """Dice + cross entropy, one to one."""
        return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)

    def train_pre_transforms(self, context: Context) -> Compose:
        """Preprocessing, then foreground-aware patches and augmentation."""
        preset: Preset = parameters(context)
        patch = voxels(preset.patch_size, "patch_size")
        keys = ["image", "label"]
        steps: list[Any] = [*self._preprocessing(context).transforms, SpatialPadd(keys, patch)]
        steps.append(
            RandCropByPosNegLabeld(
                keys,
                "label",
                patch,
                pos=preset.foreground_ratio,
                neg=1 - preset.foreground_ratio,
                num_samples=preset.patches_per_image,
            )
        )
        if preset.augmentation:
            steps += augmentation(3)
        return Compose(steps)

    def val_pre_transforms(self, context: Context) -> Compose:
        """Preprocessing only: validation sees whole images."""
        return self._preprocessing(context)

    def _preprocessing(self, context: Context) -> Compose:
        settings = self.inference_settings(parameters(context))
        spacing, intensity = settings["spacing"], settings.get("intensity")
        sizes = (len(self.label_names) + 1, self._in_channels)
        return preprocessing(self.channels, *sizes, spacing, labels=True, intensity=intensity)

    def val_inferer(self, context: Context) -> WindowInferer:
        """Sliding windows over whole images."""
        preset: Preset = parameters(context)
        roi = voxels(preset.roi_size, "roi_size")
        return WindowInferer(roi, preset.overlap, preset.divisor)
