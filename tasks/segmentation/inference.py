"""What inferers of segmentation models share: the label map in the image's own geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.transforms import Invertd, SqueezeDimd, Transform
from monailabel.interfaces.tasks.infer_v2 import InferType

from tasks.inference import CurrentModelInferTask
from tasks.models import ModelRegistry


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


class _LabelMap(Transform):
    """Probabilities ``[C, *S]`` to the most probable class ``[1, *S]``, keeping the geometry."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        data[self.key] = data[self.key].argmax(0, keepdim=True).to(torch.uint8)
        return data
