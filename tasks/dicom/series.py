"""A DICOM series as a NIfTI volume."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK
from pydicom.dataset import Dataset

from tasks.common.files import ImageError, reason
from tasks.dicom.frames import GROUPS, Frame, claimed, frames_of, group
from tasks.geometry.sizes import check_voxels

LARGEST_GAP = 1.5
"""Distance of two slices, in units of the usual one, from which slices are missing."""


def to_volume(instances: Sequence[Dataset], name: str) -> SimpleITK.Image:
    """Put the slices of a series together.

    Args:
        instances: of one series: a slice each, or one enhanced instance with all of them.
        name: for messages.

    Raises:
        ImageError: no image, more pixels than the limit, slices are missing, of different sizes or directions, or the
            pixels cannot be read.
    """
    if not instances:
        raise ImageError(f"series {name} has no instances")
    slices = [instance for instance in instances if "Rows" in instance]
    if not slices:
        raise ImageError(f"series {name} has no pixels")
    try:
        values = sum(math.prod(claimed(instance)) for instance in slices)
        check_voxels(f"series {name}", (values,))
        frames = [frame for instance in slices for frame in frames_of(instance)]
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(f"series {name} has {error}") from error
    if len(frames) > len(slices) > 1:
        raise ImageError(f"series {name} has several multi-frame instances")
    order = _in_order(frames, name)
    if len(frames) > len(slices):
        return _from_frames(slices[0], [frames[number] for number in order], order, name)
    return _from_slices([slices[number] for number in order], name)


def _from_slices(slices: Sequence[Dataset], name: str) -> SimpleITK.Image:
    with tempfile.TemporaryDirectory(prefix="series-") as folder:
        files = []
        for number, instance in enumerate(slices):
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


def _from_frames(instance: Dataset, frames: Sequence[Frame], order: Sequence[int], name: str) -> SimpleITK.Image:
    """The frames of an enhanced instance by their places: ITK's reader takes them as they come."""
    try:
        pixels = np.asarray(instance.pixel_array)[list(order)]
        if pixels.ndim != 3:
            raise ImageError(f"series {name} is no volume of grey values")
        own = [instance[GROUPS].value[number] for number in order]
        scaled = np.stack([_values(instance, item, plane) for item, plane in zip(own, pixels, strict=True)])
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ImageError(f"series {name} cannot be read: {reason(error)}") from error
    image = SimpleITK.GetImageFromArray(scaled)
    first, last = frames[0], frames[-1]
    rows, columns = first.orientation[:3], first.orientation[3:]
    image.SetOrigin(first.position.tolist())
    image.SetSpacing([first.spacing[1], first.spacing[0], (last.along - first.along) / (len(frames) - 1)])
    image.SetDirection(np.stack([rows, columns, np.cross(rows, columns)], axis=1).ravel().tolist())
    return image


def _values(instance: Dataset, own: Dataset, pixels: np.ndarray) -> np.ndarray:
    """Stored pixels of a frame as values."""
    try:
        scale = group(instance, own, "PixelValueTransformationSequence")
    except (TypeError, IndexError):  # there is none
        return pixels.astype(np.float32)
    return (pixels * float(scale.RescaleSlope) + float(scale.RescaleIntercept)).astype(np.float32)


def _in_order(frames: Sequence[Frame], name: str) -> list[int]:
    """Numbers of the frames along their normal."""
    if len(frames) == 1:
        return [0]
    directions = np.array([frame.orientation for frame in frames])
    if np.abs(directions - directions[0]).max() > 1e-3:
        raise ImageError(f"series {name} has slices of different directions")
    if len({(frame.rows, frame.columns) for frame in frames}) > 1:
        raise ImageError(f"series {name} has slices of different sizes")
    along = np.array([frame.along for frame in frames])
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    usual = float(np.median(gaps))
    if usual <= 0 or gaps.min() < usual / 10:
        raise ImageError(f"series {name} has several slices at the same place")
    if gaps.max() > LARGEST_GAP * usual:
        raise ImageError(f"series {name} has a gap of {gaps.max():.4g} mm between slices {usual:.4g} mm apart")
    return [int(number) for number in order]


def onto_grid(image: SimpleITK.Image, like: SimpleITK.Image) -> SimpleITK.Image:
    """A volume resampled onto the grid of another, linearly; zero outside."""
    same = (
        image.GetSize() == like.GetSize()
        and np.allclose(image.GetOrigin(), like.GetOrigin(), atol=1e-3)
        and np.allclose(image.GetSpacing(), like.GetSpacing(), atol=1e-4)
        and np.allclose(image.GetDirection(), like.GetDirection(), atol=1e-4)
    )
    return image if same else SimpleITK.Resample(image, like, SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)
