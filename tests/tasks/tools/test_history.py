"""Only this command shortens the history."""

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.store.store import Store
from tasks.store.tables import Event
from tests.tiny import history_of, label_image

ROOT = Path(__file__).resolve().parents[3]


def shorten(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tasks.history", *arguments]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "400"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path, datastore) -> Path:
    """A studies folder with a label that was replaced last year and one that was replaced now."""
    label_image(datastore, "image0")
    (kept,) = (datastore.labels_folder / "history" / "image0").iterdir()
    kept.rename(kept.with_name("20250630T235959.999999.nii.gz"))
    label_image(datastore, "image1")
    (datastore.labels_folder / "history" / "image1" / "notes.txt").write_text("by hand")
    return tmp_path / "studies"


def test_lines_and_versions_before_the_date_go_while_the_store_is_in_use(folder, datastore):
    store = Store(folder / "active_learning" / "store.sqlite")
    with store.transaction() as session:
        for day in (dt.datetime(2025, 6, 30), dt.datetime(2025, 7, 1)):
            session.add(Event(at=day, event="labelled", image_id=f"image{day.day}", client_id="ann"))
    with store.reading() as session:
        assert session.get(Event, 1).client_id == "ann"  # somebody reads meanwhile
        done = shorten(str(folder), "--before", "2025-07-01")
    assert (done.returncode, done.stdout) == (0, "1 lines of the history, 1 earlier versions of labels deleted\n")
    assert [row["image_id"] for row in history_of(store)] == ["image1"]
    names = sorted(file.name for file in (folder / "labels" / "history").glob("*/*"))
    assert (len(names), names[-1]) == (2, "notes.txt")
    assert len(datastore.get_labeled_images()) == 6
    store.close()


@pytest.mark.parametrize(("arguments", "words"), [((), "--before"), (("--before", "2026-01-01"), "there is no store")])
def test_a_wrong_call_deletes_nothing_and_says_what_is_missing(folder, datastore, arguments, words):
    datastore.close()
    (folder / "active_learning" / "store.sqlite").unlink()
    done = shorten(str(folder), *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(list((folder / "labels" / "history").glob("*/*"))) == 3
