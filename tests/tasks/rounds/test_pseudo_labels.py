"""Which images the model labels itself, and what is known of its labels."""

import pytest
import sqlalchemy as sa

from strategies.catalogue import CATALOGUE
from tasks.rounds.pseudo_labels import PseudoLabels
from tasks.rounds.rounds import Rounds
from tasks.store.store import ImageRecord, Store
from tests.tiny import sync_images, take_label

CEAL = CATALOGUE["ceal"]
IDS = [f"image{i:03d}" for i in range(100)]


@pytest.fixture
def pool(store):
    sync_images(store, dict.fromkeys(IDS, False))


def score(store: Store, version: str) -> None:
    """The scores ascend with the id."""
    for rank, image_id in enumerate(IDS):
        store.add_record(ImageRecord(image_id, version, "f", {"variance_sum": float(rank)}, {}, None))
    store.complete_scoring(version)


@pytest.fixture
def rounds(store, pool, clock) -> Rounds:
    return Rounds(store, batch_size=10, clock=clock)


@pytest.fixture
def labels(store) -> PseudoLabels:
    return PseudoLabels(store, "ceal")


def label_round(rounds: Rounds, strategy: str = "ceal") -> list:
    given = []
    for _ in range(10):
        given.append(rounds.next_image(CATALOGUE[strategy], "ann"))
        take_label(rounds, given[-1].image_id, "ann")
    return given


def make(labels: PseudoLabels) -> list[str]:
    due = labels.due()
    for pseudo in due:
        labels.made(pseudo)
    return [pseudo.image_id for pseudo in due]


def test_annotators_get_lowest_then_highest_then_confident_images_with_their_group(store, rounds, labels):
    score(store, "v1")
    given = label_round(rounds)
    assert [a.group for a in given] == ["lowest"] * 2 + ["highest"] * 2 + ["confident"] * 6
    assert [a.image_id for a in given[:4]] == ["image000", "image001", "image099", "image098"]
    due = [pseudo.image_id for pseudo in labels.due()]
    assert set(due) | {a.image_id for a in given[4:]} == set(IDS[2:13])
    assert len(due) == 5
    assert due == sorted(due)  # most confident first


def test_the_round_is_opened_once_whoever_comes_first(store, rounds, labels):
    score(store, "v1")
    rounds.open_scored(CEAL)
    due = labels.due()
    rounds.open_scored(CEAL)
    assert rounds.next_image(CEAL, "ann").round == 1
    assert labels.due() == due
    other = Rounds(store, batch_size=10)  # after a restart
    assert other.next_image(CEAL, "ann").rank == 1
    other.open_scored(CEAL)
    assert labels.due() == due


def test_without_a_scored_model_nothing_is_left_to_the_model(store, rounds, labels):
    rounds.open_scored(CEAL)
    assert labels.due() == []
    assignment = rounds.next_image(CEAL, "ann")
    assert (assignment.reason, assignment.group) == ("cold_start", None)
    assert labels.due() == []
    assert labels.current() == {}


def test_a_second_round_under_the_same_model_leaves_nothing_to_it(store, rounds, labels):
    score(store, "v1")
    rounds.open_scored(CEAL)
    due = labels.due()
    label_round(rounds)
    assert rounds.next_image(CEAL, "ann").round == 2
    assert labels.due() == due


def test_the_annotated_part_alone_leaves_nothing_to_the_model(store, rounds):
    score(store, "v1")
    given = label_round(rounds, "ceal_oracle")
    assert given[0].group == "lowest"
    assert PseudoLabels(store, "ceal_oracle").due() == []


def test_a_generation_replaces_the_one_before_when_it_is_complete(store, rounds, labels):
    score(store, "v1")
    rounds.open_scored(CEAL)
    assert labels.current() == {}
    first = make(labels)
    assert sorted(labels.current()) == sorted(first)
    label_round(rounds)
    score(store, "v2")
    assert sorted(labels.current()) == sorted(first)
    rounds.open_scored(CEAL)
    due = labels.due()
    assert len(due) == 10  # 5 times the round's number
    labels.made(due[0])
    assert sorted(labels.current()) == sorted(first)
    labels.failed(due[1], "cannot be read")
    for pseudo in due[2:]:
        labels.made(pseudo)
    assert labels.due() == []
    current = labels.current()
    assert set(current) == {pseudo.image_id for pseudo in due} - {due[1].image_id}
    assert {(p.round, p.model_version) for p in current.values()} == {(2, "v2")}


def test_an_image_that_a_person_labels_loses_its_pseudo_label_and_is_compared_once(store, rounds, labels):
    score(store, "v1")
    rounds.open_scored(CEAL)
    first, *rest = make(labels)
    assert labels.to_compare() == []
    take_label(rounds, first, "ann")
    assert sorted(labels.current()) == sorted(rest)
    (pseudo,) = labels.to_compare()
    assert pseudo.image_id == first
    labels.compared(pseudo, {"lesion": 0.8, "other": 0.6})
    assert labels.to_compare() == []
    (row,) = labels.summary()
    assert (row["made"], row["failed"], row["due"], row["compared"]) == (5, 0, 0, 1)
    assert row["dice"] == pytest.approx(0.7)
    scores = [float(name.removeprefix("image")) for name in (first, *rest)]
    assert row["scores"] == [min(scores), max(scores)]


def test_an_image_labelled_before_its_turn_is_not_due_any_more(store, rounds, labels):
    score(store, "v1")
    rounds.open_scored(CEAL)
    due = [pseudo.image_id for pseudo in labels.due()]
    take_label(rounds, due[0], "ann")
    assert [pseudo.image_id for pseudo in labels.due()] == due[1:]
    assert make(labels) == due[1:]
    assert sorted(labels.current()) == sorted(due[1:])
    assert labels.to_compare() == []


def test_a_replaced_pseudo_label_is_compared_by_its_newest_version_only(store, rounds, labels):
    score(store, "v1")
    rounds.open_scored(CEAL)
    first = make(labels)
    score(store, "v2")
    rounds.open_scored(CEAL)
    second = make(labels)
    both = next(name for name in first if name in second)
    take_label(rounds, both, "ann")
    (pseudo,) = labels.to_compare()
    assert pseudo.model_version == "v2"
    labels.compared(pseudo, {})
    assert labels.to_compare() == []
    assert [row["compared"] for row in labels.summary()] == [0, 0]


def test_a_store_of_an_earlier_version_gets_the_new_columns_and_loses_nothing(tmp_path):
    path = tmp_path / "store.sqlite"
    old = Store(path)
    sync_images(old, {"image0": True})
    old.close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO rounds VALUES (1,'random','',1,1,'cold_start','2026-01-01',NULL,0)"))
        connection.execute(sa.text("INSERT INTO round_images VALUES (1,1,'image0',NULL,NULL)"))
        connection.execute(sa.text('ALTER TABLE round_images DROP COLUMN "group"'))
        connection.execute(sa.text("DROP TABLE pseudo_labels"))
        connection.execute(sa.text("DROP TABLE alembic_version"))  # versions of then had none
    engine.dispose()
    store = Store(path)
    assert store.labelled_count() == 1
    with store.reading() as session:
        assert session.execute(sa.text('SELECT image_id, "group" FROM round_images')).all() == [("image0", None)]
    assert PseudoLabels(store, "ceal").summary() == []
    Store(path).close()
    store.close()
