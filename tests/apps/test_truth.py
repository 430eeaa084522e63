"""What the server says is what holds, also while its database or its disk fails; and what it missed, it makes good."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import sqlalchemy as sa
from monailabel.interfaces.utils.app import app_instance
from sqlalchemy.exc import OperationalError

from apps.server import app as shared
from tasks.store.database import open_engine
from tasks.store.tables import Lease
from tests.server import APP, ROOT
from tests.tiny import history_of, write_volume

SHAPE = (6, 5, 4)


def label(voxels: int = 2) -> bytes:
    array = np.zeros(SHAPE, np.uint8)
    array.flat[:voxels] = 1
    return nibabel.Nifti1Image(array, np.eye(4)).to_bytes()


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        write_volume(tmp_path / "studies" / f"image{number}.nii.gz", np.random.default_rng(number).random(SHAPE))
    return tmp_path / "studies"


@pytest.fixture
def make(folder, monkeypatch):
    monkeypatch.setattr(shared, "PATIENCE_SECONDS", 0.1)
    apps = []

    def build(**conf: str):
        monkeypatch.delenv(shared.JOB_PROCESS, raising=False)  # it is the server that starts again, no job
        monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
        conf = {"labels": "tumor", "preset": "small", "auto_train": "false", "strategy": "first", **conf}
        apps.append(app_instance(str(APP), str(folder), conf))
        return apps[-1]

    yield build
    for app in apps:
        app.store.close()
        app.datastore().close()


@pytest.fixture
def app(make):
    return make()


def put(http, image: str, client: str = "ann", voxels: int = 2):
    return http.put(
        "/datastore/label",
        params={"image": image},
        files={"label": ("label.nii", label(voxels))},
        data={"params": json.dumps({"client_id": client})},
    )


def ask(http, client: str = "ann"):
    return http.post("/activelearning/first", json={"client_id": client})


def lines(app, *kinds: str) -> list[tuple[str, str, str]]:
    kinds = kinds or ("labelled", "label_removed", "image_removed", "undone")
    return [(r["event"], r["image_id"], r["client_id"]) for r in history_of(app.store) if r["event"] in kinds]


def agree(app, folder) -> None:
    """Files, index and database say the same."""
    files = sorted(path.name.partition(".")[0] for path in (folder / "labels" / "final").iterdir())
    assert sorted(app.datastore().get_labeled_images()) == files
    assert app.store.image_ids(labelled=True) == files
    with app.store.reading() as session:
        assert not {lease.image_id for lease in session.scalars(sa.select(Lease))} & set(files)


@contextmanager
def held_by_another_program(file):
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("COMMIT")
    other.close()


def store_of(folder: Path) -> Path:
    return folder / "active_learning" / "store.sqlite"


def test_while_another_program_holds_the_database_nothing_is_stored_and_it_is_said(http, app, folder):
    assert ask(http).json()["id"] == "image0"
    with held_by_another_program(store_of(folder)):
        answer = put(http, "image0")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert "in use by another program" in answer.json()["detail"]
        agree(app, folder)
        assert http.get("/info/").json()["datastore"]["completed"] == 0
    assert lines(app) == []
    assert put(http, "image0").status_code == 200
    agree(app, folder)
    assert lines(app) == [("labelled", "image0", "ann")]


def test_a_database_that_is_read_only_is_said_and_nothing_is_stored(http, app, folder):
    writable, file = app.store.engine, store_of(folder)
    app.store.engine = open_engine(f"sqlite:///file:{file}?mode=ro&uri=true", 0.1)
    for answer in (put(http, "image0"), ask(http), http.delete("/datastore/image", params={"id": "image1"})):
        assert answer.status_code == 503
        assert "database cannot be written" in answer.json()["detail"]
    agree(app, folder)
    app.store.engine = writable
    assert put(http, "image0").status_code == 200
    agree(app, folder)


@pytest.mark.parametrize(
    ("words", "status"), [("database or disk is full", 507), ("database is locked", 503), ("disk I/O error", 503)]
)
@pytest.mark.parametrize("place", ["note_within", "commit"])
def test_a_label_that_cannot_be_noted_is_not_stored_either_and_can_be_sent_again(
    http, app, folder, monkeypatch, words, status, place
):
    ask(http, "ann")
    ask(http, "bob")
    assert put(http, "image3", "eve").status_code == 200
    before = (folder / "labels" / "final" / "image3.nii").read_bytes()

    def fail(*_):
        raise OperationalError("INSERT", {}, Exception(words))

    with monkeypatch.context() as patch:
        if place == "commit":
            patch.setattr(sa.orm.Session, "commit", fail)
            patch.setattr(sa.orm.SessionTransaction, "commit", fail)
        else:
            patch.setattr(app.rounds, place, fail)
        for answer in (put(http, "image0", "ann"), put(http, "image3", "ann", 3), put(http, "image1", "bob")):
            assert answer.status_code == status
    agree(app, folder)
    assert (folder / "labels" / "final" / "image3.nii").read_bytes() == before
    assert not (folder / "labels" / "history" / "image3").exists() or not [
        *(folder / "labels" / "history" / "image3").iterdir()
    ]
    assert ask(http, "ann").json()["id"] == "image0"  # still theirs
    for image, reader in (("image0", "ann"), ("image3", "ann"), ("image1", "bob")):
        assert put(http, image, reader, 4).status_code == 200
    assert ask(http, "ann").json()["id"] == "image2"
    agree(app, folder)
    assert lines(app) == [
        *(("labelled", "image3", "eve"), ("labelled", "image0", "ann")),
        *(("labelled", "image3", "ann"), ("labelled", "image1", "bob")),
    ]


def test_what_came_while_the_server_was_away_has_its_line_at_the_next_start_once(http, app, folder, make):
    ask(http, "ann")
    assert put(http, "image0", "ann").status_code == 200
    datastore = app.datastore()
    file = folder.parent / "label.nii"
    for name, client in (("image0", "eve"), ("image1", "bob")):
        file.write_bytes(label(5))
        datastore.save_label(name, str(file), "final", {"client_id": client, "answer_id": f"of {client}"})
    shutil.copy(file, folder / "labels" / "final" / "image2.nii")
    for _ in range(2):
        again = make()
        agree(again, folder)
        assert sorted(lines(again)) == [
            ("labelled", "image0", "ann"),
            ("labelled", "image0", "eve"),
            ("labelled", "image1", "bob"),
            ("labelled", "image2", ""),
        ]
    details = {row["image_id"]: row["details"] for row in history_of(again.store) if row["event"] == "labelled"}
    assert json.loads(details["image1"])["answer_id"] == "of bob"
    assert json.loads(details["image2"])["source"] == "the studies, not a viewer"


def test_what_a_batch_inference_leaves_is_no_event(http, app, folder):
    assert put(http, "image0").status_code == 200
    before = [*history_of(app.store)]
    for number in range(3):
        shutil.copy(folder / "labels/final/image0.nii", folder / "labels/original" / f"image{number}.nii")
    app.datastore().refresh()
    assert app.datastore().status()["label_tags"]["original"] == 3
    file = folder.parent / "label.nii"
    file.write_bytes(label())
    app.datastore().save_label("image0", str(file), "original", {})
    app.on_save_label("image0", "image0")
    assert [*history_of(app.store)] == before


def test_a_refresh_that_listed_the_files_before_a_removal_brings_nothing_back(http, app, folder, monkeypatch):
    assert put(http, "image0").status_code == 200
    datastore = app.datastore()
    scan = datastore._scan

    def listed_before(place, patterns):
        found = scan(place, patterns)
        if place.name == "final" and "image0" in datastore.get_labeled_images():
            datastore.remove_label("image0", "final")
        return found

    monkeypatch.setattr(datastore, "_scan", listed_before)
    datastore.refresh()
    agree(app, folder)
    assert lines(app) == [("labelled", "image0", "ann"), ("label_removed", "image0", "")]


def test_what_an_admin_removes_and_what_goes_by_hand_has_a_line(http, app, folder):
    for image in ("image0", "image1", "image2"):
        assert put(http, image).status_code == 200
    assert http.delete("/datastore/label", params={"id": "image0", "tag": "final"}).status_code == 200
    (folder / "labels" / "final" / "image1.nii").unlink()
    (folder / "image3.nii.gz").unlink()
    app.datastore().refresh()
    assert http.delete("/datastore/image", params={"id": "image2"}).status_code == 200
    assert lines(app)[3:] == [
        ("label_removed", "image0", "anonymous@testclient"),
        ("label_removed", "image1", ""),
        ("image_removed", "image3", ""),
        ("label_removed", "image2", "anonymous@testclient"),
        ("image_removed", "image2", "anonymous@testclient"),
    ]
    agree(app, folder)


def undo(http, undo_id: str, client: str = "ann"):
    return http.post("/al/undo", json={"client_id": client, "undo_id": undo_id})


def test_an_undo_whose_answer_is_lost_is_repeated_without_harm(http, app, folder):
    for _ in range(3):
        assert put(http, ask(http).json()["id"]).status_code == 200
    first, second = undo(http, "u"), undo(http, "u")
    assert first.json()["id"] == "image2"
    assert {**second.json(), "lease_expires": ""} == {**first.json(), "lease_expires": ""}
    agree(app, folder)
    assert app.store.image_ids(labelled=True) == ["image0", "image1"]
    assert lines(app, "undone", "label_removed") == [("undone", "image2", "ann")]


def test_an_undo_may_go_to_another_server_on_the_folder_than_the_label(http, app, folder, make):
    other = make()
    assert put(http, ask(http).json()["id"]).status_code == 200
    assert other.undo("ann", "u").image_id == "image0"
    app.datastore().refresh()
    for server in (app, other):
        agree(server, folder)
    assert app.store.labelled_count() == 0
    assert lines(app) == [("labelled", "image0", "ann"), ("undone", "image0", "ann")]


def test_an_undo_that_cannot_remove_the_label_is_finished_later(http, app, folder):
    assert put(http, ask(http).json()["id"]).status_code == 200
    take_back = app.datastore().take_back
    app.datastore().take_back = lambda *_: (_ for _ in ()).throw(OperationalError("", {}, Exception("disk I/O error")))
    assert undo(http, "u").status_code == 503
    app.loop.settle()
    app.datastore().take_back = take_back
    assert ask(http, "bob").json()["id"] == "image1"  # ann has the first again
    app.loop.settle()
    agree(app, folder)
    assert app.store.labelled_count() == 0
    assert undo(http, "u").json()["id"] == "image0"
    assert lines(app) == [("labelled", "image0", "ann"), ("undone", "image0", "ann")]


def test_an_undo_that_was_killed_before_the_label_was_removed_is_finished_at_the_next_start(
    http, app, folder, make, monkeypatch
):
    assert put(http, ask(http).json()["id"]).status_code == 200
    monkeypatch.setattr(app.datastore(), "take_back", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        app.undo("ann", "u")
    again = make()
    agree(again, folder)
    assert again.store.labelled_count() == 0
    assert again.undo("ann", "u").assignment.image_id == "image0"
    assert lines(again) == [("labelled", "image0", "ann"), ("undone", "image0", "ann")]
    assert len(list((folder / "labels" / "history" / "image0").iterdir())) == 1


@pytest.mark.parametrize("content", ["{", "[1]", "", "\xff", "folder"])
def test_damaged_files_of_ours_are_nobody_s_fault(http, app, folder, caplog, content):
    file = folder / "active_learning" / "models" / "segmentation" / "train_stats.json"
    file = Path(app.trainers()[0]._stats_path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if content == "folder":
        file.mkdir()
    else:
        file.write_bytes(content.encode("latin1"))
    for _ in range(3):
        answer = http.get("/info/")
        assert answer.status_code == 200
    assert answer.json()["train_stats"]["segmentation"] == {}
    assert caplog.text.count("cannot be read and is left out") == 1
    assert http.get("/al/progress").status_code == 200


def test_an_error_in_json_of_ours_is_not_blamed_on_the_request(http, app, monkeypatch):
    monkeypatch.setattr(app, "info", lambda: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):
        http.get("/info/")


def test_an_image_that_the_server_cannot_read_is_not_the_sender_s_fault(http, app, folder, monkeypatch):
    load = nibabel.load

    def fail(file, *args, **options):
        if "image0" in str(file):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return load(file, *args, **options)

    monkeypatch.setattr(nibabel, "load", fail)
    answer = put(http, "image0")
    assert answer.status_code == 500
    assert "its log says which; what was sent is kept on the server as rejected/" in answer.json()["detail"]
    assert str(folder) not in answer.text


def test_a_folder_that_cannot_be_written_is_said(http, app, folder, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    monkeypatch.setattr("tasks.datastore.writes.shutil.copyfileobj", fail)
    answer = put(http, "image0")
    assert answer.status_code == 503
    assert "Read-only file system" in answer.json()["detail"]
    assert str(folder) not in answer.text
    monkeypatch.undo()
    agree(app, folder)


def test_where_taking_back_fails_too_the_old_version_is_kept_and_nothing_is_promised(http, app, folder, monkeypatch):
    assert put(http, "image0", voxels=2).status_code == 200
    replace = Path.replace

    def fails_the_second_time(self, target):
        if self.name.endswith("-before"):
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails_the_second_time)
        patch.setattr("tasks.datastore.writes.sync_folder", lambda place: full() if place.name == "final" else None)
        answer = put(http, "image0", voxels=3)
    assert answer.status_code == 500
    assert "nor take back what it had begun" in answer.json()["detail"]
    (kept,) = (folder / "labels" / "history" / "image0").iterdir()
    assert kept.read_bytes() == label(2)


def test_a_refused_label_that_cannot_be_kept_is_said(http, app, folder):
    (folder / "rejected").write_text("no folder")
    answer = http.put(
        "/datastore/label", params={"image": "image0"}, files={"label": ("label.nii", b"nonsense")}, data={}
    )
    assert answer.status_code == 400
    assert "it could not be kept" in answer.json()["detail"]
    agree(app, folder)


def test_the_checksum_is_told_with_the_image_and_compared(http, app, folder):
    from tests.server import wait_for

    ask(http)
    wait_for(lambda: "checksum" in ask(http).json(), 20)
    checksum = ask(http).json()["checksum"]
    assert http.get("/datastore/image/info", params={"image": "image0"}).json()["checksum"] == checksum

    def head(value: str) -> int:
        return http.head("/datastore/image", params={"image": "image0", "check_sum": value}).status_code

    assert [head(checksum), head(checksum.partition(":")[2]), head("SHA256:00"), head("MD5:00")] == [200, 200, 404, 404]


def test_an_index_that_was_forgotten_is_made_again_and_who_gave_the_labels_is_still_known(http, app, folder, make):
    for image, reader in (("image0", "ann"), ("image1", "bob"), ("image1", "eve")):
        assert put(http, image, reader).status_code == 200
    shutil.copy(folder / "labels" / "final" / "image0.nii", folder / "labels" / "final" / "image2.nii")
    app.datastore().refresh()
    before, told = [*history_of(app.store)], http.get("/datastore/label/info?label=image1&tag=final").json()
    app.datastore().close()
    app.store.close()
    command = [sys.executable, "-m", "tasks.reindex", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "7 images and labels are forgotten" in result.stdout
    again = make()
    agree(again, folder)
    assert [*history_of(again.store)] == before
    infos = again.datastore().with_label("final")
    assert {name: info.get("client_id", "") for name, info in infos.items()} == {
        **{"image0": "ann", "image1": "eve", "image2": ""},
    }
    kept = ("client_id", "segments", "previous", "ref")
    assert {name: infos["image1"][name] for name in kept} == {name: told[name] for name in kept}
