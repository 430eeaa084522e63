"""The annotator of images in a simulation, and how good the pseudo-labels are."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from tasks.common.files import image_id
from tasks.geometry.images import IMAGE_ENDINGS
from tasks.geometry.slices import image_affine, read_mask, restore
from tasks.image_segmentation.model_masks import pseudo_labelled
from tasks.learning.metrics import dice_per_label
from tasks.oracle import Measure
from tasks.segmentation.oracle import SegmentationOracle


class ImageOracle(SegmentationOracle):
    """True labels are masks of the same name."""

    endings = IMAGE_ENDINGS
    ignore_empty = False
    notes = (Measure("pseudo_used", "pseudo-labels"), Measure("pseudo_dice", "their Dice"))

    def read_label(self, label: str, classes: int, image: Path) -> MetaTensor:
        """Read a mask."""
        affine = image_affine(image)
        mask = restore(read_mask(label, classes, image), affine)
        return MetaTensor(torch.from_numpy(mask.copy())[None], affine=torch.from_numpy(affine))

    def examine(self, app: Any, test: Mapping[str, Path], truth: Mapping[str, str]) -> dict[str, Any]:
        """Dice and HD95 on the test images; how many pseudo-labels were trained on, and their Dice."""
        classes = len(app.options.labels) + 1
        by_id = {image_id(name): label for name, label in truth.items()}
        dice = []
        for item in pseudo_labelled(app.datastore()):
            files = (item["label"], by_id[item["id"]])
            masks = [torch.from_numpy(read_mask(file, classes, item["image"])) for file in files]
            dice.append(float(dice_per_label(masks[0], masks[1], classes, ignore_empty=False).mean()))
        model = app.store.current_model(self.model)
        return {
            **super().examine(app, test, truth),
            "pseudo_used": model.metrics["pseudo_labels"]["used"] or None,
            "pseudo_dice": round(statistics.fmean(dice), 5) if dice else None,
        }
