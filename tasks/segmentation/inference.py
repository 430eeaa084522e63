"""What inferers of segmentation models share: the label map in the image's own geometry."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Invertd, SqueezeDimd, Transform
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.transform.writer import write_itk
from monailabel.utils.others.generic import file_ext

from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.inference import RESULT_FOLDER, CurrentModelInferTask


class SegmentationInferTask(CurrentModelInferTask):
    """Segments an image with the current model of a name; the result has the image's own geometry.

    Args:
        name: name of the published model.
        description: one line for people.
        registry: finds the current checkpoint.
        labels: foreground label names, value 1 first.
        dimension: of the images.
    """

    def __init__(
        self, name: str, description: str, registry: ModelRegistry, labels: Sequence[str], dimension: int
    ) -> None:
        values = {label: value for value, label in enumerate(labels, start=1)}
        super().__init__(name, description, registry, InferType.SEGMENTATION, values, dimension)

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Most probable class, in the image's own orientation and spacing."""
        # Inverting needs the very transform objects that were applied: a model published in between must not matter.
        transform = self.current(data).preprocessing
        return [
            _LabelMap("pred"),
            Invertd("pred", transform=transform, orig_keys="image", nearest_interp=True, to_tensor=True),
            SqueezeDimd("pred", dim=0),
        ]

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[str, dict[str, Any]]:
        """Write the label map, by default in the format of the image."""
        ending = str(extension or data.get("result_extension") or file_ext(data["image_path"]))
        return write_label_map(data, ending, dtype or data.get("result_dtype")), data.get("result", {})


def write_label_map(data: dict[str, Any], ending: str, dtype: Any) -> str:
    """Write ``pred`` of a request's data where the request wants it.

    MONAI Label's own writer puts it among the temporary files, where it stays if it cannot be written to its end.

    Args:
        data: of the request.
        ending: of the file, which decides on the format.
        dtype: of the values; None keeps that of the array.

    Returns:
        The file.
    """
    file = Path(data.get(RESULT_FOLDER) or tempfile.gettempdir()) / f"{uuid.uuid4().hex}{ending}"
    found = data["pred"]
    array, affine = (found.array, found.affine) if isinstance(found, MetaTensor) else (found, None)
    write_itk(array, str(file), affine if array.ndim > 2 else None, dtype, data.get("result_compress", False))
    return str(file)


class _LabelMap(Transform):
    """Probabilities ``[C, *S]`` to the most probable class ``[1, *S]``, keeping the geometry."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        data[self.key] = data[self.key].argmax(0, keepdim=True).to(torch.uint8)
        return data
