"""Every change of a final label is counted, also in stores of earlier versions."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from strategies.catalogue import CATALOGUE
from tasks.rounds.answers import Answers
from tasks.rounds.reconciliation import ImageState, Label
from tasks.rounds.rounds import Rounds
from tasks.store.label_names import LabelNames
from tasks.store.store import Store
from tasks.store.tables import Image
from tests.tiny import change_images, sync_images, take_label

STORES = Path(__file__).parent / "stores"


def changed(store: Store, revision: int) -> set[str]:
    with store.reading() as session:
        return set(session.scalars(sa.select(Image.image_id).where(Image.label_revision > revision)))


def test_given_replaced_removed_and_undone_labels_get_a_revision_and_nothing_else_does(store, pool, rounds):
    assert store.label_revision() == 0
    sync_images(store, {**dict.fromkeys(pool, False), "new": False})
    change_images(store, {"new": None, "newer": False})
    rounds.next_image(CATALOGUE["random"], "ann")
    assert store.label_revision() == 0

    steps = (
        lambda: take_label(rounds, pool[0], "ann"),
        lambda: take_label(rounds, pool[0], "bob"),
        lambda: change_images(store, {pool[1]: True}),
        lambda: change_images(store, {pool[1]: False}),
        lambda: Answers(rounds).undo("bob"),
        lambda: sync_images(store, {**dict.fromkeys(pool, False), pool[2]: True}),
        lambda: change_images(store, {pool[2]: None}),
        lambda: change_images(store, {pool[2]: True}),
    )
    for step, image_id in zip(steps, [pool[n] for n in (0, 0, 1, 1, 0, 2, 2, 2)], strict=True):
        before = store.label_revision()
        step()
        assert store.label_revision() > before
        assert changed(store, before) == {image_id}
        assert store.labels_changed_since(before) == 1
    before = store.label_revision()
    sync_images(store, {**dict.fromkeys(pool, False), pool[2]: True})
    assert store.label_revision() == before


def test_a_label_that_was_noted_is_no_change_when_it_is_told_again(store, pool, rounds):
    told = [ImageState(pool[0], label=Label("one", "ann", {}, "10:1"))]
    rounds.note(told)
    before = store.label_revision()
    assert store.noted_labels() == {pool[0]: ("one", "10:1")}
    rounds.note(told)
    assert (store.label_revision(), changed(store, before)) == (before, set())
    rounds.note([ImageState(pool[0], label=Label("file:10:2", "", {}, "10:2"))])
    assert changed(store, before) == {pool[0]}
    assert store.noted_labels() == {pool[0]: ("file:10:2", "10:2")}


def test_a_transaction_that_fails_counts_nothing(store, pool, rounds, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("tasks.rounds.reconciliation.close_finished", fail)
    with pytest.raises(OSError, match="disk full"):
        take_label(rounds, pool[0], "ann")
    assert (store.label_revision(), store.labelled_count()) == (0, 0)


@pytest.fixture(params=sorted(path.stem for path in STORES.glob("*.sql")))
def old(request, tmp_path) -> Store:
    """A store as an earlier version left it: five labels, four of which its model has seen."""
    connection = sqlite3.connect(tmp_path / "old.sqlite")
    connection.executescript((STORES / f"{request.param}.sql").read_text())
    connection.close()
    store = Store(tmp_path / "old.sqlite")
    yield store
    store.close()


def test_a_store_of_an_earlier_version_opens_and_knows_what_its_model_has_not_seen(old):
    (training,) = old.trainings("segmentation")
    assert (training.model_version, training.label_revision) == ("0123456789abcdef", 4)
    assert changed(old, training.label_revision) == {"image3"}  # the label that came last
    take_label(Rounds(old, 3), "image0", "ann")
    assert changed(old, training.label_revision) == {"image0", "image3"}
    again = Store(old.location)
    assert [row.label_revision for row in again.trainings()] == [4]
    assert changed(again, 0) == {f"image{number}" for number in (0, 1, 3, 4, 7)}
    again.close()


def test_a_store_of_an_earlier_version_takes_the_names_of_the_first_start_and_its_rounds_go_on(old):
    names = LabelNames(old)
    names.declare(["tumor"])
    names.declare(["tumor", "edema"], add=True)
    assert names.not_annotated() == {"edema": ["image0", "image1", "image3", "image4", "image7"]}
    assert Rounds(old, 3).next_image(CATALOGUE["random"], "bob").image_id == "image6"
    assert old.fingerprints(old.serving_version()).keys() == {f"image{number}" for number in range(8)}
