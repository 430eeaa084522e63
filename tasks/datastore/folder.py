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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from sqlalchemy import orm

from tasks.common.files import (
    ArchiveError,
    ImageError,
    LabelError,
    NotPutBackError,
    fingerprint,
    fingerprint_of,
    is_safe_name,
    is_safe_tag,
    is_same,
)
from tasks.datastore.checksums import CHECKSUM, CHECKSUM_OF, Checksums
from tasks.datastore.difference import Difference
from tasks.datastore.earlier_index import EARLIER_INDEX, read_earlier_index
from tasks.datastore.index import Index, IndexChange, NotedLabel
from tasks.datastore.monailabel_index import read_stock_index
from tasks.datastore.names import FOUND, REF, label_ref
from tasks.datastore.rejected import RejectedLabels
from tasks.datastore.rules import FINAL, LabelRule, any_image, any_label
from tasks.datastore.watcher import Watcher
from tasks.datastore.writes import PART, Writes, being_stored, clear_parts, link, sync_folder, undo_unfinished
from tasks.store.store import Store

logger = logging.getLogger(__name__)

HISTORY = "history"
"""Folder beside those of the tags, with the earlier versions of final labels."""
REJECTED = "rejected"
ORIGINAL = "original"
"""Tag of what a model proposed."""
_OURS = (REF, "previous", "source")
"""Keys in a label's info that only the datastore sets."""

Changes = Mapping[str, bool | None]
"""Image id -> whether it has a final label; None once the image is gone."""


@dataclass(frozen=True)
class ImageNow:
    """An image after a change.

    Attributes:
        present: whether it is there.
        label: what is kept with its final label, None without one.
        stamp: size and time of that label's file.
    """

    present: bool = True
    label: Mapping[str, Any] | None = None
    stamp: str | None = None


Note = Callable[[orm.Session, Mapping[str, ImageNow]], None]
"""Notes changed images in the very transaction that changes the index."""


class StudiesFolder(LocalDatastore):
    """MONAI Label's local datastore with an index that does not grow slow, and writes that a kill cannot tear.

    Reads are MONAI Label's; everything that writes is here. A final label that is replaced or removed is kept in
    ``labels/history``, a refused one in ``rejected``. A label and its row in the index are kept together or not at all.

    Args:
        path: studies folder.
        store: the database that the index is part of; default one of its own in ``active_learning``.
        note: called within the transaction that changes images or final labels; if it fails, nothing has changed.
        on_change: called afterwards with what has changed after images or labels came or went; not for a label that
            somebody gave, of whom :meth:`save_label` returns.
        extensions: patterns of image files.
        rule: what a final label must fulfil.
        look: raises :class:`tasks.common.files.ImageError` for a new image that cannot be used.
        turn: entered while a file that was sent is looked at, so that a server can bound how many are at once.
        tags: tags that labels may be saved under; None allows any that can be a folder name.
        auto_reload: follow changes that others make in the folder.
        read_only: do not write anything.
    """

    label_extensions: tuple[str, ...] = ()
    """Patterns of label files beside those of images."""
    noted_of_images: frozenset[str] = frozenset((CHECKSUM, CHECKSUM_OF, "ts", "name", "path"))
    """Keys in an image's info that nobody else says: viewers open what they name."""
    noted_of_labels: frozenset[str] = frozenset((*_OURS, "ts", "name", "client_id"))
    """Keys in a label's info that nobody changes once it is stored."""

    def __init__(
        self,
        path: str,
        store: Store | None = None,
        note: Note = lambda session, images: None,
        on_change: Callable[[Changes], None] = lambda changes: None,
        extensions: Sequence[str] = ("*.nii.gz", "*.nii"),
        rule: LabelRule = any_label,
        look: Callable[[Path], None] = any_image,
        turn: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        tags: Sequence[str] | None = None,
        auto_reload: bool = False,
        read_only: bool = False,
    ) -> None:
        self._mutex = threading.RLock()
        # Nothing is told before everything is there.
        self._on_change: Callable[[Changes], None] = lambda changes: None
        self._note_with: Note = lambda session, images: None
        self._rule = rule
        self._look_at = look
        self._turn = turn
        self._tags = None if tags is None else {FINAL, ORIGINAL, *tags}
        self._extensions = list(extensions)
        self._auto_reload = auto_reload
        self._read_only = read_only
        self._own: set[str] = set()
        self._unnamed: set[str] = set()
        self._watcher: Watcher | None = None
        self._checksums: Checksums | None = None
        folder = Path(path)
        self._datastore_path = str(folder)
        self._datastore = LocalDatastoreModel(name="studies", description="", images_dir=".", base_path=str(folder))
        self.folder = folder
        self.labels_folder = folder / "labels"
        self.rejected = RejectedLabels(folder / REJECTED)
        for tag in (FINAL, ORIGINAL):
            (self.labels_folder / tag).mkdir(parents=True, exist_ok=True)
        self._writes = Writes(self._ours)
        self._own_store = None if store is not None else Store(folder / "active_learning" / "store.sqlite")
        self._index = Index(store or cast(Store, self._own_store))
        self._by_tag: defaultdict[str, set[str]] = defaultdict(set)
        self._stamps: dict[str, str] = {}
        self._stray: dict[str, str] = {}
        self._know(self._index.load())
        if not self._datastore.objects and not read_only:
            self._take_over(*read_earlier_index(folder))
        self.is_new = not self._datastore.objects
        """Whether nothing was known of the folder: its index is new, or was lost."""
        if self.is_new and not read_only:
            self._take_over(*read_stock_index(folder))
        if not read_only:
            self._tidy()
            self.rejected.forget_old()
        self._reconcile()
        self._on_change, self._note_with = on_change, note
        if auto_reload:
            self._watcher = Watcher(folder, self._concerns, self.refresh)

    def close(self) -> None:
        """Stop watching, and close the index."""
        if self._watcher is not None:
            self._watcher.stop()
        if self._checksums is not None:
            self._checksums.close()
        if self._own_store is not None:
            self._own_store.close()

    # What is there

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images with a final label."""
        with self._mutex:
            return list(self._by_tag[FINAL])

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._datastore.objects

    def compute_checksums(self) -> None:
        """Give every image its checksum from now on, in the background."""
        self._checksums = Checksums(self.image_file, lambda name: self._image(name).image.info, self._keep_with_images)
        self._checksums.add(self.list_images())

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is kept with an image, and its path; ``checksum`` once it is known for the file as it is now."""
        info: dict[str, Any] = super().get_image_info(image_id)
        if info and info.pop(CHECKSUM_OF, "") != fingerprint([self.image_file(image_id)]):
            info.pop(CHECKSUM, None)
            if self._checksums is not None:
                self._checksums.first(image_id)
        return info

    def _keep_with_images(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Merge values into the info of those images that are there."""
        with self._mutex:
            objects = self._datastore.objects
            with self._index.change() as change:
                images = change.images(infos.keys() & objects.keys())
                models = {
                    name: DataModel(ext=image.ext, info={**image.info, **infos[name]}) for name, image in images.items()
                }
                change.put_images(models)
            for name, model in models.items():
                objects[name].image = model

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

    def images_now(self) -> dict[str, ImageNow]:
        """All images as they are."""
        with self._mutex:
            labels = {name: image.labels.get(FINAL) for name, image in self._datastore.objects.items()}
            return {
                name: ImageNow() if label is None else ImageNow(label=label.info, stamp=self._stamps.get(name))
                for name, label in labels.items()
            }

    def at_rest(self) -> AbstractContextManager[Any]:
        """As long as this is held, nothing changes and nothing is told."""
        return self._mutex

    def with_label(self, tag: str) -> dict[str, dict[str, Any]]:
        """Image id -> what is kept with its label of a tag, for all images that have one."""
        with self._mutex:
            objects = self._datastore.objects
            return {name: objects[name].labels[tag].info for name in self._by_tag[tag]}

    def follow_edits(self, known: Mapping[str, tuple[str, str]]) -> None:
        """Note final labels whose file was written anew while nobody watched.

        Args:
            known: image id -> name and stamp that its label had. A label of another name is one of ours that is newer.
        """
        with self._mutex:
            edited = [name for name, (_, stamp) in known.items() if not is_same(stamp, self._stamps.get(name, stamp))]
            labels = {
                (name, FINAL): self._found_label(name, FINAL, label.ext)
                for name in edited
                if label_ref((label := self._label(name, FINAL)).info) == known[name][0]
            }
            if labels and not self._read_only:
                with self._index.change() as change:
                    change.put_labels(labels)  # the first look notes them
            for (name, tag), label in labels.items():
                self._note(name, tag, label)
        if labels:
            logger.info("%d labels were changed by hand while the server was away", len(labels))

    def stray_labels(self) -> dict[str, str]:
        """Files among the final labels that fit no image -> why."""
        return self._stray

    def unsent(self) -> dict[str, str]:
        """Images whose label the archive has not got and will not get by itself -> why: none, there is no archive."""
        return {}

    def send_again(self, image_id: str) -> None:
        """Send the label of an image that could not be sent: there is no archive."""

    def refresh(self) -> None:
        """Bring the index in line with the files, and tell what has changed."""
        changes = self._reconcile()
        if changes:
            logger.info("%d images came, went, or were labelled by hand", len(changes))

    # Images

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image; one that is there already may be replaced until it has a final label.

        Raises:
            ImageError: an id that cannot be a file name, a kind of file that is no image here, one
                that cannot be used, or a labelled image.
        """
        name, ending = self._to_id(Path(image_filename).name)
        image_id = image_id or name
        if not is_safe_name(image_id) or image_id.startswith((".", PART)):
            raise ImageError(f"image id {image_id!r} cannot be a file name")
        if f"*{ending}" not in self._extensions:
            raise ImageError(
                f"{ending or 'a file without ending'} is no image; images are {', '.join(self._extensions)}"
            )
        with self._turn():
            try:
                self._look_at(Path(image_filename))
            except ImageError as error:
                raise ImageError(str(error).replace(image_filename, image_id + ending)) from error
        with self._mutex:
            there = self._now(image_id) if image_id in self else None
            if there is not None and FINAL in there.labels:
                raise ImageError(f"image {image_id!r} is there already and has a final label")
            file = self.folder / self._filename(image_id, ending)
            info = {**_without(self.noted_of_images, image_info or {}), "ts": int(time.time()), "name": file.name}
            model = DataModel(ext=ending, info=info)
            with self._writes.written(Path(image_filename), file), self._index.change() as change:
                change.put_images({image_id: model})
                self._note_with(change.session, {image_id: ImageNow()})
            if there is not None and there.image.ext != ending:
                self._writes.remove(self.folder / self._filename(image_id, there.image.ext))
            labels = there.labels if there is not None else {}
            self._datastore.objects[image_id] = ImageLabelModel(image=model, labels=labels)
            self._on_change({image_id: False})
        if self._checksums is not None:
            self._checksums.add([image_id])
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; the final one is kept in the history.

        Raises:
            ImageNotFoundException: no such image.
        """
        with self._mutex:
            image = self._now(image_id)
            for tag in list(image.labels):
                self.remove_label(image_id, tag)
            with self._writes.removed(self.image_file(image_id)), self._index.change() as change:
                change.drop_image(image_id)
                self._note_with(change.session, {image_id: ImageNow(present=False)})
            del self._datastore.objects[image_id]
            self._on_change({image_id: None})

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Merge values into an image's info; what the datastore notes itself stays."""
        self._image(image_id)
        self._keep_with_images({image_id: _without(self.noted_of_images, info)})

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
        made = Path(tempfile.gettempdir()) / f"label-{uuid.uuid4().hex}"
        try:
            about: Mapping[str, Any] = {}
            label_info = _without(_OURS, label_info)
            file = Path(label_filename)
            if label_tag == FINAL:
                try:
                    image = Path(self.get_image_uri(image_id))  # from an archive it may take a while
                    with self._turn():
                        accepted = self._rule(file, image, label_info, made)
                except (LabelError, ImageError, ArchiveError) as error:
                    raise self._rejected(image_id, file, label_tag, label_info, error) from error
                file, about = accepted.file, accepted.about
            ending = self._to_id(file.name)[1]
            if f"*{ending}" not in (*self._extensions, *self.label_extensions):
                raise LabelError(f"{ending or 'a file without ending'} is no kind of label here")
            self.store_label(image_id, file, label_tag, {**label_info, **about})
        finally:
            if made.exists():
                shutil.rmtree(made)
        return image_id

    def store_label(self, image_id: str, file: Path, tag: str, info: Mapping[str, Any]) -> None:
        """Store a label that has been looked at."""
        ending = self._to_id(file.name)[1]
        folder = self.labels_folder / tag
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / self._filename(image_id, ending)
        ref = uuid.uuid4().hex
        # Copied and on the disk before anybody has to wait for this one.
        with self._writes.prepared(file, target, ref) as part, self._mutex:
            old = self._now(image_id).labels.get(tag)
            content = {**info, "ts": int(time.time()), "name": target.name, REF: ref}
            content.pop("previous", None)
            with self._version_kept(image_id, tag, old) as kept:
                if kept is not None:
                    content["previous"] = str(kept.relative_to(self.folder))
                model = DataModel(ext=ending, info=content)
                with self._writes.put(part, target, named=True), self._index.change() as change:
                    change.put_labels({(image_id, tag): model})
                    if tag == FINAL:
                        self._note_labels(change, {image_id: model})
            if old is not None and old.ext != ending:
                self._writes.remove(folder / self._filename(image_id, old.ext))
            self._note(image_id, tag, model)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Merge values into a label's info; what the datastore notes itself, and who gave the label, stays."""
        self._keep_with_label(label_id, label_tag, _without(self.noted_of_labels, info))

    def _keep_with_label(self, label_id: str, label_tag: str, info: Mapping[str, Any]) -> None:
        """Merge values into a label's info."""
        with self._mutex:
            self._now(label_id)
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
            self._now(label_id)
            label = self._label(label_id, label_tag)
            file = self._label_file(label_id, label_tag, label.ext)
            with (
                self._version_kept(label_id, label_tag, label),
                self._writes.removed(file),
                self._index.change() as change,
            ):
                change.drop_label(label_id, label_tag)
                if label_tag == FINAL:
                    self._note_labels(change, {label_id: None})
            self._note(label_id, label_tag, None)
            if label_tag == FINAL:
                self._on_change({label_id: False})

    def take_back(self, image_id: str, ref: str) -> None:
        """Remove the final label of this name; nothing happens if the image has another one by now, or none."""
        with self._mutex:
            image = self._now(image_id) if image_id in self else None
            if image is not None and FINAL in image.labels and label_ref(image.labels[FINAL].info) == ref:
                self.remove_label(image_id, FINAL)

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
                with self._writes.written(file, folder / name, durable=False):
                    content = {**info, "ts": int(time.time()), "name": name, REF: uuid.uuid4().hex}
                    models[image_id] = DataModel(ext=ending, info=content)
            old = {name: objects[name].labels[tag] for name in self._by_tag[tag]}
            gone = old.keys() - models.keys() if replace else set()
            with self._index.change() as change:
                change.put_labels({(image_id, tag): model for image_id, model in models.items()})
                for image_id in gone:
                    change.drop_label(image_id, tag)
                if tag == FINAL:
                    self._note_labels(change, {**models, **dict.fromkeys(gone)})
            # Readers do not wait for the lock: nothing slow between the first change and the last.
            for image_id in gone:
                self._note(image_id, tag, None)
            for image_id, model in models.items():
                self._note(image_id, tag, model)
            for image_id in gone:
                self._writes.remove(folder / self._filename(image_id, old[image_id].ext))
            if tag == FINAL:
                self._on_change({**dict.fromkeys(models, True), **dict.fromkeys(gone, False)})

    def _note_labels(self, change: IndexChange, labels: Mapping[str, DataModel | None]) -> None:
        """Have it noted that images have these final labels from now on; the labels' files are in their places."""
        now = {
            name: ImageNow() if label is None else ImageNow(label=label.info, stamp=self._stamp_now(name, label))
            for name, label in labels.items()
        }
        self._note_with(change.session, now)

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

    def _now(self, image_id: str) -> ImageLabelModel:
        """An image with its labels as the index has them: another server on the folder may have changed them just now.

        Raises:
            ImageNotFoundException: no such image, or not any more.
        """
        image = self._image(image_id)
        noted = self._index.labels_of(image_id)
        if noted is None and not self._has_image(image_id):
            self._forget(image_id)
            raise ImageNotFoundException(f"there is no image {image_id!r}")
        noted = noted or {}
        for tag in {*image.labels, *noted}:
            known, label = image.labels.get(tag), noted.get(tag)
            changed = known is None or label is None or label_ref(known.info) != label_ref(label.info)
            file = known if label is None else label
            there = file is not None and self._label_file(image_id, tag, file.ext).exists()
            if changed and there == (label is not None):
                self._note(image_id, tag, label)
        return image

    def _forget(self, image_id: str) -> None:
        """Keep no longer in memory that there is an image."""
        for tag in list(self._datastore.objects[image_id].labels):
            self._note(image_id, tag, None)
        del self._datastore.objects[image_id]

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

    def _ours(self, file: Path) -> None:
        """What the watcher will tell of this file is our own doing."""
        if self._auto_reload:
            self._own.add(str(file))

    @contextlib.contextmanager
    def _version_kept(self, image_id: str, tag: str, label: DataModel | None) -> Iterator[Path | None]:
        """Keep a final label that is about to go, unless it stays because what is inside fails; yields where."""
        kept = None
        file = None if tag != FINAL or label is None else self._label_file(image_id, tag, label.ext)
        if file is not None and file.exists():
            folder = self.labels_folder / HISTORY / image_id
            folder.mkdir(parents=True, exist_ok=True)
            stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
            kept = folder / f"{stamp}{self._to_id(file.name)[1]}"
        try:
            if kept is not None and file is not None:
                link(file, kept)
                sync_folder(kept.parent)
            yield kept
        except BaseException as error:
            if kept is not None and not isinstance(error, NotPutBackError):
                kept.unlink(missing_ok=True)
            raise

    def _tidy(self) -> None:
        """Put back what a kill has kept from being noted, and remove what it has left half-written."""
        folders = self._tag_folders().values()
        noted = {label.info.get(REF) for label in self._index.labels().values()}
        for folder in folders:
            for file in undo_unfinished(folder, noted):
                logger.warning("%s was being stored when the server was killed: it is what it was before", file)
        clear_parts((self.folder, *folders))

    def _concerns(self, path: Path) -> bool:
        if str(path) in self._own:
            self._own.discard(str(path))
            return False
        if path.name.startswith((PART, ".", EARLIER_INDEX)):
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
        return dict(self._to_id(name) for name in names if wanted.match(name) and not name.startswith((".", PART)))

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

    def _is_there(self, image_id: str, ending: str) -> bool:
        """Whether the file of an image that was listed is still there."""
        return os.path.lexists(self.folder / self._filename(image_id, ending))

    def _new_image(self, image_id: str, ending: str) -> DataModel:
        """What is noted of an image that has come."""
        return _found(image_id, ending)

    def _label_file(self, image_id: str, tag: str, ending: str) -> Path:
        return self.labels_folder / tag / self._filename(image_id, ending)

    def _found_label(self, image_id: str, tag: str, ending: str, noted: NotedLabel | None = None) -> DataModel:
        """What is noted of a label that somebody has put there, or has written anew: nobody knows who.

        Args:
            image_id: the image.
            tag: the label's.
            ending: of its file.
            noted: the image's final label as the history has it; if the file is still that one, it is known after all.
        """
        model = _found(image_id, ending)
        stamp = fingerprint([self._label_file(image_id, tag, ending)])
        if noted is not None and is_same(noted.stamp, stamp):
            model.info.update({**noted.info, REF: noted.ref})
        else:
            model.info[REF] = f"{FOUND}{stamp}"
        return model

    def _take_over(self, images: Mapping[str, DataModel], labels: Mapping[tuple[str, str], DataModel]) -> None:
        """Start from what an index of before knew; of final labels that have been replaced since, it knows nothing."""
        if not images and not labels:
            return
        noted = self._index.noted({name for name, _ in labels})
        current = {
            (name, tag): label
            for (name, tag), label in labels.items()
            if tag != FINAL or name not in noted or noted[name].ref == label_ref(label.info)
        }
        with self._index.change() as change:
            change.put_images(images)
            change.put_labels(current)
        self._know(self._index.load())

    def _know(self, objects: dict[str, ImageLabelModel]) -> None:
        self._datastore.objects = objects
        self._by_tag.clear()
        for name, image in objects.items():
            for tag in image.labels:
                self._by_tag[tag].add(name)

    def _reconcile(self) -> dict[str, bool | None]:
        """Make memory and index what the files are; tells and returns what has changed."""
        in_flight = {self._to_id(name)[0] for name in being_stored(self.labels_folder / FINAL)}
        images = self._scan_images()
        patterns = [*self._extensions, *self.label_extensions]
        labels = {tag: self._scan(folder, patterns) for tag, folder in self._tag_folders().items()}
        stamps = self._scan_stamps()
        with self._mutex:
            found = Difference(self, images, labels, stamps, in_flight)
            if found.changes:
                if not self._read_only:
                    with self._index.change() as change:
                        found.write(change)
                        self._note_labels(change, found.final_labels)
                        self._note_with(change.session, {name: ImageNow(present=False) for name in found.gone})
                self._apply(found)
                self._on_change(found.changes)
                if self._checksums is not None:
                    self._checksums.add(found.images)
            self._stray = self._find_stray(patterns)
            for name in self._by_tag[FINAL] - self._stamps.keys():  # at the start
                self._stamps[name] = stamps.get(name) or self._stamp_now(name, self._label(name, FINAL))
        if in_flight and self._watcher is not None:
            self._watcher.look_again()
        return found.changes

    def _find_stray(self, patterns: Sequence[str]) -> dict[str, str]:
        """Files in the folder of final labels that are none, and why."""
        wanted = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))
        found = {}
        with os.scandir(self.labels_folder / FINAL) as entries:
            for entry in entries:
                if entry.name.startswith((PART, ".")):
                    continue
                if not wanted.match(entry.name):
                    found[entry.name] = f"it is no {', '.join(patterns)} file"
                elif self._to_id(entry.name)[0] not in self._datastore.objects:
                    found[entry.name] = "there is no image of this name"
        return found

    def _scan_stamps(self) -> dict[str, str]:
        """Image id -> size and time of the file in the folder of final labels."""
        with os.scandir(self.labels_folder / FINAL) as entries:
            return {self._to_id(entry.name)[0]: fingerprint_of(entry) for entry in entries}

    def _apply(self, found: Difference) -> None:
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
            self._forget(name)


def _without(names: Collection[str], info: Mapping[str, Any]) -> dict[str, Any]:
    """Values but those of some names."""
    return {name: value for name, value in info.items() if name not in names}


def _found(name: str, ending: str) -> DataModel:
    return DataModel.model_construct(ext=ending, info={"ts": int(time.time()), "name": f"{name}{ending}"})
