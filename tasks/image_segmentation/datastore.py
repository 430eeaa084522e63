"""A studies folder of images whose labels are masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.datastore.folder import StudiesFolder
from tasks.datastore.rules import FINAL, Accepted
from tasks.files import ImageError, LabelError
from tasks.image_segmentation.pseudo_labels import PSEUDO
from tasks.image_segmentation.slices import read_mask
from tasks.images import IMAGE_PATTERNS


class MaskRule:
    """Takes masks which fit their image.

    Args:
        names: foreground label names, value 1 first.
        allow_empty: whether a mask without any finding is a label.
    """

    def __init__(self, names: Sequence[str], allow_empty: bool = True) -> None:
        self._classes = len(names) + 1
        self._allow_empty = allow_empty

    def __call__(self, label: Path, image: Path, info: Mapping[str, Any], folder: Path) -> Accepted:
        """Look at a mask: see :class:`tasks.datastore.rules.LabelRule`."""
        try:
            mask = read_mask(label, self._classes, image)
        except ImageError as error:
            raise LabelError(str(error).replace(str(label), "the label").replace(str(image), image.name)) from error
        if not (self._allow_empty or mask.any()):
            raise LabelError("the label is empty; the option allow_empty would take it")
        return Accepted(label)


class MaskFolder(StudiesFolder):
    """Studies folder of images and masks.

    Args:
        path: studies folder.
        names: foreground label names, value 1 first.
        allow_empty: whether a mask without any finding is a label.
        **options: of :class:`tasks.datastore.folder.StudiesFolder`.
    """

    label_extensions = ("*.nrrd",)

    def __init__(self, path: str, names: Sequence[str], allow_empty: bool = True, **options: Any) -> None:
        super().__init__(path, extensions=IMAGE_PATTERNS, rule=MaskRule(names, allow_empty), **options)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a mask.

        Raises:
            LabelError: it does not fit its image, or it is for the tag of pseudo-labels, which are the model's alone.
        """
        if label_tag == PSEUDO:
            raise LabelError(f"tag {PSEUDO!r} is for what the model labels itself; send labels as {FINAL!r}")
        return super().save_label(image_id, label_filename, label_tag, label_info)
