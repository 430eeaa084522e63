"""What nothing can ask for any more goes, everything else stays."""

import datetime as dt

import numpy as np
import pytest
import sqlalchemy as sa

from strategies.catalogue import CATALOGUE
from tasks.rounds.answers import Answers
from tasks.rounds.pseudo_labels import PseudoLabels
from tasks.rounds.rounds import Rounds
from tasks.store.claims import Claims
from tasks.store.retention import CHUNK, Retention, delete_history
from tasks.store.store import ImageRecord
from tasks.store.tables import Event, PseudoLabel, Record, Round, RoundImage
from tests.tasks.conftest import score
from tests.tiny import history_of, sync_images, take_label

RANDOM = CATALOGUE["random"]


def count(store, table, *conditions) -> int:
    with store.reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table).where(*conditions))


def tidy(store, *wanted: str) -> list[int]:
    chunks = list(iter(lambda: Retention(store).tidy(wanted), 0))
    assert all(chunk <= CHUNK for chunk in chunks)
    return chunks


def add_records(store, version: str, images: int) -> None:
    embedding = np.zeros(512, np.float32).tobytes()
    rows = [
        {"model_version": version, "image_id": f"i{n:05}", "fingerprint": "f", "embedding": embedding}
        for n in range(images)
    ]
    with store.transaction() as session:
        session.execute(sa.insert(Record), rows)


def test_records_of_versions_that_neither_serve_nor_are_being_scored_go_in_small_chunks(store):
    for version in ("a", "b+c", "d", "e"):
        add_records(store, version, CHUNK + 1)
    store.complete_scoring("b+c")
    assert tidy(store, "d") == [CHUNK, 1, CHUNK, 1]
    with store.reading() as session:
        assert set(session.scalars(sa.select(Record.model_version).distinct())) == {"b+c", "d"}
    assert count(store, Record) == 2 * (CHUNK + 1)


def test_the_database_does_not_grow_with_the_number_of_models(store, tmp_path):
    sizes = []
    for version in "abcdef":
        add_records(store, version, 600)
        store.complete_scoring(version)
        tidy(store)
        with store.transaction() as session:
            sizes.append(session.scalar(sa.text("PRAGMA page_count")))
    assert sizes[-1] <= sizes[1] * 1.05


def test_nothing_of_the_records_goes_while_a_scoring_pass_runs(store):
    add_records(store, "older", 1)
    with Claims(store).claimed("scoring/records") as ours:
        assert ours
        assert tidy(store) == []
    assert tidy(store) == [1]


def test_places_that_nobody_was_given_go_with_their_round_and_the_last_answer_can_still_be_undone(store, pool, clock):
    rounds = Rounds(store, 4, 30, 0, clock)
    given = rounds.next_image(RANDOM, "ann")
    take_label(rounds, given.image_id, "ann")
    held = rounds.next_image(RANDOM, "bob")
    assert tidy(store) == []  # the round is open
    score(store, pool)
    rounds.next_image(RANDOM, "eve")  # closes it
    assert tidy(store) == [2]
    assert count(store, RoundImage, RoundImage.round_id == 1) == 2
    undone = Answers(rounds).undo("ann").assignment
    assert (undone.image_id, undone.round, undone.rank) == (given.image_id, 1, given.rank)
    assert held.image_id != given.image_id
    assert {row["round"] for row in history_of(store)} == {1, 2}


def test_the_pseudo_labels_of_the_newest_rounds_are_kept(store, monkeypatch):
    monkeypatch.setattr("tasks.store.retention.KEPT_GENERATIONS", 2)
    with store.transaction() as session:
        for number in range(1, 5):
            about = {"strategy": "ceal", "model_version": f"v{number}", "reason": "scored"}
            session.add(Round(id=number, number=number, size=1, **about))
            session.flush()
            session.add(PseudoLabel(round_id=number, image_id="a", score=0.5))
    sync_images(store, {"a": False})
    tidy(store)
    assert [row["round"] for row in PseudoLabels(store, "ceal").summary()] == [3, 4]


@pytest.mark.parametrize("lines", [3, CHUNK + 1])
def test_the_history_is_shortened_only_when_asked_and_only_before_the_date(store, lines):
    with store.transaction() as session:
        for number in range(lines):
            session.add(Event(at=dt.datetime(2025, 1, 1), event="labelled", image_id=f"i{number}", client_id="ann"))
        session.add(Event(at=dt.datetime(2026, 1, 1), event="labelled", image_id="new", client_id="ann"))
    store.add_record(ImageRecord("old", "v", "f", {}, {}, None))
    tidy(store)
    assert count(store, Event) == lines + 1
    assert delete_history(store, dt.datetime(2026, 1, 1)) == lines
    assert [row["image_id"] for row in history_of(store)] == ["new"]
