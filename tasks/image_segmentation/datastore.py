"""A studies folder of images whose labels are masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.datastore import FINAL, StudiesFolder
from tasks.files import ImageError, LabelError
from tasks.image_segmentation.pseudo_labels import PSEUDO
from tasks.image_segmentation.slices import read_mask
from tasks.images import IMAGE_PATTERNS


class MaskFolder(StudiesFolder):
    """Studies folder that takes masks which fit their image.

    Args:
        path: studies folder.
        names: foreground label names, value 1 first.
        **options: of :class:`tasks.datastore.StudiesFolder`.
    """

    label_extensions = ("*.nrrd",)

    def __init__(self, path: str, names: Sequence[str], **options: Any) -> None:
        self._classes = len(names) + 1
        super().__init__(path, extensions=IMAGE_PATTERNS, **options)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a mask.

        Raises:
            LabelError: it is a final one and does not fit its image, or has values of no label; or it is for the tag
                of pseudo-labels, which are the model's alone.
        """
        if label_tag == PSEUDO:
            raise LabelError(f"tag {PSEUDO!r} is for what the model labels itself; send labels as {FINAL!r}")
        image = self.get_image_uri(image_id)
        if label_tag == FINAL and image:
            try:
                read_mask(label_filename, self._classes, image)
            except ImageError as error:
                words = str(error).replace(str(label_filename), "the label").replace(image, Path(image).name)
                raise LabelError(f"{image_id}: {words}") from error
        return super().save_label(image_id, label_filename, label_tag, label_info)
