"""The annotator of segmentations in a simulation, and the examination by Dice and HD95."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from monai.data import MetaTensor
from monailabel.utils.others.generic import name_to_device

from tasks.datastore.rules import FINAL
from tasks.learning.metrics import segmentation_metrics
from tasks.oracle import ANNOTATOR, Measure, Oracle
from tasks.segmentation.models import SINGLE


class SegmentationOracle(Oracle):
    """True labels are files of the same name in ``labels/`` (with a ``dataset.json``) or ``oracle/``."""

    model = SINGLE
    measures = (Measure("dice_mean", "mean foreground Dice"),)

    ignore_empty: ClassVar[bool] = True
    """Whether an image without foreground is left out of the Dice; else it counts 1 if nothing was found in it."""

    @abstractmethod
    def read_label(self, label: str, classes: int, image: Path) -> MetaTensor:
        """The true label of an image file, ``[1, *S]`` in its geometry."""

    def truth(self, folder: Path, names: Sequence[str], described: bool) -> dict[str, str]:
        """Label files."""
        files = {name: folder / ("labels" if described else "oracle") / name for name in names}
        for file in files.values():
            if not file.is_file():
                raise ValueError(f"{file} is missing")
        return {name: str(file) for name, file in files.items()}

    def answer(self, app: Any, image_id: str, truth: str) -> str:
        """Store the true label."""
        label_id: str = app.datastore().save_label(image_id, truth, FINAL, {"client_id": ANNOTATOR})
        return label_id

    def examine(self, app: Any, test: Mapping[str, Path], truth: Mapping[str, str]) -> dict[str, Any]:
        """Dice and HD95 per label, and mean Dice per image."""
        labels = app.options.labels
        dice, hd95 = [], []
        for name, path in sorted(test.items()):
            data = app.inferers()[SINGLE](
                {"image": str(path), "device": name_to_device("cuda"), "skip_writer": True, "logging": "ERROR"}
            )[1]
            label = self.read_label(truth[name], len(labels) + 1, path)
            spacing = label.pixdim.tolist()
            maps = (data["pred"].as_tensor(), label[0].as_tensor())
            result = segmentation_metrics(*maps, len(labels) + 1, spacing, self.ignore_empty)
            dice.append(result[0])
            hd95.append(result[1])
        per_label = np.nanmean(dice, axis=0)
        distances = np.nanmean(np.vstack([hd95, np.full(len(labels), np.nan)]), axis=0)
        return {
            "dice_mean": round(float(per_label.mean()), 5),
            **{f"dice_{label}": round(float(value), 5) for label, value in zip(labels, per_label, strict=True)},
            **{f"hd95_{label}": round(float(value), 3) for label, value in zip(labels, distances, strict=True)},
            "per_image": [round(float(value), 5) for value in np.nanmean(dice, axis=1)],
        }
