"""What a start refuses, and what it says."""

import os
import time

import numpy as np
import pytest
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from apps.server import start
from apps.server.options import ConfigurationError
from apps.server.start import check_settings, check_studies
from apps.upstream import COMMAND
from tasks.store.store import Store
from tests.apps.test_volume_segmentation import make_app
from tests.dicom import mr_series
from tests.server import APP
from tests.tasks.datastore.test_archive import FakeArchive, foreign
from tests.tiny import history_of, label_image


@pytest.fixture
def started(monkeypatch):
    """This process is MONAI Label's command, and started a second ago."""
    monkeypatch.setattr(start, "program", lambda: COMMAND)
    began = time.time() - 1
    monkeypatch.setattr(start, "_started", lambda: began)
    return began


def test_a_folder_that_the_command_has_just_made_is_refused_and_removed_again(tmp_path, started):
    (tmp_path / "studies").mkdir()
    with pytest.raises(ConfigurationError, match="there is no such folder"):
        check_studies(str(tmp_path / "studies"))
    assert not (tmp_path / "studies").exists()


def test_an_older_empty_folder_and_a_new_one_with_files_are_taken(tmp_path, started):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    os.utime(old, (started - 0.5, started - 0.5))
    new.mkdir()
    (new / "image.nii.gz").write_bytes(b"x")
    for folder in (old, new):
        check_studies(str(folder))
        assert folder.is_dir()


def test_an_app_that_is_not_started_by_the_command_takes_an_empty_folder(tmp_path):
    check_studies(str(tmp_path))


@pytest.mark.parametrize("name", ["file", "nothing", "x" * 300, "a\0b"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="studies "):
        check_studies(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("MONAI_LABEL_DATASTORE", kind) for kind in ("xnat", "DSA", "cvat", "s3", " ")),
        ("MONAI_LABEL_INFER_CONCURRENCY", 0),
        ("MONAI_LABEL_DATASTORE_FILE_EXT", []),
    ],
)
def test_settings_that_the_apps_cannot_work_with_are_refused_by_name(monkeypatch, name, value):
    check_settings()
    monkeypatch.setattr(settings, name, value)
    with pytest.raises(ConfigurationError, match=name):
        check_settings()


@pytest.mark.parametrize("kind", ["", "local", "DICOMweb"])
def test_folders_and_archives_are_taken(monkeypatch, kind):
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE", kind)
    check_settings()


def test_a_lost_database_beside_labels_is_said_and_the_labels_have_their_lines_again(
    tmp_path, datastore, monkeypatch, caplog
):
    datastore.close()
    folder = tmp_path / "studies" / "active_learning"
    make_app(tmp_path / "studies", monkeypatch).store.close()
    assert "6 final labels and 0 checkpoints" in caplog.text  # nobody had noted them before
    caplog.clear()
    app = make_app(tmp_path / "studies", monkeypatch)
    assert "final labels" not in caplog.text
    label_image(app._datastore, "image0")
    app.on_save_label("image0", "image0")
    app.store.close()
    for file in folder.glob("store.sqlite*"):
        file.unlink()
    app = make_app(tmp_path / "studies", monkeypatch)
    assert "is new or was emptied" in caplog.text
    assert sorted(row["image_id"] for row in history_of(app.store)) == [f"image{number}" for number in range(6)]
    assert {row["client_id"] for row in history_of(app.store)} == {""}  # who gave them was in the database alone
    app.store.close()


def test_words_about_a_database_tell_no_password(tmp_path):
    with pytest.raises(ValueError, match="cannot be opened") as caught:
        Store("postgresql://reader:secret@nowhere/x")
    assert "secret" not in str(caught.value)


def test_a_store_that_cannot_be_written_stops_the_start(tmp_path):
    Store(tmp_path / "store.sqlite").close()
    with pytest.raises(ValueError, match="cannot be opened: attempt to write a readonly database"):
        Store(f"sqlite:///file:{tmp_path}/store.sqlite?mode=ro&uri=true")


def test_a_segmentation_that_the_server_has_not_seen_does_not_stop_the_start(tmp_path, monkeypatch):
    archive = FakeArchive()
    first, second = (archive.add(*mr_series(f"p{n}", np.arange(120).reshape(4, 6, 5) + n)) for n in range(2))
    monkeypatch.setattr("tasks.volume_segmentation.task.Archive", lambda url, settings: archive)
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_CACHE_PATH", str(tmp_path))

    def build():
        monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
        conf = {"labels": "tumor,liver", "preset": "small", "auto_train": "false", "strategy": "first"}
        return app_instance(str(APP), archive.url, conf)

    app = build()
    foreign(archive, app.datastore(), first)
    app.store.close()
    app.datastore().close()
    for _ in range(2):
        app = build()
        assert app.store.image_ids(labelled=True) == [first]
        assert app.store.image_ids(labelled=False) == [second]
        (row,) = history_of(app.store)
        assert (row["event"], row["image_id"], row["client_id"]) == ("labelled", first, "Eve")
        assert "the archive" in row["details"]
        app.store.close()
        app.datastore().close()
