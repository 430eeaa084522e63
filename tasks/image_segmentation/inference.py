"""The inferers ``segmentation`` and ``segmentation_bootstrap`` (mean of the committee) for images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Resize

from tasks.common.files import RESULT_ENDINGS
from tasks.common.values import one_of
from tasks.geometry.slices import image_affine, is_picture, preprocessing, read_size, restore
from tasks.learning.checkpoints import Checkpoint, ModelRegistry
from tasks.segmentation.inference import SegmentationInferTask, write_label_map
from tasks.segmentation.inferer import WindowInferer, whole_image


class ImageInferTask(SegmentationInferTask):
    """Segments an image; the mask lies exactly on the image in 3D Slicer.

    The result is a volume of one slice with the image's geometry, or, with the extension ``.png`` or ``.tif``, a
    picture of the same size.

    Args:
        name: name of the published model.
        description: one line for people.
        registry: finds the current checkpoint.
        labels: foreground label names, value 1 first.
    """

    def __init__(self, name: str, description: str, registry: ModelRegistry, labels: Sequence[str]) -> None:
        super().__init__(name, description, registry, labels, dimension=2)

    def preprocessing(self, checkpoint: Checkpoint) -> Compose:
        """Size and normalisation."""
        return checkpoint_preprocessing(checkpoint)

    def inferer(self, data: dict[str, Any] | None = None) -> WindowInferer:
        """The whole image at once."""
        return image_inferer(self.current(data).checkpoint)

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Most probable class, in the pixel order of the image's file."""
        return [_file_mask]

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[Any, Any]:
        """Write the mask.

        Raises:
            ValueError: a format that we do not write.
        """
        ending = str(data.get("result_extension") or (".png" if is_picture(data["image_path"]) else ".nii.gz"))
        one_of("result_extension", ending, RESULT_ENDINGS)
        if is_picture(ending):
            data = {**data, "pred": data["pred"][..., 0]}
        return write_label_map(data, ending, np.uint8), {}


def image_inferer(checkpoint: Checkpoint) -> WindowInferer:
    """The whole image at once, in the size the checkpoint was trained with."""
    return whole_image(checkpoint.preprocessing["image_size"], checkpoint.architecture.divisor, torch.device("cpu"))


def checkpoint_preprocessing(checkpoint: Checkpoint) -> Compose:
    """Preprocessing of images as the checkpoint was trained with."""
    return preprocessing(len(checkpoint.labels) + 1, checkpoint.preprocessing["image_size"])


def label_map(probs: torch.Tensor, image: str) -> np.ndarray:
    """Most probable class of every pixel of an image.

    Args:
        probs: ``[classes, X, Y]`` as the network sees the image.
        image: its file.

    Returns:
        ``[columns, rows]`` uint8 in LPS.
    """
    full = Resize(read_size(image), mode="bilinear")(probs)
    return np.asarray(full.argmax(0), dtype=np.uint8)


def _file_mask(data: dict[str, Any]) -> dict[str, Any]:
    image = data["image_path"]
    affine = image_affine(image)
    mask = restore(label_map(data["pred"], image), affine)
    return {**data, "pred": MetaTensor(torch.from_numpy(mask.copy()), affine=torch.from_numpy(affine))}
