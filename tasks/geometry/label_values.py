"""Read files with voxels, and check label maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage

from tasks.common.files import ImageError, reading
from tasks.geometry.sizes import check_volume, is_nrrd, sides

_PART = 1 << 20
"""Voxels that are counted at once."""


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


def read_nifti_label(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the label map of a NIfTI file as it is stored: a whole CT would be four times as large as floats.

    Returns:
        ``S`` of the file's own type, float32 where that is not whole numbers, and its affine.

    Raises:
        ImageError: missing, unreadable, larger than the limit, or not one volume.
    """
    check_volume(file)
    with reading(file):
        image = nibabel.load(file)
        values = np.asanyarray(image.dataobj)
        if values.dtype.kind not in "biu":
            values = values.astype(np.float32)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ImageError(f"{file} is not one volume: {sides((*values.shape[3:], *values.shape[:3]))}")
    return values, np.asarray(image.affine, dtype=float)


def value_counts(label: np.ndarray) -> dict[float, int]:
    """How often each value occurs, ascending; part by part, so that it takes no memory beside a large label map."""
    flat = label.reshape(-1, order="A")
    found: dict[float, int] = {}
    small = flat.dtype.kind in "bu" and flat.dtype.itemsize == 1
    for start in range(0, len(flat), _PART):
        part = flat[start : start + _PART]
        if small:
            counts = np.bincount(part, minlength=256)
            values = np.flatnonzero(counts)
            counts = counts[values]
        else:
            values, counts = np.unique(part, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            found[value] = found.get(value, 0) + count
    return dict(sorted(found.items()))


def check_counts(counts: Mapping[float, int], file: str | Path, classes: int) -> None:
    """Raise :class:`ImageError` if a label map has values outside ``0 .. classes - 1``.

    Args:
        counts: of :func:`value_counts`.
        file: for the message.
        classes: background included.
    """
    unknown = [float(value) for value in counts if value not in range(classes)]
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5])
        raise ImageError(f"{file} contains the values {shown}; declared are 0 to {classes - 1}")


def check_values(label: np.ndarray, file: str | Path, classes: int) -> None:
    """The same of a label map itself."""
    check_counts(value_counts(label), file, classes)
