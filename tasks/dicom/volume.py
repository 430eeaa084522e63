"""A DICOM series as a NIfTI volume."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK
from pydicom.dataset import Dataset

from tasks.files import ImageError, reason

LARGEST_GAP = 1.5
"""Distance of two slices, in units of the usual one, from which slices are missing."""


def to_volume(instances: Sequence[Dataset], name: str) -> SimpleITK.Image:
    """Put the slices of a series together.

    Args:
        instances: of one series.
        name: for messages.

    Raises:
        ImageError: no image, slices are missing, of different sizes or directions, or ITK cannot read it.
    """
    if not instances:
        raise ImageError(f"series {name} has no instances")
    slices = [instance for instance in instances if "Rows" in instance]
    if not slices:
        raise ImageError(f"series {name} has no pixels")
    with tempfile.TemporaryDirectory(prefix="series-") as folder:
        files = []
        for number, instance in enumerate(_in_order(slices, name)):
            file = Path(folder) / f"{number:06d}.dcm"
            instance.save_as(file, write_like_original=False)
            files.append(str(file))
        try:
            if len(files) > 1:
                reader = SimpleITK.ImageSeriesReader()
                reader.SetFileNames(files)
                return reader.Execute()
            image = SimpleITK.ReadImage(files[0], imageIO="GDCMImageIO")
        except RuntimeError as error:
            raise ImageError(f"series {name} cannot be read: {reason(error)}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ImageError(f"series {name} is no volume of grey values")
    return image


def _in_order(slices: Sequence[Dataset], name: str) -> list[Dataset]:
    """The slices along their normal."""
    if len(slices) == 1:
        return list(slices)
    try:
        directions = np.array([slice.ImageOrientationPatient for slice in slices], dtype=float)
        positions = np.array([slice.ImagePositionPatient for slice in slices], dtype=float)
    except (AttributeError, TypeError, ValueError) as error:
        raise ImageError(f"series {name} has slices without position or orientation") from error
    if np.abs(directions - directions[0]).max() > 1e-3:
        raise ImageError(f"series {name} has slices of different directions")
    if len({(slice.Rows, slice.Columns) for slice in slices}) > 1:
        raise ImageError(f"series {name} has slices of different sizes")
    along = positions @ np.cross(directions[0, :3], directions[0, 3:])
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    usual = float(np.median(gaps))
    if usual <= 0 or gaps.min() < usual / 10:
        raise ImageError(f"series {name} has several slices at the same place")
    if gaps.max() > LARGEST_GAP * usual:
        raise ImageError(f"series {name} has a gap of {gaps.max():.4g} mm between slices {usual:.4g} mm apart")
    return [slices[number] for number in order]


def onto_grid(image: SimpleITK.Image, like: SimpleITK.Image) -> SimpleITK.Image:
    """A volume resampled onto the grid of another, linearly; zero outside."""
    same = (
        image.GetSize() == like.GetSize()
        and np.allclose(image.GetOrigin(), like.GetOrigin(), atol=1e-3)
        and np.allclose(image.GetSpacing(), like.GetSpacing(), atol=1e-4)
        and np.allclose(image.GetDirection(), like.GetDirection(), atol=1e-4)
    )
    return image if same else SimpleITK.Resample(image, like, SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)
