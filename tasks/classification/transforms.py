"""From an image file to what the classifiers take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.transforms import Compose, NormalizeIntensityd, Resized, Transform

from tasks.geometry.images import intensities, read_image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


class ReadImaged(Transform):
    """Dictionary transform: the path under ``image`` becomes ``[3, rows, columns]`` in [0, 1]; grey fills all three."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Read the file; other keys stay as they are. Raises :class:`tasks.common.files.ImageError`."""
        return {**data, "image": intensities(read_image(data["image"])).expand(3, -1, -1).clone()}


def preprocessing(image_size: int) -> Compose:
    """Read, resize to a square and normalise as ImageNet's networks expect.

    Args:
        image_size: side in pixels.

    Returns:
        Transform from ``{"image": path}`` to ``{"image": [3, image_size, image_size]}``.
    """
    return Compose(
        [
            ReadImaged(),
            Resized("image", (image_size, image_size), mode="bilinear", anti_aliasing=True),
            NormalizeIntensityd("image", IMAGENET_MEAN, IMAGENET_SD, channel_wise=True),
        ]
    )
