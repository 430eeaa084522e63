"""An archive as a datastore: what is fetched, what is sent, and what happens while it is away."""

import hashlib
import io
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from tasks.common.files import ArchiveError, ImageError, LabelError
from tasks.datastore import archive as archive_module
from tasks.datastore import outbox
from tasks.datastore.archive import ArchiveFolder
from tasks.dicom.client import Series
from tasks.dicom.seg import Authorship, write_seg
from tasks.dicom.series_filter import SeriesFilter
from tasks.volume_segmentation.acceptance import VolumeRule
from tests.dicom import datasets, mr_series

NAMES = ("tumor", "liver")


class FakeArchive:
    """An archive in memory that can be away."""

    url = "http://archive"

    def __init__(self) -> None:
        self.instances: dict[str, list[pydicom.Dataset]] = {}
        self.away = False
        self.retrieved: list[str] = []

    def add(self, *files: bytes) -> str:
        slices = datasets(list(files))
        uid = str(slices[0].SeriesInstanceUID)
        self.instances[uid] = slices
        return uid

    def _ask(self) -> None:
        if self.away:
            raise ArchiveError("the archive http://archive is away")

    def search(self, modality: str) -> list[Series]:
        self._ask()
        found = [slices[0] for slices in self.instances.values()]
        names = Series.__dataclass_fields__
        return [
            Series(**{name: str(slice.get(name, "")) for name in names})
            for slice in found
            if slice.Modality == modality
        ]

    def metadata(self, series: Series) -> list[pydicom.Dataset]:
        self._ask()
        return self.instances[series.SeriesInstanceUID]

    def retrieve(self, series: Series) -> list[pydicom.Dataset]:
        self._ask()
        self.retrieved.append(series.SeriesInstanceUID)
        return self.instances[series.SeriesInstanceUID]

    def store(self, dataset: pydicom.Dataset) -> None:
        self._ask()
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        buffer.seek(0)
        self.instances[str(dataset.SeriesInstanceUID)] = [pydicom.dcmread(buffer)]

    def segs(self) -> list[pydicom.Dataset]:
        return [slices[0] for slices in self.instances.values() if slices[0].Modality == "SEG"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(archive_module, "SENDING_SECONDS", 2.0)


@pytest.fixture
def archive():
    archive = FakeArchive()
    for number in range(3):
        archive.add(*mr_series(f"p{number}", np.arange(4 * 6 * 5).reshape(4, 6, 5) + number))
    return archive


@pytest.fixture
def open_folder(archive, tmp_path):
    folders = []

    def build(**options):
        told = options.setdefault("on_change", lambda changes: None)
        assert told is not None
        folders.append(
            ArchiveFolder(
                str(tmp_path / "kept"), archive, SeriesFilter(("MR",)), NAMES, rule=VolumeRule(NAMES), **options
            )
        )
        return folders[-1]

    yield build
    for folder in folders:
        folder.close()


def draw(folder: ArchiveFolder, image_id: str, tmp_path: Path, value: int = 1) -> str:
    image = nibabel.load(folder.get_image_uri(image_id))
    label = np.zeros(image.shape, np.uint8)
    label[1:3, 2, 1] = value
    nibabel.save(nibabel.Nifti1Image(label, image.affine), tmp_path / "label.nii.gz")
    return str(tmp_path / "label.nii.gz")


def wait(condition, seconds: float = 10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def state(folder, image_id) -> str:
    return folder.get_label_info(image_id, "final")["archive"]["state"]


def test_series_are_images_and_are_fetched_once(archive, open_folder):
    folder = open_folder()
    assert sorted(folder.list_images()) == sorted(archive.instances)
    first = folder.list_images()[0]
    info = folder.get_image_info(first)
    assert info["PatientID"].startswith("p")
    assert info["StudyInstanceUID"] == archive.instances[first][0].StudyInstanceUID
    assert archive.retrieved == []
    files = {folder.get_image_uri(first) for _ in range(3)}
    assert archive.retrieved == [first]
    assert nibabel.load(files.pop()).shape == (5, 6, 4)
    assert folder.get_image_uri("nothing") == ""


def test_twenty_who_want_the_same_series_fetch_it_once(archive, open_folder):
    folder = open_folder()
    first = folder.list_images()[0]
    threads = [threading.Thread(target=folder.get_image_uri, args=(first,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert archive.retrieved == [first]


def test_a_slow_archive_is_not_waited_for_and_the_series_comes_nevertheless(archive, open_folder, monkeypatch):
    monkeypatch.setattr(archive_module, "FETCHING_SECONDS", 0.05)
    folder = open_folder()
    first = folder.list_images()[0]
    retrieve, go_on = archive.retrieve, threading.Event()

    def slowly(series):
        go_on.wait(10)
        return retrieve(series)

    monkeypatch.setattr(archive, "retrieve", slowly)
    folder.prefetch(first)
    for _ in range(3):
        with pytest.raises(ArchiveError, match=r"is slow: .* is being fetched"):
            folder.get_image_uri(first)
    go_on.set()
    wait(lambda: folder.image_file(first).exists())
    assert folder.get_image_uri(first)
    assert archive.retrieved == [first]


def test_a_label_becomes_a_seg_at_once(archive, open_folder, tmp_path):
    folder = open_folder()
    first = folder.list_images()[0]
    info = {"client_id": "Ann", "model": "segmentation", "model_version": "0123"}
    folder.save_label(first, draw(folder, first, tmp_path), "final", info)
    assert state(folder, first) == "stored"
    (seg,) = archive.segs()
    assert seg.SegmentSequence[0].SegmentLabel == "tumor"
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert str(seg.ContentCreatorName) == "Ann"
    folder.refresh()
    assert folder.get_label_info(first, "final")["client_id"] == "Ann"


def test_what_is_known_of_a_series_and_of_its_label_s_way_is_nobody_s_to_change(archive, open_folder, tmp_path):
    folder = open_folder()
    mine, other = folder.list_images()[:2]
    drawn = draw(folder, mine, tmp_path)
    archive.away = True
    folder.save_label(mine, drawn, "final", {})
    before = dict(folder.get_image_info(mine)), dict(folder.get_label_info(mine, "final"))
    for stored in ({"state": "stored", "series": "1.2"}, 5, None):
        folder.update_label_info(mine, "final", {"archive": stored, "note": "kept"})
    others = {"SeriesInstanceUID": other, "PatientID": "p9", "channels": [{"SeriesInstanceUID": other}]}
    folder.update_image_info(mine, {**others, "segmentations": 5, "note": "kept"})
    assert folder.get_image_info(mine) == {**before[0], "note": "kept"}
    assert folder.get_label_info(mine, "final") == {**before[1], "note": "kept"}
    archive.away = False
    wait(archive.segs)
    assert folder.unsent() == {}
    archive.retrieved.clear()
    Path(folder.get_image_uri(mine)).unlink()
    folder.get_image_uri(mine)
    assert archive.retrieved == [mine]


def test_while_the_archive_is_away_all_goes_on_and_labels_are_sent_when_it_is_back(archive, open_folder, tmp_path):
    folder = open_folder()
    first, second, third = folder.list_images()
    files = {name: draw(folder, name, tmp_path) for name in (first, second)}
    archive.away = True
    for name, file in files.items():
        folder.save_label(name, file, "final", {"client_id": "Ann"})
        assert state(folder, name) == "waiting"
    with pytest.raises(ArchiveError, match="away"):
        folder.get_image_uri(third)
    with pytest.raises(ArchiveError, match="away"):
        folder.refresh()
    assert len(folder.list_images()) == 3
    folder.close()
    # The server restarts while the archive is still away.
    again = open_folder()
    assert len(again.list_images()) == 3
    assert set(again.get_labeled_images()) == {first, second}
    archive.away = False
    wait(lambda: len(archive.segs()) == 2)
    wait(lambda: {state(again, first), state(again, second)} == {"stored"})


def test_a_label_whose_image_cannot_be_fetched_is_not_taken_but_kept(archive, open_folder, tmp_path):
    folder = open_folder()
    first, second, _ = folder.list_images()
    file = draw(folder, first, tmp_path)
    archive.away = True
    with pytest.raises(ArchiveError, match="kept on the server as rejected/"):
        folder.save_label(second, file, "final", {})
    assert len(list((tmp_path / "kept" / "rejected").glob("*/label.nii.gz"))) == 1


def test_sending_again_what_had_arrived_does_no_harm(archive, open_folder, tmp_path, monkeypatch):
    folder = open_folder()
    first = folder.list_images()[0]
    store, calls = archive.store, []

    def lost_answer(dataset):
        store(dataset)
        calls.append(dataset.SOPInstanceUID)
        if len(calls) == 1:
            raise ArchiveError("no answer")

    monkeypatch.setattr(archive, "store", lost_answer)
    folder.save_label(first, draw(folder, first, tmp_path), "final", {})
    wait(lambda: state(folder, first) == "stored")
    assert len(calls) == 2
    assert len(set(calls)) == 1
    assert len(archive.segs()) == 1


def test_a_label_that_can_never_be_sent_holds_up_no_other(archive, open_folder, tmp_path, monkeypatch):
    folder = open_folder()
    first, second, _ = folder.list_images()
    headers = folder._headers
    monkeypatch.setattr(folder, "_headers", lambda name: [] if name == first else headers(name))
    for name in (first, second):
        folder.save_label(name, draw(folder, name, tmp_path), "final", {})
    assert state(folder, first) == "failed"
    assert folder.get_label_info(first, "final")["archive"]["reason"]
    assert state(folder, second) == "stored"


def foreign(archive, folder, image_id, date="20300101", names=NAMES, creator="Eve", value=2) -> str:
    """A SEG that another viewer has stored."""
    image = nibabel.load(folder.get_image_uri(image_id))
    label = np.zeros(image.shape, np.uint8)
    label[0, 0, 2] = value
    seg = write_seg(label, image.affine, names, archive.instances[image_id], Authorship(creator), generate_uid())
    seg.ContentDate = seg.SeriesDate = date
    archive.store(seg)
    return str(seg.SeriesInstanceUID)


def test_labels_that_others_stored_count_after_a_refresh(archive, open_folder):
    told = []
    folder = open_folder(on_change=told.append)
    first = folder.list_images()[0]
    foreign(archive, folder, first)
    folder.refresh()
    assert told[-1] == {first: True}
    assert folder.get_labeled_images() == [first]
    info = folder.get_label_info(first, "final")
    assert (info["client_id"], info["segments"]) == ("Eve", {"tumor": 0, "liver": 1})
    stored = np.asarray(nibabel.load(folder.get_label_uri(first, "final")).dataobj)
    assert (stored == 2).sum() == 1
    assert stored[0, 0, 2] == 2
    before = len(archive.retrieved)
    folder.refresh()
    assert len(archive.retrieved) == before
    assert len(archive.segs()) == 1  # it is not sent back


def test_the_newer_label_counts_and_the_older_is_kept(archive, open_folder, tmp_path):
    folder = open_folder()
    first = folder.list_images()[0]
    folder.save_label(first, draw(folder, first, tmp_path), "final", {"client_id": "Ann"})
    foreign(archive, folder, first, date="20200101", creator="Old")
    folder.refresh()
    assert folder.get_label_info(first, "final")["client_id"] == "Ann"
    foreign(archive, folder, first, creator="New")
    folder.refresh()
    info = folder.get_label_info(first, "final")
    assert info["client_id"] == "New"
    assert (tmp_path / "kept" / info["previous"]).exists()


def test_segmentations_that_do_not_fit_are_no_labels_and_are_looked_at_once(archive, open_folder, caplog):
    folder = open_folder()
    first = folder.list_images()[0]
    foreign(archive, folder, first, names=("spleen", "kidney"))
    folder.refresh()
    assert folder.get_labeled_images() == []
    assert "segment 'kidney' is none of tumor, liver" in caplog.text
    caplog.clear()
    before = len(archive.retrieved)
    folder.refresh()
    assert len(archive.retrieved) == before


def test_a_label_that_was_taken_back_does_not_return_with_the_next_refresh(archive, open_folder, tmp_path):
    folder = open_folder()
    first = folder.list_images()[0]
    folder.save_label(first, draw(folder, first, tmp_path), "final", {})
    folder.remove_label(first, "final")
    folder.refresh()
    assert folder.get_labeled_images() == []


def test_an_archive_that_forgets_its_series_for_a_while_costs_no_label(archive, open_folder, tmp_path):
    folder = open_folder()
    first = folder.list_images()[0]
    folder.save_label(first, draw(folder, first, tmp_path), "final", {"client_id": "Ann"})
    everything, archive.instances = archive.instances, {}
    folder.refresh()
    assert folder.list_images() == []
    archive.instances = everything
    folder.refresh()
    assert folder.get_label_info(first, "final")["client_id"] == "Ann"


def test_channels_come_from_the_series_of_a_study(archive, tmp_path):
    study, frame = generate_uid(), generate_uid()
    voxels = np.arange(4 * 6 * 5).reshape(4, 6, 5)
    first = archive.add(*mr_series("c", voxels, "T1post", study, frame))
    archive.add(*mr_series("c", voxels + 500, "T2_reg", study, frame))
    lacking = archive.add(*mr_series("d", voxels, "T1post"))
    other_study = generate_uid()
    apart = archive.add(*mr_series("e", voxels, "T1post", other_study))
    archive.add(*mr_series("e", voxels, "T2", other_study))
    options = {"channels": ("T1post", "T2"), "rule": VolumeRule(NAMES)}
    folder = ArchiveFolder(str(tmp_path / "kept"), archive, SeriesFilter(("MR",)), NAMES, **options)
    try:
        assert {first, lacking, apart} <= set(folder.list_images())
        file = Path(folder.get_image_uri(first))
        second = file.parent / "channels" / "T2" / file.name
        difference = np.asarray(nibabel.load(second).dataobj) - np.asarray(nibabel.load(file).dataobj)
        assert (difference == 500).all()
        with pytest.raises(ImageError, match=f"the study of {lacking} has no series like T2"):
            folder.get_image_uri(lacking)
        with pytest.raises(ImageError, match="another frame of reference"):
            folder.get_image_uri(apart)
    finally:
        folder.close()


def test_a_job_waits_for_an_archive_that_is_away(archive, open_folder, monkeypatch):
    open_folder().close()
    job = open_folder(read_only=True)
    first = job.list_images()[0]
    archive.away, pauses = True, []

    def sleep(seconds):
        pauses.append(seconds)
        archive.away = len(pauses) < 8

    monkeypatch.setattr(archive_module.time, "sleep", sleep)
    assert Path(job.get_image_uri(first)).exists()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_images_cannot_be_added_or_removed_here(open_folder, tmp_path):
    folder = open_folder()
    with pytest.raises(ImageError, match="archive"):
        folder.add_image("x", str(tmp_path / "x.nii.gz"), {})
    with pytest.raises(ImageError, match="archive"):
        folder.remove_image(folder.list_images()[0])
    with pytest.raises(LabelError, match="empty"):
        folder.save_label(folder.list_images()[0], draw(folder, folder.list_images()[0], tmp_path, 0), "final", {})


def test_a_series_that_is_fetched_again_has_the_same_bytes_and_the_same_checksum(archive, open_folder):
    folder = open_folder()
    folder.compute_checksums()
    first = folder.list_images()[0]
    assert "checksum" not in folder.get_image_info(first)
    file = Path(folder.get_image_uri(first))
    wait(lambda: "checksum" in folder.get_image_info(first))
    content, checksum = file.read_bytes(), folder.get_image_info(first)["checksum"]
    assert checksum == f"SHA256:{hashlib.sha256(content).hexdigest()}"
    file.unlink()
    assert "checksum" not in folder.get_image_info(first)
    time.sleep(1.1)  # gzip's header has seconds
    archive.instances[first].reverse()  # archives send instances in any order
    folder.get_image_uri(first)
    wait(lambda: "checksum" in folder.get_image_info(first))
    assert folder.get_image_info(first)["checksum"] == checksum
    assert file.read_bytes() == content


def odd(archive, image_id: str, **attributes) -> str:
    """A segmentation of an image that only looks like one."""
    seg = pydicom.Dataset()
    seg.Modality, seg.SeriesInstanceUID, seg.StudyInstanceUID = "SEG", generate_uid(), generate_uid()
    reference = pydicom.Dataset()
    reference.SeriesInstanceUID = image_id
    seg.ReferencedSeriesSequence = [reference]
    for name, value in attributes.items():
        setattr(seg, name, value)
    archive.instances[str(seg.SeriesInstanceUID)] = [seg]
    return str(seg.SeriesInstanceUID)


def test_whatever_is_wrong_with_one_segmentation_is_said_once_and_the_others_are_taken(archive, open_folder, caplog):
    first, second, third = sorted(archive.instances)
    folder = open_folder()
    bad = [
        odd(archive, first),
        odd(archive, first, ContentDate="nonsense", Rows="x" * 5),
        odd(archive, first, ReferencedSeriesSequence=[]),
        odd(archive, first, SegmentSequence=[pydicom.Dataset()], PixelData=b"1", Rows=1, Columns=1),
        odd(archive, first, ContentDate="20300101", ContentTime="250000"),
    ]
    foreign(archive, folder, second)
    foreign(archive, folder, third)
    retrieve = archive.retrieve

    def fails(series):
        if series.SeriesInstanceUID == bad[0]:
            raise MemoryError("far too large")
        return retrieve(series)

    archive.retrieve = fails
    folder.refresh()
    assert sorted(folder.get_labeled_images()) == [second, third]
    said = [uid for uid in bad if uid in caplog.text]
    assert set(bad) - set(said) <= {bad[2]}  # that one belongs to no image
    caplog.clear()
    folder.refresh()
    assert not [uid for uid in bad if uid in caplog.text]


def test_a_segmentation_that_the_archive_does_not_give_now_is_asked_for_again(archive, open_folder, caplog):
    first, second, _ = sorted(archive.instances)
    folder = open_folder()
    late, _ = foreign(archive, folder, first), foreign(archive, folder, second)
    retrieve = archive.retrieve

    def fails(series):
        if series.SeriesInstanceUID == late:
            raise ArchiveError("the archive answers 500")
        return retrieve(series)

    archive.retrieve = fails
    for _ in range(3):
        folder.refresh()
    assert folder.get_labeled_images() == [second]
    assert caplog.text.count("cannot be taken now") == 1
    archive.retrieve = retrieve
    folder.refresh()
    assert sorted(folder.get_labeled_images()) == [first, second]


def test_an_archive_that_gives_no_segmentation_at_all_is_not_asked_for_every_one(archive, open_folder):
    folder = open_folder()
    for image in sorted(archive.instances):
        for _ in range(3):
            foreign(archive, folder, image)
    asked = []

    def fails(series):
        asked.append(series)
        raise ArchiveError("the archive is slow")

    archive.metadata = fails
    with pytest.raises(ArchiveError, match="does not give its segmentations"):
        folder.refresh()
    assert len(asked) == archive_module.MOST_FAILURES
