"""A studies folder that many annotators write to: labels are checked, writes are whole, old versions are kept."""

from __future__ import annotations

import contextlib
import datetime as dt
import fnmatch
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from tasks.datastore.index import Index, IndexChange
from tasks.datastore.rejected import RejectedLabels
from tasks.datastore.rules import FINAL, LabelRule, any_label
from tasks.datastore.stock import read_stock_index
from tasks.datastore.watcher import Watcher
from tasks.files import (
    ArchiveError,
    ImageError,
    LabelError,
    fingerprint,
    fingerprint_of,
    is_safe_name,
    is_safe_tag,
)

logger = logging.getLogger(__name__)

INDEX = "datastore.sqlite"
HISTORY = "history"
"""Folder beside those of the tags, with the earlier versions of final labels."""
REJECTED = "rejected"
ORIGINAL = "original"
"""Tag of what a model proposed."""

_PART = "part-"
"""Names of files that are being written; a kill leaves them, the next start removes them."""

Changes = Mapping[str, bool | None]
"""Image id -> whether it has a final label; None once the image is gone."""


class StudiesFolder(LocalDatastore):
    """MONAI Label's local datastore with an index that does not grow slow, and writes that a kill cannot tear.

    Reads are MONAI Label's; everything that writes is here. A final label that is replaced or removed is kept in
    ``labels/history``, a refused one in ``rejected``. What changed is told while nothing else can change, so that the
    listener never overwrites a newer state with an older one.

    Args:
        path: studies folder.
        on_change: called with what has changed after images or labels came or went.
        extensions: patterns of image files.
        rule: what a final label must fulfil.
        tags: tags that labels may be saved under; None allows any that can be a folder name.
        auto_reload: follow changes that others make in the folder.
        read_only: do not write anything.
    """

    label_extensions: tuple[str, ...] = ()
    """Patterns of label files beside those of images."""

    def __init__(
        self,
        path: str,
        on_change: Callable[[Changes], None] = lambda changes: None,
        extensions: Sequence[str] = ("*.nii.gz", "*.nii"),
        rule: LabelRule = any_label,
        tags: Sequence[str] | None = None,
        auto_reload: bool = False,
        read_only: bool = False,
    ) -> None:
        self._mutex = threading.RLock()
        self._on_change: Callable[[Changes], None] = lambda changes: None  # not before everything is there
        self._rule = rule
        self._tags = None if tags is None else {FINAL, ORIGINAL, *tags}
        self._extensions = list(extensions)
        self._auto_reload = auto_reload
        self._read_only = read_only
        self._own: set[str] = set()
        self._unnamed: set[str] = set()
        self._watcher: Watcher | None = None
        folder = Path(path)
        self._datastore_path = str(folder)
        self._datastore = LocalDatastoreModel(name="studies", description="", images_dir=".", base_path=str(folder))
        self.folder = folder
        self.labels_folder = folder / "labels"
        self.rejected = RejectedLabels(folder / REJECTED)
        for tag in (FINAL, ORIGINAL):
            (self.labels_folder / tag).mkdir(parents=True, exist_ok=True)
        self._index = Index(folder / INDEX, repair=not read_only)
        self._by_tag: defaultdict[str, set[str]] = defaultdict(set)
        self._stamps: dict[str, str] = {}
        self._know(self._index.load())
        if not self._datastore.objects and not read_only:
            self._take_over(read_stock_index(folder))
        if not read_only:
            self._clear_parts()
            self.rejected.forget_old()
        self._reconcile()
        self._on_change = on_change
        if auto_reload:
            self._watcher = Watcher(folder, self._concerns, self.refresh)

    def close(self) -> None:
        """Stop watching, and close the index."""
        if self._watcher is not None:
            self._watcher.stop()
        self._index.close()

    # What is there

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images with a final label."""
        with self._mutex:
            return list(self._by_tag[FINAL])

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._datastore.objects

    def image_file(self, image_id: str) -> Path:
        """Where an image's file is, or would be.

        Raises:
            ImageNotFoundException: no such image.
        """
        return self.folder / self._filename(image_id, self._image(image_id).image.ext)

    def prefetch(self, image_id: str) -> None:
        """Somebody will want an image soon: in a folder it is there already."""

    def status(self) -> dict[str, Any]:
        """``total`` images, ``completed`` ones, and labels by tag."""
        tags = {tag: len(names) for tag, names in list(self._by_tag.items()) if names}
        return {"total": len(self._datastore.objects), "completed": tags.get(FINAL, 0), "label_tags": tags}

    def labelled(self) -> dict[str, bool]:
        """Image id -> whether it has a final label."""
        with self._mutex:
            return {image_id: image_id in self._by_tag[FINAL] for image_id in self._datastore.objects}

    def with_label(self, tag: str) -> dict[str, dict[str, Any]]:
        """Image id -> what is kept with its label of a tag, for all images that have one."""
        with self._mutex:
            objects = self._datastore.objects
            return {name: objects[name].labels[tag].info for name in self._by_tag[tag]}

    def label_stamps(self) -> dict[str, str]:
        """Image id -> size and time of its final label's file: changes whenever the label does."""
        with self._mutex:
            return dict(self._stamps)

    def label_stamp(self, image_id: str) -> str | None:
        """The same of one image, None if it has no final label."""
        return self._stamps.get(image_id)

    def refresh(self) -> None:
        """Bring the index in line with the files, and tell what has changed."""
        changes = self._reconcile()
        if changes:
            logger.info("%d images came, went, or were labelled by hand", len(changes))

    # Images

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image; one that is there already may be replaced until it has a final label.

        Raises:
            ImageError: an id that cannot be a file name, a kind of file that is no image here, or a labelled image.
        """
        name, ending = self._to_id(Path(image_filename).name)
        image_id = image_id or name
        if not is_safe_name(image_id) or image_id.startswith((".", _PART)):
            raise ImageError(f"image id {image_id!r} cannot be a file name")
        if f"*{ending}" not in self._extensions:
            raise ImageError(
                f"{ending or 'a file without ending'} is no image; images are {', '.join(self._extensions)}"
            )
        with self._mutex:
            there = self._datastore.objects.get(image_id)
            if there is not None and FINAL in there.labels:
                raise ImageError(f"image {image_id!r} is there already and has a final label")
            file = self.folder / self._filename(image_id, ending)
            model = DataModel(ext=ending, info={**(image_info or {}), "ts": int(time.time()), "name": file.name})
            with self._writing(Path(image_filename), file), self._index.change() as change:
                change.put_images({image_id: model})
            if there is not None and there.image.ext != ending:
                self._remove(self.folder / self._filename(image_id, there.image.ext))
            labels = there.labels if there is not None else {}
            self._datastore.objects[image_id] = ImageLabelModel(image=model, labels=labels)
            self._on_change({image_id: False})
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; the final one is kept in the history.

        Raises:
            ImageNotFoundException: no such image.
        """
        with self._mutex:
            image = self._image(image_id)
            for tag in list(image.labels):
                self.remove_label(image_id, tag)
            with self._index.change() as change:
                change.drop_image(image_id)
            self._remove(self.folder / self._filename(image_id, image.image.ext))
            del self._datastore.objects[image_id]
            self._on_change({image_id: None})

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Merge values into an image's info."""
        with self._mutex:
            image = self._image(image_id)
            model = DataModel(ext=image.image.ext, info={**image.image.info, **info})
            with self._index.change() as change:
                change.put_images({image_id: model})
            image.image = model

    def write_dataset(self, file: BinaryIO, limit: int | None = None) -> None:
        """Write images with final labels, the labels, and what is known of them as a ZIP file.

        Args:
            file: open for writing.
            limit: of labelled images; None for all.
        """
        with zipfile.ZipFile(file, "w") as archive:
            for pair in self.datalist()[:limit]:
                for kind, path in pair.items():
                    archive.write(path, f"{kind}/{Path(path).name}")
            archive.writestr("metadata.json", self._datastore.model_dump_json(exclude={"base_path"}))

    # Labels

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label under a tag; what is told about it is in its info afterwards.

        A final label must fulfil the rule; where it does not, its bytes are kept in ``rejected``.

        Returns:
            The label's id, which is the image's.

        Raises:
            ImageNotFoundException: no such image.
            LabelError: a tag that may not be used, or a label that does not fit.
        """
        self._check_tag(label_tag)
        self._image(image_id)
        with tempfile.TemporaryDirectory(prefix="label-") as folder:
            about: Mapping[str, Any] = {}
            file = Path(label_filename)
            if label_tag == FINAL:
                try:
                    accepted = self._rule(file, Path(self.get_image_uri(image_id)), label_info, Path(folder))
                except (LabelError, ImageError, ArchiveError) as error:
                    raise self._rejected(image_id, file, label_tag, label_info, error) from error
                file, about = accepted.file, accepted.about
            ending = self._to_id(file.name)[1]
            if f"*{ending}" not in (*self._extensions, *self.label_extensions):
                raise LabelError(f"{ending or 'a file without ending'} is no kind of label here")
            self.store_label(image_id, file, label_tag, {**label_info, **about})
        return image_id

    def store_label(self, image_id: str, file: Path, tag: str, info: Mapping[str, Any]) -> None:
        """Store a label that has been looked at."""
        ending = self._to_id(file.name)[1]
        with self._mutex:
            image = self._image(image_id)
            folder = self.labels_folder / tag
            folder.mkdir(parents=True, exist_ok=True)
            name = self._filename(image_id, ending)
            content = {**info, "ts": int(time.time()), "name": name}
            content.pop("previous", None)
            old = image.labels.get(tag)
            kept = self._keep_version(image_id, tag, old)
            if kept is not None:
                content["previous"] = str(kept.relative_to(self.folder))
            model = DataModel(ext=ending, info=content)
            try:
                with self._writing(file, folder / name), self._index.change() as change:
                    change.put_labels({(image_id, tag): model})
            except BaseException:
                if kept is not None:
                    kept.unlink(missing_ok=True)
                raise
            if old is not None and old.ext != ending:
                self._remove(folder / self._filename(image_id, old.ext))
            self._note(image_id, tag, model)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Merge values into a label's info."""
        with self._mutex:
            label = self._label(label_id, label_tag)
            model = DataModel(ext=label.ext, info={**label.info, **info})
            with self._index.change() as change:
                change.put_labels({(label_id, label_tag): model})
            self._datastore.objects[label_id].labels[label_tag] = model

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; a final one is kept in the history.

        Raises:
            LabelNotFoundException: no such label.
        """
        with self._mutex:
            label = self._label(label_id, label_tag)
            self._keep_version(label_id, label_tag, label)
            with self._index.change() as change:
                change.drop_label(label_id, label_tag)
            self._remove(self.labels_folder / label_tag / self._filename(label_id, label.ext))
            self._note(label_id, label_tag, None)
            if label_tag == FINAL:
                self._on_change({label_id: False})

    def set_labels(self, tag: str, labels: Mapping[str, tuple[Path, Mapping[str, Any]]], replace: bool = True) -> None:
        """Store the labels of many images, changing the index once.

        Args:
            tag: the tag.
            labels: image id -> label file, copied, and what is kept with it; ids that are not there are left out.
            replace: whether these become the only labels of the tag.
        """
        with self._mutex:
            folder = self.labels_folder / tag
            folder.mkdir(parents=True, exist_ok=True)
            objects = self._datastore.objects
            models = {}
            for image_id in sorted(labels.keys() & objects.keys()):
                file, info = labels[image_id]
                ending = self._to_id(file.name)[1]
                name = self._filename(image_id, ending)
                with self._writing(file, folder / name, durable=False):
                    models[image_id] = DataModel(ext=ending, info={**info, "ts": int(time.time()), "name": name})
            old = {name: objects[name].labels[tag] for name in self._by_tag[tag]}
            gone = old.keys() - models.keys() if replace else set()
            with self._index.change() as change:
                change.put_labels({(image_id, tag): model for image_id, model in models.items()})
                for image_id in gone:
                    change.drop_label(image_id, tag)
            # Readers do not wait for the lock: nothing slow between the first change and the last.
            for image_id in gone:
                self._note(image_id, tag, None)
            for image_id, model in models.items():
                self._note(image_id, tag, model)
            for image_id in gone:
                self._remove(folder / self._filename(image_id, old[image_id].ext))
            if tag == FINAL:
                self._on_change({**dict.fromkeys(models, True), **dict.fromkeys(gone, False)})

    def _note(self, image_id: str, tag: str, label: DataModel | None) -> None:
        """Keep in memory that an image has a label, or none any more."""
        labels = self._datastore.objects[image_id].labels
        if tag == FINAL:
            self._stamps.pop(image_id, None)
            if label is not None:
                self._stamps[image_id] = self._stamp_now(image_id, label)
        if label is None:
            labels.pop(tag, None)
            self._by_tag[tag].discard(image_id)
        else:
            labels[tag] = label
            self._by_tag[tag].add(image_id)

    def _stamp_now(self, image_id: str, label: DataModel) -> str:
        return fingerprint([self.labels_folder / FINAL / self._filename(image_id, label.ext)])

    def _check_tag(self, tag: str) -> None:
        if not is_safe_tag(tag) or tag == HISTORY:
            raise LabelError(f"tag {tag!r} must be letters, digits, '_' and '-', and not {HISTORY!r}")
        if self._tags is not None and tag not in self._tags:
            raise LabelError(f"tag {tag!r} is unknown; known are {', '.join(sorted(self._tags))}")

    def _image(self, image_id: str) -> ImageLabelModel:
        image = self._datastore.objects.get(image_id)
        if image is None:
            raise ImageNotFoundException(f"there is no image {image_id!r}")
        return image

    def _label(self, image_id: str, tag: str) -> DataModel:
        label = self._datastore.label(image_id, tag)
        if label is None:
            raise LabelNotFoundException(f"image {image_id!r} has no label with the tag {tag!r}")
        return label

    def _rejected(self, image_id: str, file: Path, tag: str, info: Mapping[str, Any], error: Exception) -> Exception:
        """The error that the sender gets, once the label's bytes are kept."""
        words = f"{image_id}: {error}"
        try:
            ending = self._to_id(file.name)[1]
            place = self.rejected.keep(file, f"label{ending}", {"image": image_id, "tag": tag, "params": info}, words)
        except OSError as failure:
            return type(error)(f"{words}; it could not be kept: {failure.strerror}")
        return type(error)(f"{words}; it is kept on the server as {REJECTED}/{place.name}")

    # Files

    @contextlib.contextmanager
    def _writing(self, source: Path, target: Path, durable: bool = True) -> Iterator[None]:
        """Copy a file so that a reader sees the old or the new one, never a part; what fails inside undoes it."""
        part = target.with_name(f"{_PART}{uuid.uuid4().hex}")
        before = part.with_name(f"{part.name}-before")
        try:
            with source.open("rb") as reader, part.open("wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                if durable:
                    writer.flush()
                    os.fsync(writer.fileno())
            if target.exists():
                _link(target, before)
            self._ours(target)
            part.replace(target)
            try:
                if durable:
                    _sync_folder(target.parent)
                yield
            except BaseException:
                if before.exists():
                    before.replace(target)
                else:
                    target.unlink(missing_ok=True)
                raise
        finally:
            part.unlink(missing_ok=True)
            before.unlink(missing_ok=True)

    def _ours(self, file: Path) -> None:
        """What the watcher will tell of this file is our own doing."""
        if self._auto_reload:
            self._own.add(str(file))

    def _remove(self, file: Path) -> None:
        self._ours(file)
        file.unlink(missing_ok=True)

    def _keep_version(self, image_id: str, tag: str, label: DataModel | None) -> Path | None:
        """Keep a final label that is about to go; returns where."""
        if tag != FINAL or label is None:
            return None
        file = self.labels_folder / tag / self._filename(image_id, label.ext)
        if not file.exists():
            return None
        folder = self.labels_folder / HISTORY / image_id
        folder.mkdir(parents=True, exist_ok=True)
        stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        kept = folder / f"{stamp}{label.ext}"
        try:
            _link(file, kept)
            _sync_folder(folder)
        except BaseException:
            kept.unlink(missing_ok=True)
            raise
        return kept

    def _clear_parts(self) -> None:
        for folder in (self.folder, *self._tag_folders().values()):
            for part in folder.glob(f"{_PART}*"):
                part.unlink(missing_ok=True)

    def _concerns(self, path: Path) -> bool:
        if str(path) in self._own:
            self._own.discard(str(path))
            return False
        if path.name.startswith((_PART, ".", INDEX)):
            return False
        return path.parent == self.folder or path.parent.parent == self.labels_folder

    def _tag_folders(self) -> dict[str, Path]:
        return {
            entry.name: Path(entry.path)
            for entry in os.scandir(self.labels_folder)
            if entry.is_dir() and entry.name != HISTORY
        }

    def _scan(self, folder: Path, patterns: Iterable[str]) -> dict[str, str]:
        """Id -> ending of the files in a folder."""
        wanted = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))
        names = (entry.name for entry in os.scandir(folder) if self._has_a_text_name(entry.name))
        return dict(self._to_id(name) for name in names if wanted.match(name) and not name.startswith((".", _PART)))

    def _has_a_text_name(self, name: str) -> bool:
        """Whether a file's name is Unicode; others cannot be kept or sent, and are left out with a word in the log."""
        if name.isascii() or name.encode(errors="replace").decode() == name:
            return True
        if name not in self._unnamed:
            self._unnamed.add(name)
            logger.warning("%a is left out: its name is not valid UTF-8; rename the file", name)
        return False

    def _scan_images(self) -> dict[str, str]:
        """Id -> ending of all images there are."""
        return self._scan(self.folder, self._extensions)

    def _has_image(self, image_id: str) -> bool:
        """Whether an image is really there, looked at again."""
        return self.image_file(image_id).exists()

    def _new_image(self, image_id: str, ending: str) -> DataModel:
        """What is noted of an image that has come."""
        return _found(image_id, ending)

    def _take_over(self, objects: dict[str, ImageLabelModel]) -> None:
        """Start from what MONAI Label's own index knew."""
        with self._index.change() as change:
            change.put_images({name: image.image for name, image in objects.items()})
            change.put_labels(
                {(name, tag): label for name, image in objects.items() for tag, label in image.labels.items()}
            )
        self._know(objects)

    def _know(self, objects: dict[str, ImageLabelModel]) -> None:
        self._datastore.objects = objects
        self._by_tag.clear()
        for name, image in objects.items():
            for tag in image.labels:
                self._by_tag[tag].add(name)

    def _reconcile(self) -> dict[str, bool | None]:
        """Make memory and index what the files are; tells and returns what has changed."""
        images = self._scan_images()
        patterns = [*self._extensions, *self.label_extensions]
        labels = {tag: self._scan(folder, patterns) for tag, folder in self._tag_folders().items()}
        stamps = self._scan_stamps()
        with self._mutex:
            found = _Difference(self, images, labels, stamps)
            if found.changes:
                if not self._read_only:
                    with self._index.change() as change:
                        found.write(change)
                self._apply(found)
                self._on_change(found.changes)
            for name in self._by_tag[FINAL] - self._stamps.keys():  # at the start
                self._stamps[name] = stamps.get(name) or self._stamp_now(name, self._label(name, FINAL))
        return found.changes

    def _scan_stamps(self) -> dict[str, str]:
        """Image id -> size and time of the file in the folder of final labels."""
        with os.scandir(self.labels_folder / FINAL) as entries:
            return {self._to_id(entry.name)[0]: fingerprint_of(entry) for entry in entries}

    def _apply(self, found: _Difference) -> None:
        objects = self._datastore.objects
        for name, model in found.images.items():
            if name in objects:
                objects[name].image = model
            else:
                objects[name] = ImageLabelModel.model_construct(image=model, labels={})
        for name, tag in found.lost:
            self._note(name, tag, None)
        for (name, tag), label in found.labels.items():
            self._note(name, tag, label)
        for name in found.gone:
            for tag in list(objects[name].labels):
                self._note(name, tag, None)
            del objects[name]


class _Difference:
    """How files differ from what a folder knows. They were listed without the lock: what is gone is looked at again."""

    def __init__(
        self,
        folder: StudiesFolder,
        images: dict[str, str],
        labels: dict[str, dict[str, str]],
        stamps: dict[str, str],
    ) -> None:
        self._objects = folder._datastore.objects
        self.gone = [name for name in self._objects if name not in images and not folder._has_image(name)]
        self.images = {
            name: folder._new_image(name, ending)
            for name, ending in images.items()
            if name not in self._objects or self._objects[name].image.ext != ending
        }
        known = self._objects.keys() | self.images.keys()
        self.lost = [
            (name, tag)
            for name, image in self._objects.items()
            for tag, label in image.labels.items()
            if name not in labels.get(tag, {})
            and not (folder.labels_folder / tag / folder._filename(name, label.ext)).exists()
        ]
        unknown = {
            (name, tag): ending
            for tag, files in labels.items()
            for name, ending in files.items()
            if name in known and self._ending(name, tag) != ending
        }
        noted = folder._index.labels() if unknown else {}
        self.labels = {
            key: noted[key] if key in noted and noted[key].ext == ending else _found(key[0], ending)
            for key, ending in unknown.items()
        }
        for name, stamp in folder._stamps.items():
            if stamps.get(name, stamp) != stamp and (name, FINAL) not in {*self.lost, *self.labels}:
                label = self._objects[name].labels[FINAL]
                if folder._stamp_now(name, label) != stamp:  # replaced or edited by hand: nobody knows by whom
                    info = {key: value for key, value in label.info.items() if key != "client_id"}
                    self.labels[name, FINAL] = DataModel(ext=label.ext, info={**info, "ts": int(time.time())})
        self.changes: dict[str, bool | None] = {}
        lost = set(self.lost)
        for name in {*self.images, *(name for name, _ in [*self.lost, *self.labels])}:
            image = self._objects.get(name)
            there = image is not None and FINAL in image.labels and (name, FINAL) not in lost
            self.changes[name] = there or (name, FINAL) in self.labels
        self.changes.update(dict.fromkeys(self.gone))

    def _ending(self, name: str, tag: str) -> str | None:
        """Ending of a label that is known, None if it is not."""
        label = self._objects[name].labels.get(tag) if name in self._objects else None
        return None if label is None else label.ext

    def write(self, change: IndexChange) -> None:
        """Write it to the index."""
        for name in self.gone:
            change.drop_image(name)
        for name, tag in self.lost:
            change.drop_label(name, tag)
        change.put_images(self.images)
        change.put_labels({key: label for key, label in self.labels.items() if key[0] not in self.gone})


def _found(name: str, ending: str) -> DataModel:
    return DataModel.model_construct(ext=ending, info={"ts": int(time.time()), "name": f"{name}{ending}"})


def _link(file: Path, name: Path) -> None:
    """Give a file a second name; a copy where the file system knows no links."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copy2(file, name)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
