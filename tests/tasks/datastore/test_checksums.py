"""Checksums of images: right, kept, and never waited for."""

import hashlib
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tasks.datastore import checksums
from tasks.datastore.folder import StudiesFolder
from tests.server import wait_for
from tests.tiny import write_volume


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(5):
        write_volume(tmp_path / "studies" / f"image{number}.nii.gz", np.full((2, 2, 2), number, np.float32))
    return tmp_path / "studies"


@pytest.fixture
def open_folder(folder):
    opened = []

    def build() -> StudiesFolder:
        opened.append(StudiesFolder(str(folder)))
        return opened[-1]

    yield build
    for datastore in opened:
        datastore.close()


def told(datastore: StudiesFolder, image: str) -> str:
    return datastore.get_image_info(image).get("checksum", "")


def right(folder: Path, image: str) -> str:
    return f"SHA256:{hashlib.sha256((folder / f'{image}.nii.gz').read_bytes()).hexdigest()}"


def test_every_image_has_the_checksum_of_its_file_and_keeps_it_over_a_restart(folder, open_folder, monkeypatch):
    datastore = open_folder()
    assert told(datastore, "image0") == ""
    datastore.compute_checksums()
    wait_for(lambda: all(told(datastore, f"image{number}") for number in range(5)), 20)
    datastore.close()
    monkeypatch.setattr(checksums, "checksum", lambda file: "computed again")
    again = open_folder()
    again.compute_checksums()
    again.add_image("new", str(folder / "image0.nii.gz"), {})
    wait_for(lambda: told(again, "new") == "computed again", 20)
    assert [told(again, f"image{number}") for number in range(5)] == [right(folder, f"image{n}") for n in range(5)]


def test_a_file_that_has_changed_has_no_checksum_until_its_new_one_is_known(folder, open_folder, monkeypatch):
    datastore = open_folder()
    datastore.compute_checksums()
    wait_for(lambda: told(datastore, "image1"), 20)
    go = threading.Event()
    compute = checksums.checksum

    def slowly(file):
        assert go.wait(20)
        return compute(file)

    monkeypatch.setattr(checksums, "checksum", slowly)
    before = told(datastore, "image1")
    write_volume(folder / "image1.nii.gz", np.full((2, 2, 2), 99, np.float32))
    os.utime(folder / "image1.nii.gz", ns=(1, 1))
    assert told(datastore, "image1") == ""  # and nobody has waited
    go.set()
    wait_for(lambda: told(datastore, "image1"), 20)
    assert told(datastore, "image1") == right(folder, "image1") != before


def test_the_image_that_somebody_works_with_comes_before_the_rest(folder, open_folder, monkeypatch):
    order = []
    go = threading.Event()

    def record(file):
        assert go.wait(20)
        order.append(file.name.partition(".")[0])
        return "SHA256:0"

    monkeypatch.setattr(checksums, "checksum", record)
    datastore = open_folder()
    datastore.compute_checksums()
    datastore.get_image_info("image4")
    go.set()
    wait_for(lambda: len(order) >= 5, 20)
    assert "image4" in order[:2]  # one may have been begun before
    assert sorted(order) == [f"image{number}" for number in range(5)]


def test_nobody_else_says_what_the_checksum_is(folder, open_folder):
    datastore = open_folder()
    status = (folder / "image0.nii.gz").stat()
    made_up = {"checksum": "SHA256:made up", "checksum_of": f"{status.st_size}:{status.st_mtime_ns}", "note": "kept"}
    datastore.update_image_info("image0", made_up)
    assert datastore.get_image_info("image0")["note"] == "kept"
    assert told(datastore, "image0") == ""
    datastore.add_image("new", str(folder / "image0.nii.gz"), made_up)
    assert told(datastore, "new") == ""


def test_a_file_that_cannot_be_read_or_is_gone_stops_nothing(folder, open_folder, caplog):
    (folder / "image0.nii.gz").unlink()
    (folder / "image0.nii.gz").mkdir()
    (folder / "image1.nii.gz").unlink()
    (folder / "image1.nii.gz").symlink_to("/nowhere")
    datastore = open_folder()
    (folder / "image2.nii.gz").unlink()
    datastore.compute_checksums()
    wait_for(lambda: told(datastore, "image3") and told(datastore, "image4"), 20)
    assert [told(datastore, f"image{number}") for number in range(3)] == ["", "", ""]
    json.dumps(datastore.get_image_info("image3"))
