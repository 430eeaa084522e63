"""What is due follows from the store alone."""

import datetime as dt
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from strategies.catalogue import CATALOGUE
from tasks.rounds.loop import RECORDS, ActiveLearningLoop
from tasks.rounds.rounds import Rounds
from tasks.segmentation.models import BOOTSTRAP, SINGLE
from tasks.store.claims import LAPSE_SECONDS, SCORING, TRAIN
from tasks.store.store import ImageRecord
from tasks.store.tables import Training, now
from tests.tiny import change_images, sync_images, take_label

ROOT = Path(__file__).resolve().parents[3]
IMAGES = [f"image{i}" for i in range(8)]


def version_of(name: str, revision: int) -> str:
    return hashlib.sha256(f"{name} {revision}".encode()).hexdigest()[:16]


def publish(registry, name: str, revision: int) -> None:
    """What a training leaves: a checkpoint of its own content, and two rows."""
    version = version_of(name, revision)
    registry.folder.mkdir(exist_ok=True)
    (registry.folder / f"{name}-{version}.pt").write_text(f"{name} {revision}")
    time = now()
    training = Training(name=name, started_at=time, finished_at=time, label_revision=revision, model_version=version)
    registry.store.add_model(name, version, f"{name}-{version}.pt", 4, {}, training)


class Server:
    """Trains and scores by writing what a real job writes."""

    def __init__(self, store, registry, train_after: int = 4, trainers=(SINGLE,), batch_size: int = 4) -> None:
        self.store = store
        self.rounds = Rounds(store, batch_size, 60, 0)
        self.jobs: list[tuple[str, str]] = []
        self.failing: set[str] = set()
        self.loop = ActiveLearningLoop(store, self.rounds, registry, train_after, trainers, self.run)
        sync_images(store, dict.fromkeys(IMAGES, False))

    def run(self, kind: str, name: str) -> bool:
        self.jobs.append((kind, name))
        if name in self.failing:
            return False
        if kind == TRAIN:
            publish(self.loop.registry, name, self.store.label_revision())
        else:
            version = self.loop.registry.scoring_version()
            for image_id in IMAGES:
                self.store.add_record(ImageRecord(image_id, version, "f", {"dropout_variance": 0.5}, {}, None))
            self.store.complete_scoring(version)
        return True

    def label(self, count: int, strategy: str = "random") -> None:
        for _ in range(count):
            assignment = self.rounds.next_image(CATALOGUE[strategy], "ann")
            take_label(self.rounds, assignment.image_id, "ann")

    def work(self) -> list[tuple[str, str]]:
        self.jobs.clear()
        while self.loop.step():
            assert len(self.jobs) < 20
        return list(self.jobs)


@pytest.fixture
def server(store, registry) -> Server:
    return Server(store, registry)


def test_nothing_is_due_before_there_are_labels(server):
    assert server.work() == []


def test_train_then_score_then_wait_for_new_labels(server):
    server.label(3)
    assert server.work() == []
    server.label(1)
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]
    assert server.store.serving_version() == version_of(SINGLE, 4)
    assert server.work() == []
    server.label(4)
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]


def test_a_completed_round_is_due_although_train_after_is_larger(store, registry):
    server = Server(store, registry, train_after=100)
    server.label(4)
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]


def test_a_training_that_a_viewer_started_counts(server):
    server.label(4)
    server.run(TRAIN, SINGLE)
    assert server.work() == [(SCORING, RECORDS)]


def test_a_killed_scoring_goes_on_after_a_restart(server, store, registry):
    server.label(4)
    server.run(TRAIN, SINGLE)
    store.add_record(ImageRecord("image0", version_of(SINGLE, 4), "f", {}, {}, None))
    restarted = ActiveLearningLoop(store, server.rounds, registry, 4, (SINGLE,), server.run)
    assert (restarted.next_job().kind, restarted.next_job().names) == (SCORING, (RECORDS,))


def test_new_images_are_scored(server, store):
    server.label(4)
    server.work()
    sync_images(store, {**dict.fromkeys(store.image_ids(labelled=True), True), "new": False})
    assert server.loop.next_job().kind == SCORING


def test_a_failed_job_waits_until_something_changed(server):
    server.failing.add(SINGLE)
    server.label(4)
    assert server.work() == [(TRAIN, SINGLE)]
    assert server.work() == []
    server.label(1)
    server.failing.clear()
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]


def test_a_committee_is_trained_after_the_single_model(store, registry):
    server = Server(store, registry, trainers=(SINGLE, BOOTSTRAP))
    server.label(4)
    assert server.work() == [(TRAIN, SINGLE), (TRAIN, BOOTSTRAP), (SCORING, RECORDS)]
    assert store.serving_version() == f"{version_of(SINGLE, 4)}+{version_of(BOOTSTRAP, 4)}"


def test_no_committee_without_its_single_model(store, registry):
    server = Server(store, registry, trainers=(SINGLE, BOOTSTRAP))
    server.failing.add(SINGLE)
    server.label(4)
    assert server.work() == [(TRAIN, SINGLE)]


def test_the_thread_works_when_woken_and_outlives_failures(server, monkeypatch):
    import threading

    finished = threading.Event()
    calls = []

    def step() -> bool:
        calls.append(dt.datetime.now())
        if len(calls) == 1:
            raise OSError("disk full")
        finished.set()
        return False

    monkeypatch.setattr(server.loop, "step", step)
    server.loop.start(poll_seconds=60)
    server.loop.wake()
    assert finished.wait(10)


def test_train_after_must_be_positive(store, registry):
    with pytest.raises(ValueError, match="train_after must be at least 1"):
        Server(store, registry, train_after=0)


def test_what_scoring_has_left_undone_makes_it_due_again_but_not_for_ever(server):
    server.label(4)
    server.work()
    left = [True, True]
    server.loop.unfinished = lambda: bool(left)

    def run(kind: str, name: str) -> bool:
        left.pop()
        return server.run(kind, name)

    server.loop.run = run
    assert server.work() == [(SCORING, RECORDS)] * 2
    left.append(True)
    server.failing.add(RECORDS)
    server.loop.run = server.run
    assert server.work() == [(SCORING, RECORDS)]


def test_every_look_for_work_settles_first(server):
    seen = []
    server.loop.settle = lambda: seen.append(server.store.labelled_count())
    server.label(1)
    assert not server.loop.step()
    assert seen == [1]


def correct(server, images) -> None:
    for image_id in images:
        take_label(server.rounds, image_id, "senior", {"previous": "labels/history/x"})


def labelled(server) -> list[str]:
    return server.store.image_ids(labelled=True)


def test_corrected_and_removed_labels_make_a_training_due_as_new_ones_do(server):
    server.label(4)
    server.work()
    first = labelled(server)
    correct(server, [first[0], first[0], first[1]])  # two images, one of them twice
    assert server.work() == []
    change_images(server.store, {first[2]: False, first[3]: None})
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]
    assert server.work() == []


def test_labels_that_came_while_a_training_ran_are_new_after_it(server):
    server.label(4)
    seen = server.store.label_revision()
    server.label(4)
    publish(server.loop.registry, SINGLE, seen)
    assert server.work() == [(SCORING, RECORDS), (TRAIN, SINGLE), (SCORING, RECORDS)]
    assert server.work() == []


def test_a_failed_training_is_left_alone_also_after_a_restart_until_a_label_changes(server, registry):
    server.label(4)
    time = now()
    failed = Training(name=SINGLE, started_at=time, finished_at=time, error="disk full")
    failed.label_revision = server.store.label_revision()
    server.store.add_training(failed)
    assert server.work() == []
    correct(server, labelled(server)[:1])
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]


def test_a_failed_training_is_tried_again_after_half_an_hour(server):
    server.label(4)
    time = now() - dt.timedelta(minutes=31)
    failed = Training(name=SINGLE, started_at=time, finished_at=time, error="disk full")
    failed.label_revision = server.store.label_revision()
    server.store.add_training(failed)
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]


def test_a_training_without_a_new_result_is_not_due_again(server, registry):
    server.label(4)
    server.work()
    correct(server, labelled(server))
    time = now()
    unchanged = Training(name=SINGLE, started_at=time, finished_at=time, model_version=version_of(SINGLE, 4))
    unchanged.label_revision = server.store.label_revision()
    server.store.add_training(unchanged)
    assert server.work() == []
    assert len(server.store.models(SINGLE)) == 1


def test_a_lost_checkpoint_gives_way_to_the_one_before_and_the_rounds_follow(server, registry):
    server.label(4)
    server.work()
    before = server.store.serving_version()
    server.label(4)
    server.work()
    registry.path(SINGLE).unlink()
    assert registry.scoring_version() == before
    assert server.work() == [(SCORING, RECORDS)]
    assert server.store.serving_version() == before
    registry.path(SINGLE).write_text("damaged")
    server.store.add_training(old_training(server))
    assert registry.scoring_version() == ""
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]


def old_training(server) -> Training:
    """A training that saw all labels there are, long ago."""
    time = now() - dt.timedelta(days=1)
    revision = server.store.label_revision()
    return Training(name=SINGLE, started_at=time, finished_at=time, label_revision=revision, model_version="x")


def test_a_committee_that_is_behind_its_single_model_is_trained_and_not_scored_meanwhile(store, registry):
    server = Server(store, registry, trainers=(SINGLE, BOOTSTRAP))
    server.label(4)
    server.work()
    server.label(1)
    server.run(TRAIN, SINGLE)  # somebody pressed Train
    assert registry.outdated() == [BOOTSTRAP]
    assert registry.scoring_version() == version_of(SINGLE, 5)
    assert server.work() == [(SCORING, RECORDS), (TRAIN, BOOTSTRAP), (SCORING, RECORDS)]
    assert store.serving_version() == f"{version_of(SINGLE, 5)}+{version_of(BOOTSTRAP, 5)}"
    assert registry.outdated() == []


@pytest.mark.parametrize("end", ["a round", "labels", "train"])
def test_a_stop_holds_until_a_round_is_complete_labels_have_come_or_somebody_trains(store, registry, end, caplog):
    caplog.set_level("INFO")
    server = Server(store, registry, train_after=1, batch_size=4)
    server.label(2)
    server.loop.hold("ann")
    assert (server.loop.held_by, server.work()) == ("ann", [])
    restarted = ActiveLearningLoop(store, Rounds(store, 4, 60, 0), registry, 1, (SINGLE,), server.run)
    assert (restarted.held_by, restarted.next_job()) == ("ann", None)
    if end == "a round":
        server.label(2)
    elif end == "labels":
        correct(server, IMAGES[:2])
        correct(server, IMAGES[:3])
        assert server.work() == []
        correct(server, IMAGES[3:4])
    else:
        server.loop.release("bob")
    assert restarted.held_by is None
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]
    assert "stopped by ann" in caplog.text


def test_a_job_that_was_stopped_is_not_a_failure(server, caplog):
    caplog.set_level("INFO")

    def stopped(kind: str, name: str) -> bool:
        server.loop.hold("ann")
        return False

    server.label(4)
    server.loop.run = stopped
    assert server.loop.step()
    assert "train segmentation was stopped by ann" in caplog.text
    assert "failed" not in caplog.text
    server.loop.run = server.run
    server.loop.release()
    assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]


def test_records_of_models_that_do_not_serve_are_deleted_after_a_job(server, store):
    for image_id in IMAGES:
        store.add_record(ImageRecord(image_id, "older", "f", {}, {}, None))
    server.label(4)
    server.work()
    assert store.records("older") == []
    assert len(store.records(store.serving_version())) == len(IMAGES)


SECOND_SERVER = """
import sys, time
from pathlib import Path
from tasks.rounds.rounds import Rounds
from tasks.store.store import Store
from tasks.rounds.loop import ActiveLearningLoop
from tasks.segmentation.models import SINGLE, segmentation_models
from tests.tasks.rounds.test_loop import publish
folder = Path(sys.argv[1])
store = Store(folder / "store.sqlite")
registry = segmentation_models(folder / "models", store)

def run(kind, name):
    print(kind, name, flush=True)
    if kind == "train":
        revision = store.label_revision()
        sys.stdin.readline()
        publish(registry, name, revision)
    return kind == "train"

loop = ActiveLearningLoop(store, Rounds(store, 4, 60, 0), registry, 4, (SINGLE,), run)
while True:
    loop.step()
    time.sleep(0.02)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_two_servers_do_not_start_the_same_training(server, tmp_path, monkeypatch, killed):
    server.label(4)
    command = [sys.executable, "-c", SECOND_SERVER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACTIVE_LEARNING_OWNER": "the other"}
    monkeypatch.setenv("ACTIVE_LEARNING_OWNER", "this")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen(command, env=environment, **pipes)
    try:
        assert other.stdout.readline() == "train segmentation\n"
        assert server.work() == []
        if killed:
            other.kill()
            other.wait()
            assert server.work() == []  # nobody knows yet
            monkeypatch.setattr(server.loop.claims, "clock", lambda: now() + dt.timedelta(seconds=LAPSE_SECONDS + 1))
            assert server.work() == [(TRAIN, SINGLE), (SCORING, RECORDS)]
        else:
            other.stdin.write("go on\n")
            other.stdin.flush()
            assert other.stdout.readline() == "scoring records\n"
            assert TRAIN not in dict(server.work())
    finally:
        other.kill()
        other.communicate()
