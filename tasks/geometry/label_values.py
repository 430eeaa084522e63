"""Read files with voxels, and check label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage

from tasks.common.files import ImageError, reading
from tasks.geometry.sizes import check_volume, is_nrrd


def load(file: Path) -> MetaTensor:
    """Read a NIfTI or NRRD file.

    Returns:
        ``[C, *S]`` float32 with the affine.

    Raises:
        ImageError: missing, unreadable or larger than the limit.
    """
    check_volume(file)
    with reading(file):
        # MONAI's NRRD reader needs header fields that are optional; ITK's does not.
        reader = "ITKReader" if is_nrrd(file) else "NibabelReader"
        volume: MetaTensor = LoadImage(reader, image_only=True, ensure_channel_first=True, dtype=torch.float32)(file)
    return volume


def check_values(label: np.ndarray, file: str | Path, classes: int) -> None:
    """Raise :class:`ImageError` if a label map has values outside ``0 .. classes - 1``."""
    unknown = [float(value) for value in np.unique(label) if value not in range(classes)]
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5])
        raise ImageError(f"{file} contains the values {shown}; declared are 0 to {classes - 1}")
