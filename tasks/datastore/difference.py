"""How the files of a studies folder differ from what is known of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from monailabel.datastore.local import DataModel

from tasks.datastore.index import IndexChange
from tasks.datastore.names import label_ref
from tasks.datastore.rules import FINAL

if TYPE_CHECKING:
    from tasks.datastore.folder import StudiesFolder


class Difference:
    """How files differ from what a folder knows. They were listed without the lock: what is gone is looked at again.

    Args:
        folder: the studies folder.
        images: image id -> ending of its file.
        labels: tag -> image id -> ending of the label's file.
        stamps: image id -> size and time of the final label's file.
        in_flight: images whose final label another server on the folder is storing right now: it will note it itself.
    """

    def __init__(
        self,
        folder: StudiesFolder,
        images: dict[str, str],
        labels: dict[str, dict[str, str]],
        stamps: dict[str, str],
        in_flight: set[str],
    ) -> None:
        self._objects = folder._datastore.objects
        self.gone = [name for name in self._objects if name not in images and not folder._has_image(name)]
        self.images = {
            name: folder._new_image(name, ending)
            for name, ending in images.items()
            if (name not in self._objects or self._objects[name].image.ext != ending) and folder._is_there(name, ending)
        }
        known = self._objects.keys() | self.images.keys()
        self.lost = [
            (name, tag)
            for name, image in self._objects.items()
            for tag, label in image.labels.items()
            if name not in labels.get(tag, {}) and not folder._label_file(name, tag, label.ext).exists()
        ]
        unknown = {
            (name, tag): ending
            for tag, files in labels.items()
            for name, ending in files.items()
            if name in known
            and not (tag == FINAL and name in in_flight)
            and ((label := self._label(name, tag)) is None or label.ext != ending)
            and os.path.lexists(folder._label_file(name, tag, ending))
        }
        lost = set(self.lost)
        for name, stamp in folder._stamps.items():
            key, changed = (name, FINAL), stamps.get(name, stamp) != stamp
            if changed and name not in in_flight and key not in lost and key not in unknown:
                label = self._objects[name].labels[FINAL]
                if folder._stamp_now(name, label) != stamp:
                    unknown[name, FINAL] = label.ext
        self.labels = self._models(folder, unknown) if unknown else {}
        self.changes: dict[str, bool | None] = {}
        for name in {*self.images, *(name for name, _ in [*self.lost, *self.labels])}:
            image = self._objects.get(name)
            there = image is not None and FINAL in image.labels and (name, FINAL) not in lost
            self.changes[name] = there or (name, FINAL) in self.labels
        self.changes.update(dict.fromkeys(self.gone))

    def _models(self, folder: StudiesFolder, unknown: dict[tuple[str, str], str]) -> dict[tuple[str, str], DataModel]:
        """What is noted of labels that are not known in memory: of another server's by the index, else as found."""
        indexed = {
            (name, tag): label
            for (name, tag), label in folder._index.labels().items()
            if unknown.get((name, tag)) == label.ext
            and ((known := self._label(name, tag)) is None or label_ref(label.info) != label_ref(known.info))
        }
        noted = folder._index.noted([name for name, tag in unknown if tag == FINAL and (name, tag) not in indexed])
        return {
            (name, tag): indexed[name, tag]
            if (name, tag) in indexed
            else folder._found_label(name, tag, ending, noted.get(name) if tag == FINAL else None)
            for (name, tag), ending in unknown.items()
        }

    def _label(self, name: str, tag: str) -> DataModel | None:
        """A label as it is known in memory, None if it is not."""
        return self._objects[name].labels.get(tag) if name in self._objects else None

    @property
    def final_labels(self) -> dict[str, DataModel | None]:
        """The final label, or None, of all changed images that are there."""
        found: dict[str, DataModel | None] = {}
        for name, has_label in self.changes.items():
            if has_label is not None:
                image = self._objects.get(name)
                known = image.labels.get(FINAL) if image is not None and has_label else None
                found[name] = self.labels.get((name, FINAL), known)
        return found

    def write(self, change: IndexChange) -> None:
        """Write it to the index."""
        for name in self.gone:
            change.drop_image(name)
        for name, tag in self.lost:
            change.drop_label(name, tag)
        change.put_images(self.images)
        change.put_labels({key: label for key, label in self.labels.items() if key[0] not in self.gone})
