"""A DICOMweb archive as a datastore: its series are the images, labels go back as DICOM SEG.

Everything that annotators wait for is answered from this machine: the list of series and all labels are kept in a
folder beside the models, series are fetched once. A label is durable here before it is acknowledged; it is sent to the
archive at once where that is possible, and later where it is not.
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
import pydicom
import SimpleITK
from monailabel.datastore.local import DataModel
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy.exc import SQLAlchemyError

from tasks.common.files import ArchiveError, ImageError, LabelError, reason
from tasks.datastore.folder import StudiesFolder
from tasks.datastore.outbox import Outbox
from tasks.datastore.rules import FINAL
from tasks.dicom.client import SEG, Archive, Series
from tasks.dicom.seg import Authorship, made_at, may_be_mirrored, read_seg, referenced_series, write_seg
from tasks.dicom.series import onto_grid, to_volume
from tasks.dicom.series_filter import SeriesFilter, images
from tasks.geometry.grid import read_grid
from tasks.geometry.label_values import load
from tasks.geometry.volumes import channel_files

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""How often the archive is looked at for new series and for labels of others."""
SHARE = 20
"""A large archive takes long to look at: the pause is at least this many times as long."""
PATIENCE_SECONDS = 3600.0
"""How long a job waits for an archive that is away."""
FETCHING_SECONDS = 10.0
"""How long a request waits for a series to be fetched; fetching goes on after it."""
MOST_FAILURES = 3
"""Segmentations that the archive does not give, one after another, before the rest waits for the next look."""
SENDING_SECONDS = 5.0
"""How long a label's sender waits to hear that the archive has it; it is durable here before."""
_LONGEST_PAUSE = 60.0
_ENDING = ".nii.gz"
_HEADERS = "dicom"

STATE = "archive"
"""Key in a label's info: ``{"state": "waiting" | "stored" | "failed", "series": uid}``."""
WAITING, STORED, FAILED = "waiting", "stored", "failed"
_CHANNELS = "channels"
_SEGS = "segmentations"

T = TypeVar("T")


class ArchiveFolder(StudiesFolder):
    """Series of a DICOMweb archive, and their labels.

    Args:
        path: folder that keeps what was fetched, and the labels.
        archive: the archive.
        wanted: which series are images.
        names: foreground label names, value 1 first.
        channels: names of the series of a study that make one image; with fewer than two each series is one.
        read_only: for a job: it waits for an archive that is away, sends nothing and looks for nothing new.
        **options: of :class:`tasks.datastore.folder.StudiesFolder`.
    """

    label_extensions = ("*.nrrd",)
    noted_of_images = StudiesFolder.noted_of_images | {_CHANNELS, _SEGS, *(field.name for field in fields(Series))}
    noted_of_labels = StudiesFolder.noted_of_labels | {STATE}

    def __init__(
        self,
        path: str,
        archive: Archive,
        wanted: SeriesFilter,
        names: Sequence[str],
        channels: Sequence[str] = (),
        read_only: bool = False,
        auto_reload: bool = False,
        **options: Any,
    ) -> None:
        self.archive = archive
        self._wanted = wanted
        self._names = list(names)
        self._channels = list(channels)
        self._patience = PATIENCE_SECONDS if read_only else 0.0
        self._catalogue: dict[str, tuple[Series | None, ...]] | None = None
        self._elsewhere: set[str] = set()
        self._later: set[str] = set()
        self._fetching: dict[str, Future[None]] = {}
        self._fetchers = ThreadPoolExecutor(4, thread_name_prefix="fetch")
        self._refreshing = threading.Lock()
        self._closed = threading.Event()
        self._outbox: Outbox | None = None
        super().__init__(path, extensions=(f"*{_ENDING}",), read_only=read_only, **options)
        if read_only:
            return
        self._outbox = Outbox(self._waiting, self._send, self._cannot_send)
        try:
            with self._refreshing:
                self._find_series()
                if not auto_reload:
                    self._take_segmentations()
        except ArchiveError as error:
            logger.error("%s; starting with the %d series known from before", error, len(self._datastore.objects))
        if auto_reload:
            threading.Thread(target=self._look, name="archive-refresh", daemon=True).start()

    def close(self) -> None:
        """Stop looking for changes and sending labels."""
        self._closed.set()
        if self._outbox is not None:
            self._outbox.close()
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        super().close()

    # What is there

    def name(self) -> str:
        """The archive's address."""
        return self.archive.url

    def refresh(self) -> None:
        """Ask the archive for series, and for labels that others have made.

        Raises:
            ArchiveError: it does not answer; what is known stays.
        """
        with self._refreshing:
            self._find_series()
            self._take_segmentations()

    def _find_series(self) -> None:
        found = [
            series
            for modality in self._wanted.modalities
            for series in self.archive.search(modality)
            if self._wanted.takes(series)
        ]
        self._catalogue = images(found, self._channels)
        super().refresh()

    def _look(self) -> None:
        # Labels that others stored while nobody looked are taken at once, but no start waits for them.
        look, pause = self._first_look, 0.0
        while not self._closed.wait(pause):
            started = time.monotonic()
            try:
                look()
            except ArchiveError as error:
                logger.warning("%s", error)
            except Exception:  # the thread must outlive one failure
                logger.exception("the archive could not be looked at")
            look, pause = self.refresh, max(REFRESH_SECONDS, SHARE * (time.monotonic() - started))

    def _first_look(self) -> None:
        with self._refreshing:
            self._take_segmentations()

    def _scan_images(self) -> dict[str, str]:
        known = self._datastore.objects if self._catalogue is None else self._catalogue
        return dict.fromkeys(known, _ENDING)

    def _has_image(self, image_id: str) -> bool:
        return self._catalogue is None or image_id in self._catalogue

    def _is_there(self, image_id: str, ending: str) -> bool:
        return self._has_image(image_id)

    def _new_image(self, image_id: str, ending: str) -> DataModel:
        model = super()._new_image(image_id, ending)
        channels = (self._catalogue or {}).get(image_id, ())
        if channels and channels[0] is not None:
            model.info.update(channels[0].info())
            model.info[_CHANNELS] = [None if series is None else series.info() for series in channels]
        return model

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What a viewer needs to find the series, under DICOM's names."""
        info = super().get_image_info(image_id)
        return {key: value for key, value in info.items() if key not in (_CHANNELS, _SEGS)}

    # Images

    def get_image_uri(self, image_id: str) -> str:
        """The file of an image, fetched if it is not here yet.

        Raises:
            ArchiveError: it is not here and the archive does not answer.
            ImageError: the series cannot be made a volume, or its study lacks a channel.
        """
        if image_id not in self:
            return ""
        file = self.image_file(image_id)
        if not file.exists():
            if self._read_only:
                self._patiently(lambda: self._fetch(image_id, file))
            else:
                self._wait_for(self._fetch_soon(image_id, file), image_id)
        return str(file.resolve())

    def prefetch(self, image_id: str) -> None:
        """Fetch an image in the background: somebody will want it soon."""
        file = self.image_file(image_id)
        if not file.exists():
            self._fetch_soon(image_id, file)

    def _fetch_soon(self, image_id: str, file: Path) -> Future[None]:
        """Fetch in the background, once however many ask."""
        with self._mutex:
            running = self._fetching.get(image_id)
            if running is None or running.done():
                running = self._fetching[image_id] = self._fetchers.submit(self._fetch_unless_there, image_id, file)
            return running

    def _fetch_unless_there(self, image_id: str, file: Path) -> None:
        if not file.exists():
            self._fetch(image_id, file)

    def _wait_for(self, fetching: Future[None], image_id: str) -> None:
        wait([fetching], FETCHING_SECONDS)
        if not fetching.done():
            raise ArchiveError(f"the archive {self.archive.url} is slow: {image_id} is being fetched, try again soon")
        fetching.result()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Raise :class:`ImageError`: images come from the archive."""
        raise ImageError("images come from the archive: send them there")

    def remove_image(self, image_id: str) -> None:
        """Raise :class:`ImageError`: images are the archive's."""
        raise ImageError("images are the archive's: remove them there")

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Labelled images, fetched where they are not here yet."""
        for image_id in self.get_labeled_images():
            self.get_image_uri(image_id)
        found: list[dict[str, Any]] = super().datalist(full_path)
        return found

    def _fetch(self, image_id: str, file: Path) -> None:
        started = time.monotonic()
        channels = self._image(image_id).image.info[_CHANNELS]
        missing = [name for name, series in zip(self._channels, channels, strict=False) if series is None]
        if missing:
            raise ImageError(f"the study of {image_id} has no series like {', '.join(missing)}")
        volumes: list[SimpleITK.Image] = []
        frames = set()
        for values in channels:
            series = Series(**values)
            instances = self.archive.retrieve(series)
            frames.add(str(instances[0].get("FrameOfReferenceUID", "")) if instances else "")
            if len(frames) > 1:  # highdicom compares the slices of one series only
                raise ImageError(
                    f"series {series.SeriesInstanceUID} ({series.SeriesDescription}) has another frame of reference "
                    f"than {image_id}: they cannot be channels of one image"
                )
            volumes.append(to_volume(instances, series.SeriesInstanceUID))
            if series.SeriesInstanceUID == image_id:
                self._keep_headers(image_id, instances)
        targets = channel_files(file, self._channels if len(volumes) > 1 else ())
        with tempfile.TemporaryDirectory(prefix="volume-") as folder:
            # The image's own file comes last: where it is, the others are.
            for place in reversed(range(len(volumes))):
                made = Path(folder) / f"channel{place}{_ENDING}"
                SimpleITK.WriteImage(onto_grid(volumes[place], volumes[0]), str(made))
                targets[place].parent.mkdir(parents=True, exist_ok=True)
                with self._writes.written(made, targets[place]):
                    pass
        if self._checksums is not None:
            self._checksums.first(image_id)
        logger.info("fetched %s in %.1f s", image_id, time.monotonic() - started)

    def _keep_headers(self, image_id: str, instances: Sequence[Dataset]) -> None:
        folder = self.folder / _HEADERS / image_id
        folder.mkdir(parents=True, exist_ok=True)
        for number, instance in enumerate(instances):
            header = pydicom.Dataset({key: value for key, value in instance.items() if key.group < 0x7FE0})
            header.file_meta = instance.file_meta
            header.is_little_endian, header.is_implicit_VR = instance.is_little_endian, instance.is_implicit_VR
            part = folder / f"{number:06d}.part"
            header.save_as(part, write_like_original=False)
            part.replace(part.with_suffix(".dcm"))

    def _headers(self, image_id: str) -> list[Dataset]:
        self.get_image_uri(image_id)
        files = sorted((self.folder / _HEADERS / image_id).glob("*.dcm"))
        return [pydicom.dcmread(file) for file in files]

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call, and again with longer and longer pauses while the archive is away and there is time."""
        pause, end = 1.0, time.monotonic() + self._patience
        while True:
            try:
                return call()
            except ArchiveError as error:
                if time.monotonic() + pause > end:
                    raise
                logger.warning("%s; trying again in %.0f s", error, pause)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    # Labels to the archive

    def store_label(self, image_id: str, file: Path, tag: str, info: Mapping[str, Any]) -> None:
        """Store a label; a final one that people gave here is on its way to the archive from now on."""
        content = dict(info)
        own = tag == FINAL and content.get(STATE, {}).get("state") != STORED
        if own:
            content[STATE] = {"state": WAITING, "series": generate_uid()}
        super().store_label(image_id, file, tag, content)
        if own and self._outbox is not None:
            self._outbox.send_soon()

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label, and wait a moment for the archive to have it."""
        saved = super().save_label(image_id, label_filename, label_tag, {**label_info, STATE: {}})
        if label_tag == FINAL and self._outbox is not None:
            self._outbox.wait_for(image_id, SENDING_SECONDS)
        return saved

    def unsent(self) -> dict[str, str]:
        """Images whose label could not be sent to the archive -> why."""
        infos = self.with_label(FINAL)
        states = {name: info[STATE] for name, info in infos.items() if STATE in info}
        return {
            name: str(state.get("reason") or "the archive refused it")
            for name, state in states.items()
            if state.get("state") == FAILED
        }

    def send_again(self, image_id: str) -> None:
        """Try once more to send the label of an image that could not be sent."""
        if image_id in self.unsent():
            series = self.get_label_info(image_id, FINAL)[STATE]["series"]
            self._settled(image_id, series, {"state": WAITING, "series": series})
            if self._outbox is not None:
                self._outbox.send_soon()

    def _waiting(self) -> list[str]:
        """Images whose label the archive has not got yet, the oldest label first."""
        infos = self.with_label(FINAL)
        waiting = [name for name, info in infos.items() if info.get(STATE, {}).get("state") == WAITING]
        return sorted(waiting, key=lambda name: (infos[name].get("ts", 0), name))

    def _send(self, image_id: str) -> None:
        """Send an image's label as DICOM SEG."""
        info = self.get_label_info(image_id, FINAL)
        series = info[STATE]["series"]
        values = load(Path(self.get_label_uri(image_id, FINAL)))[0].numpy().astype(np.uint8)
        if values.any():
            author = Authorship(*(str(info.get(name) or "") for name in ("client_id", "model", "model_version")))
            affine = read_grid(Path(self.get_image_uri(image_id))).affine
            seg = write_seg(values, affine, self._names, self._headers(image_id), author, series)
            self._remember(image_id, series, "ours")
            self.archive.store(seg)
        self._settled(image_id, series, {"state": STORED, "series": series})
        logger.info("the archive has the label of %s: series %s", image_id, series)

    def _cannot_send(self, image_id: str, error: Exception) -> None:
        series = self.get_label_info(image_id, FINAL)[STATE]["series"]
        logger.error("the label of %s cannot be sent to the archive: %s", image_id, error)
        self._settled(image_id, series, {"state": FAILED, "series": series, "reason": reason(error)})

    def _settled(self, image_id: str, series: str, state: dict[str, str]) -> None:
        with self._mutex:
            if self.get_label_info(image_id, FINAL).get(STATE, {}).get("series") == series:  # not replaced meanwhile
                self._keep_with_label(image_id, FINAL, {STATE: state})

    # Labels from the archive

    def _take_segmentations(self) -> None:
        known = self._elsewhere | {
            uid for image in self._datastore.objects.values() for uid in image.image.info.get(_SEGS, {})
        }
        of_channel = {
            series["SeriesInstanceUID"]: name
            for name, image in self._datastore.objects.items()
            for series in image.image.info.get(_CHANNELS, [])
            if series is not None
        }
        failures = 0
        for series in self.archive.search(SEG):
            if series.SeriesInstanceUID in known:
                continue
            failures = 0 if self._look_at_segmentation(series, of_channel) else failures + 1
            if failures == MOST_FAILURES:
                raise ArchiveError(f"the archive {self.archive.url} does not give its segmentations")

    def _look_at_segmentation(self, series: Series, of_channel: Mapping[str, str]) -> bool:
        """Take a segmentation if it is a label, and remember what it was; False if it must be asked for again."""
        uid = series.SeriesInstanceUID
        image_id: str | None = None
        try:
            headers = self.archive.metadata(series)
            image_id = of_channel.get(referenced_series(headers[0])) if headers else None
            if image_id is None:
                self._elsewhere.add(uid)
                return True
            words = "taken" if self._take(series, image_id) else "older than the label that is there"
        except (OSError, SQLAlchemyError) as error:  # the archive's, or this machine's
            # What fails again and again is said once.
            logger.log(
                logging.DEBUG if uid in self._later else logging.WARNING,
                *("segmentation %s cannot be taken now: %s", uid, reason(error)),
            )
            self._later.add(uid)
            return False
        except Exception as error:  # whatever is wrong with this one, the others must be looked at
            logger.warning("segmentation %s of %s is no label: %s", uid, image_id or "an unknown image", reason(error))
            words = reason(error)
        if image_id is None:
            self._elsewhere.add(uid)
        else:
            self._remember(image_id, uid, words)
        return True

    def _take(self, series: Series, image_id: str) -> bool:
        """Take a segmentation that somebody else has stored; False if the label that is there is newer."""
        (seg, *_) = self.archive.retrieve(series) or [Dataset()]
        made, own = made_at(seg), self.get_label_info(image_id, FINAL).get("ts")
        if own is not None and (made is None or made <= dt.datetime.fromtimestamp(own)):
            return False
        image = Path(self.get_image_uri(image_id))
        if may_be_mirrored(seg, self._headers(image_id)):
            raise LabelError(
                "OHIF exported it, which mirrors segmentations of series that are numbered upwards: it may lie on the "
                "wrong slices. Use “Submit label” of the panel instead"
            )
        grid = read_grid(image)
        label, segments, creator = read_seg(seg, grid.shape, grid.affine, len(self._names) + 1)
        with tempfile.TemporaryDirectory(prefix="label-") as folder:
            file = Path(folder) / f"sent{_ENDING}"
            nibabel.save(nibabel.Nifti1Image(label, grid.affine), file)
            info = {
                "label_info": segments,
                "client_id": creator or "archive",
                "source": "the archive",
                STATE: {"state": STORED, "series": series.SeriesInstanceUID},
            }
            accepted = self._rule(file, image, info, Path(folder))
            self.store_label(image_id, accepted.file, FINAL, {**info, **accepted.about})
        logger.info("%s was labelled in the archive by %s", image_id, info["client_id"])
        with self._mutex:
            self._on_change({image_id: True})
        return True

    def _remember(self, image_id: str, series: str, what: str) -> None:
        with self._mutex:
            known = self._image(image_id).image.info.get(_SEGS, {})
            self._keep_with_images({image_id: {_SEGS: {**known, series: what}}})
