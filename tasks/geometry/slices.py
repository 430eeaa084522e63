"""Read images and masks pixel for pixel as a viewer does, preprocess them, and bring masks back to the file's geometry.

A picture is a volume of one slice: 3D Slicer, like everything built on ITK, opens a PNG or JPEG with columns going to
the patient's left and rows going to posterior (LPS). Inside the program all images are ``[C, columns, rows]`` in LPS.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from monai.data.utils import to_affine_nd
from monai.transforms import Compose, NormalizeIntensityd, Resized, Transform
from nibabel import orientations

from tasks.common.files import ImageError, reading
from tasks.geometry.images import intensities, open_nifti_slice, read_nifti_slice, read_picture
from tasks.geometry.label_values import check_values, load
from tasks.geometry.pictures import open_picture
from tasks.geometry.sizes import check_label, is_nifti, sides

IN_CHANNELS = 3
"""Channels of every network; grey fills all three."""

_LPS = orientations.axcodes2ornt("LPS")


def is_picture(path: str | Path) -> bool:
    """Whether a file is a PNG, JPEG or TIFF by its name."""
    return not str(path).lower().endswith((".nii", ".nii.gz", ".nrrd"))


def image_affine(path: str | Path) -> np.ndarray:
    """Pixel grid of an image as 3D Slicer sees it: ``(4, 4)``, RAS, from ``(column, row, 0)`` of the file.

    Raises:
        ImageError: unreadable.
    """
    file = Path(path)
    with reading(file):
        if is_nifti(file):
            return np.asarray(nibabel.load(file).affine)
        header = sitk.ImageFileReader()
        header.SetFileName(str(file))
        header.ReadImageInformation()
        columns, rows = header.GetSpacing()[:2]
        return np.diag([-columns, -rows, 1.0, 1.0])


def read_slice(path: str | Path) -> torch.Tensor:
    """Read an image.

    Photographs are not turned as their EXIF data say, because viewers of medical images do not either.

    Args:
        path: PNG, JPEG, TIFF or NIfTI slice.

    Returns:
        ``[3, columns, rows]`` float32 in [0, 1].

    Raises:
        ImageError: missing or unreadable file, several slices or pages, not 1 or 3 channels, NaN.
    """
    file = Path(path)
    with reading(file):
        if is_nifti(file):
            voxels, affine = read_nifti_slice(file)
            pixels = np.moveaxis(_to_lps(voxels, affine)[:, :, 0], -1, 0)
        else:
            pixels = read_picture(file, upright=False).transpose(0, 2, 1)
    if not np.isfinite(pixels).all():
        raise ImageError(f"{file} contains NaN or infinite values")
    return intensities(np.ascontiguousarray(pixels)).expand(IN_CHANNELS, -1, -1).clone()


def read_mask(path: str | Path, classes: int, image: str | Path) -> np.ndarray:
    """Read the mask of an image.

    Args:
        path: PNG or another picture with one value per pixel, or NIfTI or NRRD. With a single label, 255 means 1.
        classes: number of classes, background included: values ``0 .. classes - 1`` are allowed.
        image: the image file, whose size and geometry the mask must have.

    Returns:
        ``[columns, rows]`` uint8.

    Raises:
        ImageError: unreadable, another size or geometry than the image, or values outside the declared classes.
    """
    file = Path(path)
    expected = read_size(image)
    if is_picture(file):
        mask = _picture_mask(file, expected)
    else:
        check_label(file, expected, classes)
        mask = _voxel_mask(file, image)
    _check_size(file, mask.shape, expected)
    if classes == 2 and set(np.unique(mask).tolist()) <= {0, 255}:
        mask = mask // 255
    check_values(mask, file, classes)
    return mask.astype(np.uint8)


def read_size(path: str | Path) -> tuple[int, int]:
    """Columns and rows of an image.

    Raises:
        ImageError: unreadable.
    """
    file = Path(path)
    with reading(file):
        if is_nifti(file):
            image = open_nifti_slice(file)
            swapped = orientations.io_orientation(image.affine)[0, 0] == 1
            columns, rows = image.shape[1::-1] if swapped else image.shape[:2]
            return int(columns), int(rows)
        with open_picture(file) as picture:
            return picture.size


def restore(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Bring a mask back to the pixel order of its image's file.

    Args:
        mask: ``[columns, rows]`` in LPS.
        affine: of the image, see :func:`image_affine`.

    Returns:
        ``[X, Y, 1]``.
    """
    back = orientations.ornt_transform(_LPS, orientations.io_orientation(affine))
    return np.asarray(orientations.apply_orientation(mask[:, :, None], back))


def _to_lps(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    turn = orientations.ornt_transform(orientations.io_orientation(affine), _LPS)
    return np.asarray(orientations.apply_orientation(voxels, turn))


def _picture_mask(file: Path, expected: tuple[int, int]) -> np.ndarray:
    with open_picture(file) as picture:
        _check_size(file, picture.size, expected)
        array = np.asarray(picture)
    if array.ndim == 3:
        colours = array[:, :, : 3 if array.shape[2] > 2 else 1]
        if (colours != colours[:, :, :1]).any():
            raise ImageError(f"{file} is a colour picture; a mask has one value per pixel")
        array = colours[:, :, 0]
    return array.T.astype(np.int64)


def _voxel_mask(file: Path, image: str | Path) -> np.ndarray:
    volume = load(file)
    shape = tuple(volume.shape)
    if shape[0] != 1 or len(shape) not in (3, 4) or shape[3:] not in ((), (1,)):
        raise ImageError(f"{file} is no mask of one slice: shape {sides(shape[1:])}, {shape[0]} channels")
    voxels = volume.numpy().reshape(*shape[1:3], 1)
    affine, own = to_affine_nd(3, np.asarray(volume.affine)), image_affine(image)
    if orientations.aff2axcodes(affine) != orientations.aff2axcodes(own):
        # Stored in another order: that must not be a file without geometry, which would be flipped unnoticed.
        centre = np.array([(shape[1] - 1) / 2, (shape[2] - 1) / 2, 0, 1])
        size = np.array([*read_size(image), 1])
        its_centre = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2, 0, 1])
        step = np.abs(own[:3, :2]).max()
        if not np.allclose((affine @ centre)[:2], (own @ its_centre)[:2], atol=step):
            raise ImageError(f"{file} lies elsewhere than its image {Path(image).name}: orientation or origin differ")
    return _to_lps(np.rint(voxels) if np.isfinite(voxels).all() else voxels, affine)[:, :, 0]


def _check_size(file: Path, size: tuple[int, ...], expected: tuple[int, int]) -> None:
    if size != expected:
        raise ImageError(f"{file} has {sides(size)} pixels, its image {sides(expected)}")


class ReadSliced(Transform):
    """Dictionary transform: paths under ``image`` (and ``label``) become ``[3, X, Y]`` and ``[1, X, Y]`` tensors.

    Args:
        classes: number of classes, background included.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Read the files; other keys stay as they are. Raises :class:`tasks.common.files.ImageError`."""
        result = dict(data)
        result["image"] = read_slice(data["image"])
        if isinstance(data.get("label"), str | Path):
            mask = read_mask(data["label"], self.classes, data["image"])
            result["label"] = torch.from_numpy(mask.astype(np.float32))[None]
        return result


def preprocessing(classes: int, image_size: int, labels: bool = False) -> Compose:
    """Read, scale so that the longer side has ``image_size`` pixels, and normalise each channel.

    Args:
        classes: number of classes, background included.
        image_size: pixels of the longer side.
        labels: whether items have a ``label`` too.

    Returns:
        Transform from ``{"image": path}`` to ``{"image": [3, X, Y]}``.
    """
    keys = ["image", "label"] if labels else ["image"]
    modes = ["bilinear", "nearest"][: len(keys)]
    return Compose(
        [
            ReadSliced(classes),
            Resized(keys, image_size, size_mode="longest", mode=modes, anti_aliasing=[True, False][: len(keys)]),
            NormalizeIntensityd("image", channel_wise=True),
        ]
    )
