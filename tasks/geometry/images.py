"""Read 2D images: PNG, JPEG and TIFF, grey or RGB, and single NIfTI slices with one or three channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.transforms import ScaleIntensityRangePercentiles
from PIL import Image

from tasks.common.files import ImageError, reading
from tasks.geometry import sizes
from tasks.geometry.pictures import open_picture, turn_upright
from tasks.geometry.sizes import is_nifti

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii.gz", ".nii")
"""Endings of the images we read."""

IMAGE_PATTERNS = tuple(f"*{spelled}" for ending in IMAGE_ENDINGS for spelled in (ending, ending.upper()))
"""Their file names, for a datastore."""

PERCENTILES = (0.5, 99.5)
"""Intensities between these percentiles fill the range of an image that is not 8-bit."""

_PALETTES = {"P", "PA"}
_COLOUR = {"P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "RGBa"}


def read_image(path: str | Path, largest: int = 0) -> np.ndarray:
    """Read an image as it is shown on a screen: rows from top to bottom, columns from left to right.

    Transparency is dropped and a photograph is turned upright. A NIfTI slice is shown as radiologists do: the
    patient's right on the left, anterior on top.

    Args:
        path: file with one of :data:`IMAGE_ENDINGS`.
        largest: pixels of the longer side that will do: a picture whose side is several times that is reduced while it
            is read, to no fewer; 0 keeps all pixels.

    Returns:
        ``[C, rows, columns]``, one or three channels; ``uint8`` for 8-bit images, else ``float32``.

    Raises:
        ImageError: missing or unreadable file, other channels, several pages or slices, NaN.
    """
    file = Path(path)
    with reading(file):
        array = _read_nifti(file) if is_nifti(file) else read_picture(file, largest=largest)
    if array.dtype != np.uint8 and not np.isfinite(array).all():
        raise ImageError(f"{file} contains NaN or infinite values")
    return array


def check_image(path: str | Path) -> None:
    """Look at the header of an image; its pixels are not read.

    Raises:
        ImageError: missing or unreadable file, other channels, several pages or slices, or too large.
    """
    file = Path(path)
    with reading(file):
        if is_nifti(file):
            open_nifti_slice(file)
            return
        with open_picture(file):
            pass


def intensities(image: np.ndarray) -> torch.Tensor:
    """Intensities in [0, 1]: an 8-bit image keeps its own scale, any other is stretched channel by channel.

    Args:
        image: ``[C, rows, columns]`` from :func:`read_image`.

    Returns:
        ``[C, rows, columns]`` float32.
    """
    if image.dtype == np.uint8:
        return torch.from_numpy(image).float() / 255
    scale = ScaleIntensityRangePercentiles(*PERCENTILES, 0.0, 1.0, clip=True, channel_wise=True)
    return torch.as_tensor(np.asarray(scale(image.copy())), dtype=torch.float32)


def read_picture(file: Path, upright: bool = True, largest: int = 0) -> np.ndarray:
    """Pixels of a PNG, JPEG or TIFF file.

    Args:
        file: the picture.
        upright: turn a photograph as its EXIF data say; else rows and columns are as they are stored.
        largest: see :func:`read_image`.

    Returns:
        ``[C, rows, columns]``, one or three channels; ``uint8`` for 8-bit images, else ``float32``.
    """
    with open_picture(file) as picture:
        if largest:
            picture.draft(None, (largest, largest))  # a JPEG: an eighth of the pixels costs an eighth of the memory
        if upright:
            turn_upright(picture)
        shown = _reduced(picture, largest)
        if shown.mode in _COLOUR:
            shown = shown.convert("RGB")
        elif shown.mode in ("1", "LA", "La"):
            shown = shown.convert("L")
        array = np.asarray(shown)
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
    return np.moveaxis(array, -1, 0).copy() if array.ndim == 3 else array[None]


def _reduced(picture: Image.Image, largest: int) -> Image.Image:
    """A picture whose side is several times the largest, made smaller by a whole factor."""
    factor = max(picture.size) // largest if largest else 1
    if factor <= 1:
        return picture
    if picture.mode in _PALETTES:
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif picture.mode.startswith("I;16"):
        picture = picture.convert("I")
    elif picture.mode == "1":
        picture = picture.convert("L")
    return picture.reduce(factor)


def open_nifti_slice(file: Path) -> Any:
    """A NIfTI slice whose header fits, without its voxels; its affine and shape are those of the file."""
    shape = sizes.check_volume(file)
    if not 2 <= len(shape) <= 4 or (len(shape) > 2 and shape[2] != 1):
        raise ImageError(f"{file} has the shape {'x'.join(map(str, shape))}; a slice has one voxel in the third axis")
    channels = shape[3] if len(shape) == 4 else 1
    sizes.check_pixels(str(file), shape[:2])
    if channels not in (1, 3):
        raise ImageError(f"{file} has {channels} channels; 1 or 3 are supported")
    image = nibabel.load(file)
    if nibabel.aff2axcodes(image.affine)[2] not in ("S", "I"):
        raise ImageError(f"{file} is not an axial slice: its thin axis is not the third one in RAS")
    return image


def read_nifti_slice(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``[X, Y, 1, C]`` float32 of a NIfTI slice as they are stored, and its affine."""
    image = open_nifti_slice(file)
    return np.asarray(image.dataobj, dtype=np.float32).reshape(*image.shape[:2], 1, -1), image.affine


def _read_nifti(file: Path) -> np.ndarray:
    voxels, affine = read_nifti_slice(file)
    ras = nibabel.orientations.apply_orientation(voxels, nibabel.io_orientation(affine))
    # In RAS the axes go to the patient's right and to anterior; the screen has right on the left and anterior on top.
    plane = np.moveaxis(ras, -1, 0).squeeze(3)
    return plane[:, ::-1, ::-1].transpose(0, 2, 1).copy()
