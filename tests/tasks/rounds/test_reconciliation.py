"""The store in line with the datastore: every change has its line in the history, once."""

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from strategies.catalogue import CATALOGUE
from tasks.rounds.reconciliation import ImageState, Label
from tasks.rounds.rounds import Rounds
from tasks.store.store import Store
from tasks.store.tables import Event, Image, Lease, Round
from tests.tiny import sync_images

FIRST = CATALOGUE["first"]


def labelled(image: str, ref: str, client: str = "", **details) -> ImageState:
    return ImageState(image, label=Label(ref, client, details))


def lines(store, *kinds: str) -> list[tuple[str, str, str]]:
    kinds = kinds or ("labelled", "label_removed", "image_removed")
    with store.reading() as session:
        found = session.scalars(sa.select(Event).where(Event.event.in_(kinds)).order_by(Event.id))
        return [(event.event, event.image_id, event.client_id) for event in found]


def test_a_label_placed_while_nobody_looked_ends_the_lease_and_the_round_and_has_its_line(store, pool, clock):
    rounds = Rounds(store, batch_size=1, clock=clock)
    image = rounds.next_image(FIRST, "ann").image_id
    for _ in range(2):  # every start tells of it
        rounds.note([labelled(image, "file:1")])
    assert lines(store) == [("labelled", image, "ann")]
    with store.reading() as session:
        assert session.scalars(sa.select(Lease)).all() == []
        assert session.scalars(sa.select(Round)).one().completed
    assert rounds.completed_since(None)
    assert rounds.next_image(FIRST, "ann").image_id != image


def test_every_new_label_has_one_line_with_who_gave_it(rounds, store, pool):
    first, second = pool[:2]
    rounds.note([labelled(first, "r1", "ann"), labelled(second, "r2", "bob")])
    rounds.note([labelled(first, "r1", "ann"), labelled(first, "r3", "eve"), labelled(first, "r4", "ann")])
    rounds.note([labelled(first, "r4", "somebody who has changed what is kept with the label")])
    assert lines(store) == [
        ("labelled", first, "ann"),
        ("labelled", second, "bob"),
        ("labelled", first, "eve"),
        ("labelled", first, "ann"),
    ]


def test_removed_labels_and_images_have_a_line_and_their_return_has_none(rounds, store, pool):
    image = pool[0]
    rounds.note([labelled(image, "r1", "ann")])
    rounds.note([ImageState(image, client_id="admin")])
    rounds.note([ImageState(image)])
    rounds.note([labelled(image, "r2", "ann"), ImageState(image, present=False), ImageState(image, present=False)])
    rounds.note([labelled(image, "r2", "ann")])
    assert lines(store) == [
        ("labelled", image, "ann"),
        ("label_removed", image, "admin"),
        ("labelled", image, "ann"),
        ("image_removed", image, ""),
    ]
    assert store.image_ids(labelled=True) == [image]


def test_an_image_that_is_removed_is_no_longer_promised_and_one_without_its_label_is_free(rounds, store, pool):
    held = rounds.next_image(FIRST, "ann").image_id
    rounds.note([ImageState(held, present=False)])
    assert rounds.next_image(FIRST, "ann").image_id == pool[1]
    rounds.note([labelled(pool[1], "r1", "ann")])
    rounds.note([ImageState(pool[1])])
    assert rounds.next_image(FIRST, "bob").image_id == pool[1]


def test_labels_that_a_store_of_an_earlier_version_knows_have_no_second_line(rounds, store, pool):
    sync_images(store, {name: name == pool[0] for name in pool})  # knows no names of labels
    rounds.note([labelled(pool[0], "1700000000"), labelled(pool[1], "1700000001", "ann")])
    assert lines(store) == [("labelled", pool[1], "ann")]
    rounds.note([labelled(pool[0], "r1", "bob")])
    assert lines(store)[1:] == [("labelled", pool[0], "bob")]


def test_when_the_index_was_lost_known_labels_have_no_second_line_and_new_ones_have_their_first(rounds, store, pool):
    rounds.note([labelled(pool[0], "r1", "ann")])
    found = [ImageState(name, label=Label("file:1"), found_anew=True) for name in pool[:2]]
    rounds.note(found)
    rounds.note(found)
    assert lines(store) == [("labelled", pool[0], "ann"), ("labelled", pool[1], "")]


def test_many_labels_are_noted_at_once(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    rounds = Rounds(store)
    rounds.note([labelled(f"i{number}", f"file:{number}") for number in range(20_000)])
    assert (store.labelled_count(), len(lines(store))) == (20_000, 20_000)
    store.close()


STEPS = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["label", "unlabel", "drop", "add", "tell"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25), st.integers(0, 3))
def test_whatever_happens_and_however_often_it_is_told_the_lines_are_what_happened(steps, repeats):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"{folder}/s.sqlite")
        rounds, told = Rounds(store), []
        present: dict[str, str | None] = {"a": None, "b": None}
        happened = []
        told += [ImageState("a"), ImageState("b")]
        for number, (name, step) in enumerate(steps):
            ref = present.get(name)
            if step == "tell":
                rounds.note(told)
                told = []
            elif step == "add":
                present.setdefault(name, None)
            elif name not in present:
                continue
            elif step == "label":
                present[name] = f"r{number}"
                happened.append(("labelled", name, f"reader{number}"))
            elif step == "unlabel" and ref:
                present[name] = None
                happened.append(("label_removed", name, ""))
            elif step == "drop":
                if ref:
                    told.append(ImageState(name))
                    happened.append(("label_removed", name, ""))
                del present[name]
                happened.append(("image_removed", name, ""))
            there, ref = name in present, present.get(name)
            client = f"reader{ref[1:]}" if ref else ""
            state = ImageState(name, there, Label(ref, client) if ref else None)
            told += [state] * (repeats + 1)
        rounds.note(told)
        assert lines(store) == happened
        assert store.image_ids(labelled=True) == sorted(name for name, ref in present.items() if ref)
        assert store.image_ids() == sorted(present)
        store.close()


def test_what_is_noted_within_a_transaction_that_fails_never_was(rounds, store, pool):
    rounds.prepare(FIRST)
    plan = rounds._plans["first"]
    with store.transaction() as session:
        rounds.note_within(session, [labelled(pool[0], "r1", "ann"), ImageState(pool[1], present=False)])
        session.rollback()
    assert lines(store) == []
    assert {place.image_id for place in plan.places} >= set(pool[:2])
    assert rounds.next_image(FIRST, "ann").image_id == pool[0]
    with store.transaction() as session:
        rounds.note_within(session, [labelled(pool[0], "r1", "ann"), ImageState(pool[1], present=False)])
    assert lines(store) == [("labelled", pool[0], "ann"), ("image_removed", pool[1], "")]
    assert rounds.next_image(FIRST, "ann").image_id == pool[2]


def test_a_writer_waits_no_longer_than_it_is_told_for_a_database_that_another_holds(tmp_path):
    import sqlite3

    store = Store(tmp_path / "s.sqlite", patience=0.05)
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for call in (store.check_writable, lambda: Rounds(store).note([ImageState("a")])):
        with pytest.raises(OperationalError, match="locked"):
            call()
    assert store.image_ids() == []  # reading goes on
    other.execute("COMMIT")
    store.check_writable()
    with store.reading() as session:
        assert session.scalars(sa.select(Image)).all() == []
    store.close()
