"""A studies folder of images whose labels are masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.common.files import ImageError, LabelError
from tasks.datastore.folder import StudiesFolder
from tasks.datastore.rules import FINAL, Accepted
from tasks.geometry.images import IMAGE_PATTERNS, check_image
from tasks.geometry.slices import read_mask
from tasks.image_segmentation.model_masks import PSEUDO


class MaskRule:
    """Takes masks which fit their image; an image without any finding has an empty one.

    Args:
        names: foreground label names, value 1 first.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._classes = len(names) + 1

    def __call__(self, label: Path, image: Path, info: Mapping[str, Any], folder: Path) -> Accepted:
        """Look at a mask: see :class:`tasks.datastore.rules.LabelRule`."""
        try:
            read_mask(label, self._classes, image)
        except ImageError as error:
            raise LabelError(str(error).replace(str(label), "the label").replace(str(image), image.name)) from error
        return Accepted(label)


class MaskFolder(StudiesFolder):
    """Studies folder of images and masks.

    Args:
        path: studies folder.
        names: foreground label names, value 1 first.
        **options: of :class:`tasks.datastore.folder.StudiesFolder`.
    """

    label_extensions = ("*.nrrd",)

    def __init__(self, path: str, names: Sequence[str], **options: Any) -> None:
        super().__init__(path, extensions=IMAGE_PATTERNS, rule=MaskRule(names), look=check_image, **options)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a mask.

        Raises:
            LabelError: it does not fit its image, or it is for the tag of pseudo-labels, which are the model's alone.
        """
        if label_tag == PSEUDO:
            raise LabelError(f"tag {PSEUDO!r} is for what the model labels itself; send labels as {FINAL!r}")
        return super().save_label(image_id, label_filename, label_tag, label_info)
