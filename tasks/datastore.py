"""MONAI Label's local datastore, with writes that a kill cannot tear and no lost updates between its threads."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from tasks.files import ImageError, LabelError, is_safe_name, is_safe_tag

FINAL = DefaultLabelTag.FINAL.value
"""Tag of the labels that people give."""


class StudiesFolder(LocalDatastore):
    """Local datastore that tells when images or labels have come or gone.

    The index file is replaced atomically. Saving a label and the file watcher's refresh exclude each other: without
    that, a refresh in between replaces the index object that the label is being added to. What changed is told while
    nothing else can change, so that the listener never overwrites a newer state with an older one.

    Args:
        path: studies folder.
        on_change: called after images or labels changed on disk or over HTTP.
        **options: of :class:`monailabel.datastore.local.LocalDatastore`.
    """

    label_extensions: tuple[str, ...] = ()
    """Patterns of label files beside those of images."""

    def __init__(self, path: str, on_change: Callable[[], None] = lambda: None, **options: Any) -> None:
        self._mutex = threading.RLock()
        self._on_change = on_change
        super().__init__(path, **options)
        if options.get("auto_reload"):
            self._handler.on_moved = self._index_replaced

    def refresh(self) -> None:
        """Bring the index in line with the files, then tell."""
        with self._mutex:
            super().refresh()
            self._on_change()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image, then tell.

        Raises:
            ImageError: an id that cannot be a file name, or a kind of file that is no image here.
        """
        name, ending = self._to_id(Path(image_filename).name)
        if not is_safe_name(image_id or name):
            raise ImageError(f"image id {image_id!r} cannot be a file name")
        if f"*{ending}" not in self._extensions:
            raise ImageError(
                f"{ending or 'a file without ending'} is no image; images are {', '.join(self._extensions)}"
            )
        with self._mutex:
            added: str = super().add_image(image_id, image_filename, image_info)
            self._on_change()
        return added

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label under a tag.

        Raises:
            LabelError: a tag that cannot be a folder name.
        """
        if not is_safe_tag(label_tag):
            raise LabelError(f"tag {label_tag!r} must be letters, digits, '_' and '-'")
        with self._mutex:
            saved: str = super().save_label(image_id, label_filename, label_tag, label_info)
        return saved

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Merge values into an image's info."""
        with self._mutex:
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Merge values into a label's info."""
        with self._mutex:
            super().update_label_info(label_id, label_tag, info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label, at once also from the index."""
        with self._mutex:
            super().remove_label(label_id, label_tag)
        if self._auto_reload:  # else MONAI Label has refreshed
            self.refresh()

    def set_labels(self, tag: str, labels: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> None:
        """Make these the only labels of a tag, writing the index once.

        Args:
            tag: the tag.
            labels: image id -> label file, copied, and what is kept with it; ids that are not there are left out.
        """
        with self._mutex:
            folder = Path(self._datastore.label_path(tag))
            folder.mkdir(parents=True, exist_ok=True)
            models = {}
            for image_id in labels.keys() & self._datastore.objects.keys():
                file, info = labels[image_id]
                ending = self._to_id(file.name)[1]
                name = self._filename(image_id, ending)
                temporary = folder / f"part_{image_id}.tmp"
                shutil.copyfile(file, temporary)
                temporary.replace(folder / name)
                models[image_id] = DataModel(ext=ending, info={**info, "ts": int(time.time()), "name": name})
            # Readers do not wait for the lock: nothing slow between the first change and the last.
            gone = []
            for image_id, image in self._datastore.objects.items():
                old = image.labels.pop(tag, None)
                if image_id in models:
                    image.labels[tag] = models[image_id]
                elif old is not None:
                    gone.append(self._filename(image_id, old.ext))
            for name in gone:
                (folder / name).unlink(missing_ok=True)
            self._update_datastore_file()

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        images = Path(path).resolve() == Path(self._datastore.image_path()).resolve()
        found: dict[str, str] = super()._list_files(path, [*patterns, *(() if images else self.label_extensions)])
        return found

    def _index_replaced(self, event: Any) -> None:
        """Another process, such as an import of labels, wrote the index file."""
        if event.dest_path != self._datastore_config_path:
            return
        with self._mutex:
            if Path(self._datastore_config_path).stat().st_mtime != self._config_ts:
                self._init_from_datastore_file()
                self._on_change()

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        path = Path(self._datastore_config_path)
        temporary = path.with_suffix(".json.tmp")
        with temporary.open("w") as file:
            json.dump(self._datastore.model_dump(exclude={"base_path"}), file, indent=2, default=str)
            file.flush()
            os.fsync(file.fileno())
        self._ignore_event_config = True
        temporary.replace(path)
        self._config_ts = path.stat().st_mtime
