"""Read volumes and their labels, preprocess them, and say clearly what is wrong with a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import (
    ClipIntensityPercentilesd,
    Compose,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
    ThresholdIntensityd,
    Transform,
)

from tasks.common.files import ImageError
from tasks.geometry.label_values import check_values, load
from tasks.geometry.sizes import check_label, check_volume, check_voxels, sides

IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd")
"""Endings of the volumes we read."""


def channel_files(image: str | Path, channels: Sequence[str]) -> list[Path]:
    """The files of all channels of an image.

    Args:
        image: file in the studies root, the first channel.
        channels: names of all channels; with fewer than two the image is a single file.

    Returns:
        The image, then ``channels/<name>/<same file name>`` for the second channel on, whether they exist or not.
    """
    first = Path(image)
    return [first, *(first.parent / "channels" / name / first.name for name in channels[1:])]


def read_volume(image: str | Path, channels: Sequence[str] = ()) -> MetaTensor:
    """Read a volume with all its channels.

    Args:
        image: NIfTI or NRRD file: 3D, or 4D with the channels last.
        channels: names of separate channel files, see :func:`channel_files`.

    Returns:
        ``[C, X, Y, Z]`` float32 with the affine of the first channel.

    Raises:
        ImageError: missing or unreadable file, not a volume, too large, other shape than the first channel, NaN.
    """
    files = channel_files(image, channels)
    check_voxels(str(image), (len(files), *max((check_volume(file) for file in files), key=math.prod)))
    volumes = [_read(file) for file in files]
    for file, volume in zip(files, volumes, strict=True):
        if len(files) > 1 and volume.shape[0] != 1:
            raise ImageError(f"{file} has {volume.shape[0]} channels; with separate channel files each must have one")
        if volume.shape[1:] != volumes[0].shape[1:]:
            raise ImageError(f"{file} has the shape {_shape(volume)}, the first channel {_shape(volumes[0])}")
        if not torch.isfinite(volume).all():
            raise ImageError(f"{file} contains NaN or infinite values")
    if len(volumes) == 1:
        return volumes[0]
    return MetaTensor(torch.cat([v.as_tensor() for v in volumes]), affine=volumes[0].affine, meta=volumes[0].meta)


def check_image(image: str | Path, channels: Sequence[str] = ()) -> None:
    """Look at the header of an image file; its voxels are not read.

    Args:
        image: NIfTI or NRRD file.
        channels: names of separate channel files, see :func:`channel_files`.

    Raises:
        ImageError: missing, unreadable or too large, no volume, or several channels where each has a file of its own.
    """
    shape = check_volume(Path(image))
    if len(shape) not in (3, 4):
        raise ImageError(f"{image} is not a volume: its header says {sides(shape)}")
    if len(channels) > 1 and shape[3:] not in ((), (1,)):
        raise ImageError(f"{image} has {shape[3]} channels; with separate channel files each must have one")


def read_label(label: str | Path, classes: int, like: Sequence[int] | None = None) -> MetaTensor:
    """Read a label map.

    Args:
        label: NIfTI or NRRD file.
        classes: number of classes, background included: values ``0 .. classes - 1`` are allowed.
        like: spatial shape of the image, if the label must have it.

    Returns:
        ``[1, X, Y, Z]`` float32.

    Raises:
        ImageError: unreadable, other shape, or values outside the declared classes.
    """
    if like is not None:
        check_label(Path(label), like, classes)
    volume = _read(Path(label))
    if volume.shape[0] != 1:
        raise ImageError(f"{label} has {volume.shape[0]} channels; a label map has one")
    if like is not None and tuple(volume.shape[1:]) != tuple(like):
        raise ImageError(f"{label} has the shape {_shape(volume)}, its image {'x'.join(map(str, like))}")
    check_values(volume.numpy(), label, classes)
    return volume


def _read(file: Path) -> MetaTensor:
    volume = load(file)
    if volume.ndim != 4 or min(volume.shape) < 1:
        raise ImageError(f"{file} is not a volume: shape {tuple(volume.shape[1:])}")
    return volume


def _shape(volume: torch.Tensor) -> str:
    return "x".join(str(side) for side in volume.shape[1:])


class ReadVolumed(Transform):
    """Dictionary transform: paths under ``image`` (and ``label``) become volumes.

    Args:
        channels: names of the channels.
        classes: number of classes, background included.
        in_channels: number of channels the network takes; None accepts any.
    """

    def __init__(self, channels: Sequence[str], classes: int, in_channels: int | None = None) -> None:
        self.channels = tuple(channels)
        self.classes = classes
        self.in_channels = in_channels

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Read the files; other keys stay as they are. Raises :class:`ImageError`."""
        result = dict(data)
        image = read_volume(data["image"], self.channels)
        if self.in_channels is not None and image.shape[0] != self.in_channels:
            raise ImageError(f"{data['image']} has {image.shape[0]} channels, the model takes {self.in_channels}")
        # With a file name here, MONAI's Spacingd updates every "image_..." value as if it were a meta dictionary, and
        # MONAI Label adds the text "image_path".
        image.meta.pop("filename_or_obj", None)
        result["image"] = image
        if isinstance(data.get("label"), str | Path):
            result["label"] = read_label(data["label"], self.classes, like=image.shape[1:])
        return result


INTENSITY: Mapping[str, Callable[..., Any]] = {
    "NormalizeIntensity": NormalizeIntensityd,
    "ScaleIntensity": ScaleIntensityd,
    "ScaleIntensityRange": ScaleIntensityRanged,
    "ScaleIntensityRangePercentiles": ScaleIntensityRangePercentilesd,
    "ClipIntensityPercentiles": ClipIntensityPercentilesd,
    "ThresholdIntensity": ThresholdIntensityd,
}
"""Intensity transforms that a checkpoint may name: whatever else stands there is never made."""


def preprocessing(
    channels: Sequence[str],
    classes: int,
    in_channels: int | None,
    spacing: float | Sequence[float],
    labels: bool = False,
    intensity: Sequence[tuple[str, Mapping[str, Any]]] | None = None,
) -> Compose:
    """Read, orient to RAS, resample (B-spline; nearest for labels) and normalise each channel over non-zero voxels.

    Args:
        channels: names of the channels.
        classes: number of classes, background included.
        in_channels: channels the network takes; None accepts any.
        spacing: voxel size in mm, or one per axis; 0 keeps the image's own.
        labels: whether items have a ``label`` too.
        intensity: name in :data:`INTENSITY` and arguments of what is done instead of the normalisation.

    Returns:
        Transform from ``{"image": path}`` to ``{"image": [C, X, Y, Z]}``. In RAS the first two axes are in the
        axial plane and the third goes through the slices.
    """
    keys = ["image", "label"] if labels else ["image"]
    steps: list[Any] = [ReadVolumed(channels, classes, in_channels), Orientationd(keys, axcodes="RAS", labels=None)]
    sides = [float(spacing)] * 3 if isinstance(spacing, int | float) else list(spacing)
    if min(sides) > 0:
        steps.append(Spacingd(keys, pixdim=sides, mode=[3, "nearest"][: len(keys)], padding_mode="border"))
    if intensity is None:
        intensity = [("NormalizeIntensity", {"nonzero": True, "channel_wise": True})]
    steps += [INTENSITY[name]("image", **arguments) for name, arguments in intensity]
    return Compose(steps)
