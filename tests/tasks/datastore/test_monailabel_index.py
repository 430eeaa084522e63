"""Faults of MONAI Label's own datastore: each test fails on it and passes on ours."""

import contextlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore

from tasks.common.files import LabelError
from tasks.datastore.archive import ArchiveFolder
from tasks.datastore.folder import StudiesFolder
from tasks.dicom.series_filter import SeriesFilter
from tasks.store.repair import mend
from tasks.volume_segmentation.acceptance import VolumeRule
from tests.dicom import mr_series
from tests.tasks.datastore.test_archive import FakeArchive, foreign
from tests.tiny import write_volume


def ours(path: str) -> StudiesFolder:
    return StudiesFolder(path, rule=VolumeRule(("tumor",)))


fails_on_stock = pytest.mark.parametrize(
    "open_datastore",
    [pytest.param(LocalDatastore, marks=pytest.mark.xfail(strict=True), id="stock"), pytest.param(ours, id="ours")],
)


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(2):
        write_volume(tmp_path / "studies" / f"image{number}.nii.gz", np.ones((4, 3, 2), np.float32))
    return tmp_path / "studies"


def label(folder: Path, shape=(4, 3, 2), name: str = "label.nii.gz", value: int = 1) -> str:
    return str(write_volume(folder.parent / name, np.full(shape, value, np.uint8)))


@fails_on_stock
def test_a_tag_cannot_lead_out_of_the_folder(open_datastore, folder):
    datastore = open_datastore(str(folder))
    before = set(folder.parent.rglob("*"))
    file = label(folder)
    with contextlib.suppress(LabelError):
        datastore.save_label("image0", file, "../../evil", {})
    assert {path.name for path in set(folder.parent.rglob("*")) - before} <= {"label.nii.gz", ".lock"}


@fails_on_stock
def test_a_label_of_another_size_is_not_taken(open_datastore, folder):
    with pytest.raises(LabelError, match="voxels"):
        open_datastore(str(folder)).save_label("image0", label(folder, (9, 9, 9)), "final", {})


@fails_on_stock
def test_half_an_index_does_not_keep_the_server_from_starting(open_datastore, folder):
    datastore = open_datastore(str(folder))
    datastore.save_label("image0", label(folder), "final", {})
    if isinstance(datastore, StudiesFolder):
        datastore.close()
    index, store = folder / "datastore_v2.json", folder / "active_learning" / "store.sqlite"
    if index.exists():
        index.write_bytes(index.read_bytes()[:100])
    if store.exists():
        store.write_bytes(store.read_bytes()[:100])
        mend(store)
    assert open_datastore(str(folder)).get_labeled_images() == ["image0"]


@fails_on_stock
def test_a_job_s_copy_of_the_index_does_not_undo_labels_saved_meanwhile(open_datastore, folder):
    server, job = open_datastore(str(folder)), open_datastore(str(folder))
    server.save_label("image0", label(folder), "final", {"client_id": "ann"})
    job.update_image_info("image1", {"score": 0.5})
    assert open_datastore(str(folder)).get_label_info("image0", "final").get("client_id") == "ann"


@fails_on_stock
def test_the_label_that_is_replaced_is_kept(open_datastore, folder):
    datastore = open_datastore(str(folder))
    first = Path(label(folder)).read_bytes()
    datastore.save_label("image0", label(folder), "final", {})
    second = np.ones((4, 3, 2), np.uint8)
    second[0] = 0
    nibabel.save(nibabel.Nifti1Image(second, np.eye(4)), folder.parent / "label.nii.gz")
    datastore.save_label("image0", str(folder.parent / "label.nii.gz"), "final", {})
    assert first in {path.read_bytes() for path in (folder / "labels").rglob("*.nii.gz")}


class Client:
    """What MONAI Label's datastore needs of a DICOMweb client, over the archive in memory."""

    def __init__(self, archive: FakeArchive) -> None:
        self.archive = archive
        self.base_url = archive.url

    def search_for_series(self, search_filters):
        if "Modality" not in search_filters:
            return [
                json.loads(slices[0].to_json(suppress_invalid_tags=True))
                for uid, slices in self.archive.instances.items()
                if uid == search_filters["SeriesInstanceUID"]
            ]
        return [
            json.loads(slices[0].to_json(suppress_invalid_tags=True))
            for slices in self.archive.instances.values()
            if slices[0].Modality == search_filters["Modality"]
        ]

    def retrieve_series_metadata(self, study, series):
        return [json.loads(one.to_json(suppress_invalid_tags=True)) for one in self.archive.instances[series]]


@pytest.mark.parametrize("kind", [pytest.param("stock", marks=pytest.mark.xfail(strict=True)), "ours"])
def test_a_label_that_others_stored_is_seen_after_a_refresh_and_not_two_hours_later(kind, tmp_path):
    archive = FakeArchive()
    first = archive.add(*mr_series("p0", np.arange(4 * 6 * 5).reshape(4, 6, 5)))
    names = ("tumor", "liver")
    own = ArchiveFolder(str(tmp_path / "ours"), archive, SeriesFilter(("MR",)), names, rule=VolumeRule(names))
    try:
        datastore = own
        if kind == "stock":
            datastore = DICOMWebDatastore(Client(archive), {"Modality": "MR"}, cache_path=str(tmp_path / "stock"))
        assert datastore.get_labeled_images() == []
        foreign(archive, own, first)
        datastore.refresh()
        assert datastore.get_labeled_images() == [first]
    finally:
        own.close()
