"""What is due follows from the store alone."""

import datetime as dt

import pytest

from strategies.catalogue import CATALOGUE
from strategies.claims import SCORING, TRAIN
from strategies.rounds import Rounds
from strategies.store import ImageRecord
from tasks.loop import RECORDS, ActiveLearningLoop
from tasks.segmentation.models import BOOTSTRAP, SINGLE

IMAGES = [f"image{i}" for i in range(8)]


class Server:
    """Trains and scores by writing what a real job writes."""

    def __init__(self, store, registry, train_after: int = 4, trainers=(SINGLE,), batch_size: int = 4) -> None:
        self.store = store
        self.rounds = Rounds(store, batch_size, 60, 0)
        self.jobs: list[tuple[str, str]] = []
        self.failing: set[str] = set()
        self.loop = ActiveLearningLoop(store, self.rounds, registry, train_after, trainers, self.run)
        store.sync_images(dict.fromkeys(IMAGES, False))

    def run(self, kind: str, name: str) -> bool:
        self.jobs.append((kind, name))
        if name in self.failing:
            return False
        if kind == TRAIN:
            labelled = self.store.labelled_count()
            self.store.add_model(name, f"{name}-{labelled}", "file.pt", labelled, {})
        else:
            version = self.loop.registry.scoring_version()
            for image_id in IMAGES:
                self.store.add_record(ImageRecord(image_id, version, "f", {"dropout_variance": 0.5}, {}, None))
            self.store.complete_scoring(version)
        return True

    def label(self, count: int, strategy: str = "random") -> None:
        for _ in range(count):
            assignment = self.rounds.next_image(CATALOGUE[strategy], "ann")
            self.rounds.take_label(assignment.image_id, "ann")

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
    assert server.store.serving_version() == f"{SINGLE}-4"
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
    store.add_record(ImageRecord("image0", f"{SINGLE}-4", "f", {}, {}, None))
    restarted = ActiveLearningLoop(store, server.rounds, registry, 4, (SINGLE,), server.run)
    assert (restarted.next_job().kind, restarted.next_job().names) == (SCORING, (RECORDS,))


def test_new_images_are_scored(server, store):
    server.label(4)
    server.work()
    store.sync_images({**dict.fromkeys(store.image_ids(labelled=True), True), "new": False})
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
    assert store.serving_version() == f"{SINGLE}-4+{BOOTSTRAP}-4"


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
