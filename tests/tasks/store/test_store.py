"""The database: round trips, atomicity, survival."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.store.store import ImageRecord, Store
from tasks.store.tables import Event
from tests.tiny import history_of, sync_images

ROOT = Path(__file__).resolve().parents[3]


def record(image_id: str = "a", version: str = "v1", **changes) -> ImageRecord:
    values = {"fingerprint": "f1", "scores": {"bald": 0.25}, "class_entropies": {"tumor": 0.5}}
    values |= {"embedding": np.arange(4, dtype=np.float32)} | changes
    return ImageRecord(image_id, version, **values)


def test_a_record_comes_back_as_it_was(store):
    store.add_record(record())
    (back,) = store.records("v1")
    assert back.embedding.tolist() == [0, 1, 2, 3]
    assert (back.scores, back.class_entropies, back.error) == ({"bald": 0.25}, {"tumor": 0.5}, None)
    assert store.fingerprints("v1") == {"a": "f1"}
    assert store.records("v2") == []


def test_a_second_record_of_the_same_image_and_version_replaces_the_first(store):
    store.add_record(record())
    store.add_record(record(scores={"bald": 0.75}))
    store.add_record(record(version="v2"))
    assert [r.scores["bald"] for r in store.records("v1")] == [0.75]


def test_sync_keeps_what_it_knows_and_hides_what_left(store):
    sync_images(store, {"a": False, "b": True})
    sync_images(store, {"a": True, "c": False})
    assert store.image_ids() == ["a", "c"]
    assert store.image_ids(labelled=True) == ["a"]
    assert store.labelled_count() == 1
    sync_images(store, {"a": True, "b": True})
    assert store.image_ids() == ["a", "b"]


def test_unscored_counts_present_images_without_record(store):
    sync_images(store, {"a": False, "b": True})
    assert store.unscored("v1") == 2
    store.add_record(record())
    assert store.unscored("v1") == 1


def test_the_newest_model_is_current_and_the_newest_completed_scoring_serves(store):
    assert store.current_model("segmentation") is None
    assert store.serving_version() == ""
    for version in ("v1", "v2"):
        store.add_model("segmentation", version, f"{version}.pt", 5, {"best_metric": 0.5})
    assert store.current_model("segmentation").version == "v2"
    store.complete_scoring("v1")
    assert store.serving_version() == "v1"
    store.complete_scoring("v2")
    store.complete_scoring("v1")
    assert store.serving_version() == "v1"


def test_a_failed_transaction_leaves_nothing(store):
    def add_and_fail():
        with store.transaction() as session:
            session.execute(
                Store.__init__.__globals__["Image"]
                .__table__.insert()
                .values(image_id="x", labelled=False, present=True)
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        add_and_fail()
    assert store.image_ids() == []


@pytest.mark.parametrize("location", ["nonsense://x", "oracle+nodriver://x"])
def test_a_store_that_cannot_be_opened_is_named(location):
    with pytest.raises(ValueError, match="store"):
        Store(location)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "store.sqlite").write_text("this is not a database, but long enough to be read as a header")
    with pytest.raises(ValueError, match=r"store\.sqlite"):
        Store(tmp_path / "store.sqlite")


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from tasks.store.tables import Event
from tests.tiny import history_of, sync_images
from tasks.store.store import ImageRecord, Store
store = Store(sys.argv[2])
for i in range(100000):
    store.add_record(ImageRecord(f"image{i}", "v1", "f", {"bald": 0.5}, {}, None))
    print(i, flush=True)
"""


@pytest.mark.slow
def test_records_acknowledged_before_a_kill_are_there_after_it(tmp_path):
    for repetition in range(5):
        path = tmp_path / f"store{repetition}.sqlite"
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(ROOT), str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(40):
            line = process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = [int(line), *map(int, process.stdout.read().split())]
        process.wait()
        assert len(Store(path).records("v1")) > max(acknowledged)


def test_a_long_history_is_told_part_by_part_and_whole(store, monkeypatch):
    monkeypatch.setattr("tasks.store.store._CHUNK", 7)
    with store.transaction() as session:
        session.add_all(Event(event="labelled", image_id=f"i{number}", client_id="ann") for number in range(30))
    parts = list(store.history())
    assert max(map(len, parts)) == 7
    assert [row["image_id"] for row in history_of(store)] == [f"i{number}" for number in range(30)]
