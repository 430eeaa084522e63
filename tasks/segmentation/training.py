"""What trainers of segmentation models share: loss, metrics and what a validation reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric
from monai.transforms import AsDiscreted, Compose, RandAffined, RandFlipd, RandScaleIntensityd, RandShiftIntensityd
from monailabel.tasks.train.basic_train import BasicTrainTask, Context

from tasks.learning.training import MembersTrainTask


class SegmentationTrainTask(MembersTrainTask):
    """Trains networks that give one class to every voxel or pixel; the best mean foreground Dice is kept."""

    has_background = True
    key_metric = BasicTrainTask.VAL_METRIC_MEAN_DICE

    ignore_empty = True
    """Whether a label without foreground is left out of the Dice; else it counts 1 if the prediction is empty too."""

    def member_items(self, items: list[Any], request: Mapping[str, Any]) -> list[Any]:
        """Committee members draw with replacement; a single model has all."""
        if request["members"] == 1:
            return items
        rng = np.random.default_rng([request["seed"], request["member"]])
        return [items[index] for index in rng.integers(0, len(items), len(items))]

    def report(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Dice per label."""
        per_label = np.nan_to_num(np.asarray(torch.as_tensor(metrics["dice_per_label"])).reshape(-1))
        return {"dice": {name: round(float(value), 4) for name, value in zip(self.label_names, per_label, strict=True)}}

    def val_post_transforms(self, context: Context) -> Compose:
        """Predictions and labels as one-hot maps."""
        classes = len(self.label_names) + 1
        return Compose([AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=[classes, classes])])

    def val_key_metric(self, context: Context) -> dict[str, IgniteMetricHandler]:
        """Mean foreground Dice."""
        return {self.key_metric: self._dice("mean")}

    def val_additional_metrics(self, context: Context) -> dict[str, IgniteMetricHandler]:
        """Dice per label."""
        return {"dice_per_label": self._dice("mean_batch")}

    def _dice(self, reduction: str) -> IgniteMetricHandler:
        metric = DiceMetric(include_background=False, reduction=reduction, ignore_empty=self.ignore_empty)
        return IgniteMetricHandler(metric, output_transform=from_engine(["pred", "label"]), save_details=False)


def augmentation(spatial_dims: int) -> list[Any]:
    """Random flips, small rotations and scalings of ``image`` and ``label``, and intensity changes of ``image``."""
    keys = ["image", "label"]
    return [
        *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(spatial_dims)),
        RandAffined(
            keys,
            prob=0.5,
            rotate_range=[np.pi / 12] * (3 if spatial_dims == 3 else 1),
            scale_range=[0.15] * spatial_dims,
            mode=["bilinear", "nearest"],
            padding_mode="zeros",
        ),
        RandScaleIntensityd("image", factors=0.2, prob=0.5),
        RandShiftIntensityd("image", offsets=0.2, prob=0.5),
    ]
