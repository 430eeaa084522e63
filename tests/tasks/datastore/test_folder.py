"""The studies folder: whole writes, no lost updates, nothing thrown away."""

import contextlib
import datetime as dt
import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from tasks.common.files import ImageError, LabelError
from tasks.datastore import rejected
from tasks.datastore.folder import StudiesFolder
from tasks.datastore.names import label_ref
from tasks.datastore.rules import Accepted
from tasks.store.store import Store
from tests.tiny import label_image, write_volume


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(3):
        write_volume(tmp_path / "studies" / f"image{number}.nii.gz", np.ones((2, 2, 2), np.float32))
    return tmp_path / "studies"


def reopened(datastore: StudiesFolder) -> StudiesFolder:
    datastore.close()
    return StudiesFolder(datastore._datastore_path)


def label(folder: Path, content: bytes = b"a label") -> Path:
    file = folder.parent / "label.nii.gz"
    file.write_bytes(content)
    return file


def everything(folder: Path) -> dict[str, bytes]:
    """Content of all files but the index."""
    files = (path for path in folder.rglob("*") if path.is_file() and "sqlite" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class InterruptedHereError(Exception):
    pass


@pytest.mark.parametrize("place", ["os.fsync", "tasks.datastore.writes.sync_folder", "tasks.datastore.index._row"])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_write_that_fails_anywhere_changes_nothing(folder, monkeypatch, place, labelled):
    datastore = StudiesFolder(str(folder))
    if labelled:
        datastore.save_label("image0", str(label(folder, b"first")), "final", {"client_id": "ann"})
    before, info = everything(folder), dict(datastore.get_label_info("image0", "final"))

    def fail(*_, **__):
        raise InterruptedHereError

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(InterruptedHereError):
            datastore.save_label("image0", str(label(folder, b"second")), "final", {"client_id": "ben"})
    assert everything(folder) == before
    for store in (datastore, reopened(datastore)):
        assert store.get_label_info("image0", "final") == info
    again = reopened(datastore)
    again.save_label("image0", str(label(folder, b"third")), "final", {})
    assert Path(again.get_label_uri("image0", "final")).read_bytes() == b"third"


def test_a_full_disk_leaves_no_half_written_file_and_work_goes_on_afterwards(folder, monkeypatch):
    datastore = StudiesFolder(str(folder))
    before = everything(folder)

    def full(reader, writer, length):
        writer.write(reader.read(3))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space"):
            datastore.save_label("image0", str(label(folder)), "final", {})
    assert everything(folder) == before
    datastore.save_label("image0", str(label(folder)), "final", {})
    assert datastore.get_labeled_images() == ["image0"]


def test_what_a_kill_left_half_written_is_cleared_at_the_next_start(folder):
    StudiesFolder(str(folder)).close()
    for place in (folder, folder / "labels" / "final"):
        (place / "part-0123.nii.gz").write_bytes(b"half")
    datastore = StudiesFolder(str(folder))
    assert not list(folder.rglob("part-*"))
    assert sorted(datastore.list_images()) == ["image0", "image1", "image2"]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("place", ["tasks.datastore.writes.sync_folder", "tasks.datastore.index._row", "commit"])
def test_a_kill_between_a_label_s_file_and_its_row_leaves_both_as_they_were(folder, labelled, place):
    datastore = StudiesFolder(str(folder))
    if labelled:
        datastore.save_label("image0", str(label(folder, b"first")), "final", {"client_id": "ann"})
    info = dict(datastore.get_label_info("image0", "final"))
    child = os.fork()
    if child == 0:  # the label is stored, and the process gone at this very place
        try:
            if place == "commit":
                datastore._index.change = killed_after(datastore._index.change)
            else:
                module, _, name = place.rpartition(".")
                setattr(sys.modules[module], name, lambda *_, **__: die() if list(folder.rglob("*-begun")) else None)
            datastore.save_label("image0", str(label(folder, b"second")), "final", {"client_id": "ben"})
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    again = reopened(datastore)
    assert not list(folder.rglob("part-*"))
    if place == "commit":  # the row is there: so is the label
        assert again.get_label_info("image0", "final")["client_id"] == "ben"
        assert Path(again.get_label_uri("image0", "final")).read_bytes() == b"second"
    else:
        assert dict(again.get_label_info("image0", "final")) == info
        assert [path.read_bytes() for path in (folder / "labels" / "final").iterdir()] == [b"first"] * labelled


def killed_after(change):
    @contextlib.contextmanager
    def changed():
        with change() as made:
            yield made
        die()

    return changed


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000, "half"])
def test_a_damaged_index_of_an_earlier_version_is_made_again_from_the_files_and_left_where_it_is(folder, content):
    datastore = StudiesFolder(str(folder))
    datastore.save_label("image1", str(label(folder)), "final", {"client_id": "ann"})
    datastore.close()
    index = folder / "datastore.sqlite"
    shutil.move(folder / "active_learning" / "store.sqlite", index)
    damaged = index.read_bytes()[:5000] if content == "half" else content
    index.write_bytes(damaged)
    again = StudiesFolder(str(folder))
    assert sorted(again.list_images()) == ["image0", "image1", "image2"]
    assert again.get_labeled_images() == ["image1"]
    assert index.read_bytes() == damaged


def test_a_label_that_comes_back_from_a_backup_was_not_changed_by_hand(folder):
    datastore = StudiesFolder(str(folder))
    datastore.save_label("image1", str(label(folder)), "final", {"client_id": "ann"})
    datastore.save_label("image2", str(label(folder)), "final", {"client_id": "bob"})
    known = {
        name: (label_ref(now.label), now.stamp) for name, now in datastore.images_now().items() if now.label is not None
    }
    datastore.close()
    final = folder / "labels" / "final"
    for name, later in (("image1", 0), ("image2", 1)):
        seconds = int((final / f"{name}.nii.gz").stat().st_mtime)
        os.utime(final / f"{name}.nii.gz", (seconds + later, seconds + later))
    again = StudiesFolder(str(folder))
    again.follow_edits(known)
    assert again.get_label_info("image1", "final")["client_id"] == "ann"
    assert "client_id" not in again.get_label_info("image2", "final")


def test_what_monai_label_knew_is_taken_over_and_its_damaged_index_is_no_obstacle(folder):
    final = folder / "labels" / "final"
    final.mkdir(parents=True)
    (final / "image1.nii.gz").write_bytes(b"a label")
    labels = {"final": {"ext": ".nii.gz", "info": {"client_id": "ann"}}}
    objects = {"image1": {"image": {"ext": ".nii.gz", "info": {"note": "x"}}, "labels": labels}}
    stock = folder / "datastore_v2.json"
    stock.write_text(json.dumps({"name": "x", "description": "", "objects": objects}))
    datastore = StudiesFolder(str(folder))
    assert datastore.get_label_info("image1", "final") == {"client_id": "ann"}
    assert datastore.get_image_info("image1")["note"] == "x"
    assert len(datastore.list_images()) == 3
    datastore.close()
    (folder / "active_learning" / "store.sqlite").unlink()
    stock.write_text(stock.read_text()[:50])
    assert StudiesFolder(str(folder)).get_labeled_images() == ["image1"]


def test_replaced_and_removed_final_labels_are_kept_in_the_history(folder):
    datastore = StudiesFolder(str(folder))
    for content in (b"first", b"second", b"third"):
        datastore.save_label("image0", str(label(folder, content)), "final", {})
    previous = datastore.get_label_info("image0", "final")["previous"]
    assert (folder / previous).read_bytes() == b"second"
    datastore.remove_label("image0", "final")
    kept = sorted((folder / "labels" / "history" / "image0").iterdir())
    assert [file.read_bytes() for file in kept] == [b"first", b"second", b"third"]
    datastore.save_label("image0", str(label(folder, b"fourth")), "final", {"previous": "made up"})
    assert "previous" not in datastore.get_label_info("image0", "final")
    assert datastore.status() == {"total": 3, "completed": 1, "label_tags": {"final": 1}}
    assert reopened(datastore).status() == {"total": 3, "completed": 1, "label_tags": {"final": 1}}


def test_a_refused_label_is_kept_with_the_reason(folder):
    def never(label, image, info, folder):
        raise LabelError("it is upside down")

    datastore = StudiesFolder(str(folder), rule=never)
    with pytest.raises(LabelError, match="image0: it is upside down; it is kept on the server as rejected/") as caught:
        datastore.save_label("image0", str(label(folder, b"an hour of work")), "final", {"client_id": "ann"})
    place = folder / "rejected" / str(caught.value).rpartition("/")[2]
    assert (place / "label.nii.gz").read_bytes() == b"an hour of work"
    about = json.loads((place / "reason.json").read_text())
    assert (about["image"], about["params"]["client_id"]) == ("image0", "ann")
    assert "upside down" in about["reason"]
    assert datastore.get_labeled_images() == []
    datastore.save_label("image0", str(label(folder)), "original", {})


def test_refused_labels_are_kept_for_thirty_days(folder):
    datastore = StudiesFolder(str(folder))
    old = folder / "rejected" / "20200101T000000-0a"
    old.mkdir(parents=True)
    (old / "label.nii.gz").write_bytes(b"x")
    new = datastore.rejected.keep(label(folder), "label.nii.gz", {}, "why")
    assert [place.name for place in (folder / "rejected").iterdir()] == [new.name]


def test_of_refused_labels_only_so_many_bytes_are_kept_and_the_oldest_go_first(folder, monkeypatch):
    kept = StudiesFolder(str(folder)).rejected
    for day, size in ((1, 300), (2, 200), (3, 100)):
        place = folder / "rejected" / f"2026010{day}T000000-0a"
        place.mkdir(parents=True)
        (place / "label.nii.gz").write_bytes(bytes(size))
    now = dt.datetime(2026, 1, 4, tzinfo=dt.timezone.utc)
    monkeypatch.setattr("tasks.datastore.rejected.LARGEST", 600)
    kept.forget_old(now)
    assert len(kept.names()) == 3
    monkeypatch.setattr("tasks.datastore.rejected.LARGEST", 599)
    kept.forget_old(now)
    assert kept.names() == ["20260103T000000-0a", "20260102T000000-0a"]


def test_of_refused_labels_only_so_many_are_kept_and_each_is_measured_once(folder, monkeypatch):
    kept = StudiesFolder(str(folder)).rejected
    monkeypatch.setattr("tasks.datastore.rejected.MOST", 30)
    measured = []
    size = rejected._size
    monkeypatch.setattr(rejected, "_size", lambda place: measured.append(place.name) or size(place))
    places = [kept.keep(label(folder), "label.nii.gz", {}, "why").name for _ in range(50)]
    assert set(kept.names()) < set(places)
    assert len(kept.names()) == 30
    assert sorted(measured) == sorted(places)


def test_what_a_rule_makes_of_a_label_is_stored_with_what_it_says(folder):
    def rewrite(label, image, info, folder):
        folder.mkdir()
        made = folder / "made.nii.gz"
        made.write_bytes(label.read_bytes().upper())
        return Accepted(made, {"notes": ["louder"]})

    datastore = StudiesFolder(str(folder), rule=rewrite)
    datastore.save_label("image0", str(label(folder, b"abc")), "final", {})
    assert Path(datastore.get_label_uri("image0", "final")).read_bytes() == b"ABC"
    assert datastore.get_label_info("image0", "final")["notes"] == ["louder"]


@pytest.mark.parametrize("tag", ["..", "a/b", "history", "unheard-of", ""])
def test_tags_are_known_ones(folder, tag):
    datastore = StudiesFolder(str(folder), tags=("draft",))
    with pytest.raises(LabelError, match="tag"):
        datastore.save_label("image0", str(label(folder)), tag, {})
    datastore.save_label("image0", str(label(folder)), "draft", {})


def test_an_image_may_be_replaced_until_it_is_labelled(folder, tmp_path):
    told = []
    datastore = StudiesFolder(str(folder), on_change=told.append)
    new = tmp_path / "new.nii"
    new.write_bytes(b"another")
    datastore.add_image("image0", str(new), {"note": "x"})
    assert told == [{"image0": False}]
    assert datastore.get_image_uri("image0").endswith("image0.nii")
    assert not (folder / "image0.nii.gz").exists()
    datastore.save_label("image0", str(label(folder)), "final", {})
    with pytest.raises(ImageError, match="has a final label"):
        datastore.add_image("image0", str(new), {})
    assert sorted(reopened(datastore).list_images()) == ["image0", "image1", "image2"]


def test_what_the_server_notes_of_images_and_labels_is_nobody_s_to_change(folder):
    datastore = StudiesFolder(str(folder))
    datastore.save_label("image0", str(label(folder)), "final", {"client_id": "ann"})
    before = dict(datastore.get_image_info("image0")), dict(datastore.get_label_info("image0", "final"))
    made_up = "../made up"
    of_images = dict.fromkeys(("ts", "name", "path", "checksum", "checksum_of"), made_up)
    of_labels = dict.fromkeys(("ref", "ts", "name", "client_id", "source", "previous"), made_up)
    datastore.update_image_info("image0", {**of_images, "note": "kept"})
    datastore.update_label_info("image0", "final", {**of_labels, "note": "kept"})
    for each in (datastore, reopened(datastore)):
        assert each.get_image_info("image0") == {**before[0], "note": "kept"}
        assert each.get_label_info("image0", "final") == {**before[1], "note": "kept"}


def test_what_is_not_there_is_said(folder):
    datastore = StudiesFolder(str(folder))
    with pytest.raises(ImageNotFoundException):
        datastore.save_label("nothing", str(label(folder)), "final", {})
    with pytest.raises(ImageNotFoundException):
        datastore.update_image_info("nothing", {})
    for call in (datastore.remove_label, lambda *key: datastore.update_label_info(*key, {})):
        with pytest.raises(LabelNotFoundException):
            call("image0", "final")


def test_a_removed_image_is_told_and_its_label_kept(folder):
    told = []
    datastore = StudiesFolder(str(folder), on_change=told.append)
    datastore.save_label("image0", str(label(folder)), "final", {})
    datastore.remove_image("image0")
    assert told[-1] == {"image0": None}
    assert "image0" not in datastore
    assert len(list((folder / "labels" / "history" / "image0").iterdir())) == 1


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


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["add0", "add1", "drop0", "drop1", "label0", "label1", "unlabel0", "unlabel1"])))
def test_what_it_tells_adds_up_to_what_is_there(steps):
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "studies"
        folder.mkdir()
        known: dict[str, bool] = {}

        def follow(changes):
            for name, labelled in changes.items():
                if labelled is None:
                    known.pop(name, None)
                else:
                    known[name] = labelled

        datastore = StudiesFolder(str(folder), on_change=follow)
        for step in steps:
            name = f"image{step[-1]}.nii.gz"
            file = folder / "labels" / "final" / name if "label" in step else folder / name
            if step.startswith(("add", "label")):
                file.write_bytes(b"x")
            else:
                file.unlink(missing_ok=True)
            datastore.refresh()
        there = {path.name.partition(".")[0] for path in folder.glob("image*")}
        assert known == {name: (folder / "labels/final" / f"{name}.nii.gz").exists() for name in there}
        assert {name: now.label is not None for name, now in datastore.images_now().items()} == known
        datastore.close()
        again = StudiesFolder(str(folder))
        assert {name: now.label is not None for name, now in again.images_now().items()} == known
        again.close()


def test_files_that_others_put_there_are_followed_and_its_own_are_not_looked_for(folder):
    told = []
    datastore = StudiesFolder(str(folder), on_change=told.append, auto_reload=True)
    try:
        datastore.save_label("image0", str(label(folder)), "final", {})
        shutil.copy(folder / "image0.nii.gz", folder / "new.nii.gz")
        shutil.copy(label(folder), folder / "labels" / "final" / "image1.nii.gz")
        wait(lambda: told)
        assert told == [{"new": False, "image1": True}]
        (folder / "new.nii.gz").unlink()
        wait(lambda: len(told) == 2)
        assert told[1] == {"new": None}
    finally:
        datastore.close()


def test_a_label_that_others_write_anew_in_its_place_is_told_and_its_own_are_not(folder):
    told = []
    datastore = StudiesFolder(str(folder), on_change=told.append, auto_reload=True)
    try:
        for name, client in (("image0", "ann"), ("image1", "bob")):
            datastore.save_label(name, str(label(folder)), "final", {"client_id": client})
        datastore.save_label("image1", str(label(folder, b"again")), "final", {"client_id": "bob"})
        stamps = {name: now.stamp for name, now in datastore.images_now().items()}
        (folder / "labels" / "final" / "image0.nii.gz").write_bytes(b"by hand")
        wait(lambda: told)
        datastore.refresh()
        assert told == [{"image0": True}]
        assert [name for name, now in datastore.images_now().items() if now.stamp != stamps[name]] == ["image0"]
        assert "client_id" not in datastore.get_label_info("image0", "final")
        assert reopened(datastore).get_label_info("image1", "final")["client_id"] == "bob"
    finally:
        datastore.close()


def wait(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_labels_of_a_tag_are_replaced_at_once_and_others_stay(datastore, tmp_path):
    oracle = tmp_path / "oracle"
    files = {name: (oracle / f"{name}.nii.gz", {"score": number}) for number, name in enumerate(("image6", "image7"))}
    datastore.set_labels("pseudo", files)
    assert datastore.with_label("pseudo")["image7"]["score"] == 1
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


def test_a_file_whose_name_is_not_unicode_is_left_out_and_named_in_the_log(tmp_path, caplog):
    """Neither a database nor an answer could hold its id."""
    write_volume(tmp_path / "image.nii.gz", np.zeros((2, 2, 2), np.float32))
    for place in (tmp_path, tmp_path / "labels" / "final"):
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "image.nii.gz", os.fsencode(place) + b"/im\xff.nii.gz")
    folder = StudiesFolder(str(tmp_path), extensions=["*.nii.gz"])
    folder.refresh()
    assert folder.list_images() == ["image"]
    assert caplog.text.count("its name is not valid UTF-8") == 1


def test_a_label_that_another_server_is_storing_is_left_to_that_server(folder):
    """Both watch the folder; the file is there before the other one has noted whose it is."""
    store, told = Store(folder / "active_learning" / "store.sqlite"), []
    ours = StudiesFolder(str(folder), store=store)
    theirs = StudiesFolder(str(folder), store=store, on_change=told.append, auto_reload=True)
    try:
        ours.save_label("image1", str(label(folder, b"first")), "final", {"client_id": "eve"})
        wait(lambda: told == [{"image1": True}])
        change, renamed, go_on = ours._index.change, threading.Event(), threading.Event()

        @contextlib.contextmanager
        def slow():
            renamed.set()
            go_on.wait(20)
            with change() as made:
                yield made

        ours._index.change = slow
        for image in ("image0", "image1"):
            renamed.clear()
            go_on.clear()
            storing = threading.Thread(
                target=ours.save_label, args=(image, str(label(folder)), "final", {"client_id": "ann"})
            )
            storing.start()
            renamed.wait(20)
            assert (folder / "labels" / "final" / f"{image}.nii.gz").read_bytes() == b"a label"
            seen = len(told)
            theirs.refresh()
            assert len(told) == seen
            go_on.set()
            storing.join()
            wait(lambda: theirs.get_label_info(image, "final").get("client_id") == "ann")  # noqa: B023
        ref = ours.get_label_info("image0", "final")["ref"]
        assert theirs.get_label_info("image0", "final")["ref"] == ref
    finally:
        ours.close()
        theirs.close()
        store.close()


@pytest.fixture
def two_servers(folder):
    """Two on one folder; the second has not looked at it since its start."""
    store = Store(folder / "active_learning" / "store.sqlite")
    servers = [StudiesFolder(str(folder), store=store) for _ in range(2)]
    yield servers
    for server in servers:
        server.close()
    store.close()


def labelled(server: StudiesFolder, image: str, content: bytes = b"a label", **info: str) -> str:
    """Save a final label; returns its name."""
    server.save_label(image, str(label(server.folder, content)), "final", info)
    return label_ref(server.get_label_info(image, "final"))


def test_a_label_that_another_server_has_just_stored_can_be_taken_back_removed_and_described(two_servers, folder):
    ours, theirs = two_servers
    refs = {image: labelled(ours, image, client_id="ann") for image in ("image0", "image1", "image2")}
    theirs.take_back("image0", refs["image0"])
    theirs.remove_label("image1", "final")
    theirs.update_label_info("image2", "final", {"approved": True})
    assert [path.name for path in (folder / "labels" / "final").iterdir()] == ["image2.nii.gz"]
    for server in (theirs, reopened(theirs)):
        assert server.get_labeled_images() == ["image2"]
        info = server.get_label_info("image2", "final")
        assert (info["ref"], info["client_id"], info["approved"]) == (refs["image2"], "ann", True)
    assert len([path for path in (folder / "labels" / "history").rglob("*") if path.is_file()]) == 2


def test_what_another_server_has_just_replaced_or_removed_is_not_taken_for_what_was_there_before(two_servers, folder):
    ours, theirs = two_servers
    refs = {image: labelled(ours, image, client_id="ann") for image in ("image0", "image1", "image2")}
    theirs.refresh()
    assert {image: label_ref(theirs.get_label_info(image, "final")) for image in refs} == refs
    newer = labelled(ours, "image0", b"newer", client_id="ben")
    ours.remove_label("image1", "final")
    theirs.take_back("image0", refs["image0"])  # it is another one by now
    theirs.update_label_info("image0", "final", {"approved": True})
    with pytest.raises(LabelNotFoundException):
        theirs.remove_label("image1", "final")
    with pytest.raises(LabelNotFoundException):
        theirs.update_label_info("image1", "final", {"approved": True})
    last = labelled(theirs, "image1", b"again", client_id="cat")
    assert "previous" not in theirs.get_label_info("image1", "final")
    ours.refresh()
    for server in (ours, theirs, reopened(ours)):
        info = server.get_label_info("image0", "final")
        assert (info["ref"], info["client_id"]) == (newer, "ben")
        assert label_ref(server.get_label_info("image1", "final")) == last
        assert label_ref(server.get_label_info("image2", "final")) == refs["image2"]
    assert (folder / "labels" / "final" / "image0.nii.gz").read_bytes() == b"newer"


def test_what_another_server_has_just_said_of_an_image_stays(two_servers):
    ours, theirs = two_servers
    ours.update_image_info("image0", {"note": "ours"})
    theirs.update_image_info("image0", {"seen": True})
    for server in (theirs, reopened(theirs)):
        info = server.get_image_info("image0")
        assert (info["note"], info["seen"]) == ("ours", True)


def test_an_image_that_another_server_has_labelled_is_not_replaced_and_a_removed_one_is_gone(two_servers, folder):
    ours, theirs = two_servers
    labelled(ours, "image0")
    labelled(ours, "image1", b"kept")
    ours.remove_image("image2")
    with pytest.raises(ImageError, match="has a final label"):
        theirs.add_image("image0", str(folder / "image0.nii.gz"), {})
    theirs.remove_image("image1")
    assert [path.read_bytes() for path in (folder / "labels" / "history" / "image1").iterdir()] == [b"kept"]
    with pytest.raises(ImageNotFoundException):
        theirs.remove_image("image2")
    with pytest.raises(ImageNotFoundException):
        theirs.save_label("image2", str(label(folder)), "final", {})
    assert reopened(theirs).get_labeled_images() == ["image0"]
