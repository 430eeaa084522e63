"""The annotator of volumes in a simulation."""

from __future__ import annotations

from pathlib import Path

from monai.data import MetaTensor

from tasks.geometry.volumes import IMAGE_ENDINGS, read_label
from tasks.segmentation.oracle import SegmentationOracle


class VolumeOracle(SegmentationOracle):
    """True labels are volumes."""

    endings = IMAGE_ENDINGS

    def read_label(self, label: str, classes: int, image: Path) -> MetaTensor:
        """Read a label map."""
        return read_label(label, classes)
