"""The studies folder: whole writes, no lost updates."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tasks.datastore import StudiesFolder
from tests.tiny import label_image, write_volume


def index(datastore: StudiesFolder) -> dict:
    return json.loads((Path(datastore._datastore_path) / "datastore_v2.json").read_text())


def test_the_index_on_disk_is_whole_at_every_moment(datastore):
    done = threading.Event()
    broken = []

    def read() -> None:
        while not done.is_set():
            try:
                assert len(index(datastore)["objects"]) == 8
            except (ValueError, AssertionError) as error:
                broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        datastore.update_image_info(f"image{number % 8}", {"note": "x" * 2000})
    done.set()
    reader.join()
    assert not broken


def test_a_kill_while_writing_leaves_the_old_index(datastore, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            datastore.update_image_info("image0", {"note": "new"})
    reopened = StudiesFolder(datastore._datastore_path, extensions=["*.nii.gz"])
    assert len(reopened.get_labeled_images()) == 6
    assert "note" not in reopened.get_image_info("image0")


def test_labels_saved_while_the_folder_is_refreshed_are_kept(datastore):
    stop = threading.Event()

    def refresh() -> None:
        while not stop.is_set():
            datastore.refresh()

    thread = threading.Thread(target=refresh)
    thread.start()
    for repetition in range(4):
        for number in range(8):
            label_image(datastore, f"image{number}")
            datastore.update_label_info(f"image{number}", "final", {"repetition": repetition})
    stop.set()
    thread.join()
    for number in range(8):
        assert datastore.get_label_info(f"image{number}", "final")["repetition"] == 3


def test_it_tells_when_images_come(tmp_path):
    calls = []
    write_volume(tmp_path / "a.nii.gz", np.ones((2, 2, 2), np.float32))
    datastore = StudiesFolder(str(tmp_path), on_change=lambda: calls.append(1), extensions=["*.nii.gz"])
    before = len(calls)
    write_volume(tmp_path / "b.nii.gz", np.ones((2, 2, 2), np.float32))
    datastore.refresh()
    assert len(calls) > before
    assert sorted(datastore.list_images()) == ["a", "b"]


def test_the_labels_of_a_tag_are_replaced_at_once_and_others_stay(datastore, tmp_path):
    oracle = tmp_path / "oracle"
    files = {name: (oracle / f"{name}.nii.gz", {"score": number}) for number, name in enumerate(("image6", "image7"))}
    datastore.set_labels("pseudo", files)
    assert datastore.get_label_info("image7", "pseudo")["score"] == 1
    assert Path(datastore.get_label_uri("image6", "pseudo")).read_bytes() == (oracle / "image6.nii.gz").read_bytes()
    datastore.set_labels("pseudo", {"image7": (oracle / "image5.nii.gz", {}), "gone": (oracle / "image5.nii.gz", {})})
    again = StudiesFolder(str(tmp_path / "studies"), extensions=["*.nii.gz"], auto_reload=False)
    for store in (datastore, again):
        assert store.get_labels_by_image_id("image6") == {}
        assert Path(store.get_label_uri("image7", "pseudo")).read_bytes() == (oracle / "image5.nii.gz").read_bytes()
        assert store.status() == {"total": 8, "completed": 6, "label_tags": {"final": 6, "pseudo": 1}}
    assert [path.name for path in (tmp_path / "studies" / "labels" / "pseudo").iterdir()] == ["image7.nii.gz"]
    datastore.set_labels("pseudo", {})
    assert datastore.status()["label_tags"] == {"final": 6}
