"""Read files with voxels, and check label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage

from tasks.files import ImageError, reason


def load(file: Path) -> MetaTensor:
    """Read a NIfTI or NRRD file.

    Returns:
        ``[C, *S]`` float32 with the affine.

    Raises:
        ImageError: missing or unreadable.
    """
    if not file.is_file():
        raise ImageError(f"{file} is missing")
    try:
        # MONAI's NRRD reader needs header fields that are optional; ITK's does not.
        reader = "ITKReader" if file.suffix == ".nrrd" else None
        volume: MetaTensor = LoadImage(reader, image_only=True, ensure_channel_first=True, dtype=torch.float32)(file)
    except Exception as error:  # every reader library raises its own kinds
        raise ImageError(f"{file} cannot be read: {reason(error)}") from error
    return volume


def check_values(label: np.ndarray, file: str | Path, classes: int) -> None:
    """Raise :class:`ImageError` if a label map has values outside ``0 .. classes - 1``."""
    unknown = [float(value) for value in np.unique(label) if value not in range(classes)]
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5])
        raise ImageError(f"{file} contains the values {shown}; declared are 0 to {classes - 1}")
