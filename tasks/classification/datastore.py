"""A studies folder whose labels are class names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.common.files import LabelError, write_json
from tasks.common.strict_json import JSONError, parse_object
from tasks.datastore.folder import StudiesFolder
from tasks.geometry.images import IMAGE_PATTERNS, check_image

_LARGEST = 64 * 1024
"""Bytes of a label file: it holds one name."""


class GradedFolder(StudiesFolder):
    """Studies folder that takes one class per image and keeps it as ``{"label": "HGG"}``.

    Args:
        path: studies folder.
        classes: class names; none takes any.
        **options: of :class:`tasks.datastore.folder.StudiesFolder`.
    """

    label_extensions = ("*.json",)

    def __init__(self, path: str, classes: Sequence[str] = (), **options: Any) -> None:
        self._classes = tuple(classes)
        super().__init__(path, extensions=IMAGE_PATTERNS, look=check_image, **options)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a class.

        Args:
            image_id: id of the image.
            label_filename: JSON with the class under ``label``; an empty file takes it from ``label_info``.
            label_tag: the tag, ``final`` for a reader's answer.
            label_info: anything else worth keeping.

        Raises:
            LabelError: no class, or one that is not declared.
        """
        return self.save_class(image_id, _class_in(Path(label_filename), label_info), label_tag, label_info)

    def save_class(self, image_id: str, name: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a class given by its name; see :meth:`save_label`."""
        if self._classes and name not in self._classes:
            raise LabelError(f"unknown class {name!r}; the classes are {', '.join(self._classes)}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "label.json"
            file.write_text(json.dumps({"label": name}))
            return super().save_label(image_id, str(file), label_tag, {**label_info, "label": name})

    def import_classes(self, classes: Mapping[str, str], label_tag: str, info: Mapping[str, Any]) -> None:
        """Store the classes of many images, writing the index once.

        Args:
            classes: image id -> class name.
            label_tag: the tag.
            info: kept with every label.
        """
        with tempfile.TemporaryDirectory() as folder:
            files: dict[str, Path] = {}
            for name in set(classes.values()):
                files[name] = Path(folder) / f"{len(files)}.json"
                write_json(files[name], {"label": name})
            labels = {image: (files[name], {**info, "label": name}) for image, name in classes.items()}
            self.set_labels(label_tag, labels, replace=False)


def read_grade(file: Path) -> dict[str, Any] | None:
    """Content of a label file, None if it is empty.

    Raises:
        ValueError: no JSON object, or more of it than a name needs.
    """
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"a label file holds one class name; this one has {file.stat().st_size} bytes")
    content = file.read_bytes().strip()
    return parse_object(content, "the label file") if content else None


def _class_in(file: Path, info: dict[str, Any]) -> str:
    try:
        content = read_grade(file)
    except JSONError as error:
        raise LabelError(f'{error}; it must be such as {{"label": "HGG"}}') from error
    except ValueError as error:
        raise LabelError(str(error)) from error
    found = info if content is None else content
    name = found.get("label")
    if not isinstance(name, str) or not name:
        raise LabelError('no class given: send {"label": "..."} as the file or in params')
    return name
