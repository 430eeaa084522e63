"""Skips, undos and progress."""

import pytest
import sqlalchemy as sa

from strategies.catalogue import CATALOGUE
from tasks.rounds.answers import AnswerError, Answers
from tasks.rounds.reconciliation import ImageState, Label
from tasks.store.tables import Event
from tests.tasks.conftest import score
from tests.tiny import take_label

RANDOM, FIRST = CATALOGUE["random"], CATALOGUE["first"]


@pytest.fixture
def answers(rounds, pool) -> Answers:
    return Answers(rounds)


def grade(rounds, client: str, label: str = "HGG", strategy=FIRST, **details) -> str:
    image = rounds.next_image(strategy, client).image_id
    take_label(rounds, image, client, {"label": label, **details})
    return image


def events(store, kind: str) -> list[Event]:
    with store.reading() as session:
        return list(session.scalars(sa.select(Event).where(Event.event == kind).order_by(Event.id)))


def test_a_skipped_image_is_served_to_nobody_until_it_is_restored(answers, rounds, pool):
    skipped = rounds.next_image(FIRST, "ann").image_id
    answers.skip(skipped, "ann", "too blurred")
    served = {rounds.next_image(FIRST, f"reader{i}").image_id for i in range(len(pool) - 1)}
    assert served == set(pool) - {skipped}
    assert rounds.next_image(FIRST, "one more") is None
    (row,) = answers.skipped()
    assert (row["image"], row["client_id"], row["reason"]) == (skipped, "ann", "too blurred")
    answers.restore(skipped, "bob")
    assert answers.skipped() == []
    assert rounds.next_image(FIRST, "one more").image_id == skipped


def test_a_skip_sent_twice_is_one_skip(answers, rounds, store):
    image = rounds.next_image(FIRST, "ann").image_id
    for _ in range(2):
        answers.skip(image, "ann", "unsure")
    assert len(events(store, "skipped")) == 1


def test_a_label_ends_a_skip(answers, rounds, store):
    image = rounds.next_image(FIRST, "ann").image_id
    answers.skip(image, "ann", "unsure")
    take_label(rounds, image, "bob")
    assert answers.skipped() == []
    assert store.labelled_count() == 1


def test_a_round_whose_rest_is_skipped_is_complete(answers, rounds):
    for _ in range(3):
        grade(rounds, "ann")
    last = rounds.next_image(FIRST, "ann")
    assert last.remaining == 1
    answers.skip(last.image_id, "ann", "unsure")
    assert rounds.completed_since(None)


def test_images_of_others_labelled_or_unknown_cannot_be_skipped(answers, rounds):
    held = rounds.next_image(FIRST, "ann").image_id
    with pytest.raises(AnswerError, match="is held by ann"):
        answers.skip(held, "bob", "unsure")
    take_label(rounds, held, "ann")
    with pytest.raises(AnswerError, match="is labelled already"):
        answers.skip(held, "ann", "unsure")
    with pytest.raises(AnswerError, match="there is no image 'nonsense'"):
        answers.skip("nonsense", "ann", "unsure")
    with pytest.raises(AnswerError, match="is not skipped"):
        answers.restore(held, "ann")


def test_an_undone_label_gives_the_image_back_to_the_same_reader(answers, rounds, store, clock):
    first = grade(rounds, "ann")
    second = grade(rounds, "ann")
    current = rounds.next_image(FIRST, "ann").image_id
    clock.advance(1)
    again = answers.undo("ann")
    assert (again.image_id, again.assignment.rank) == (second, 2)
    assert store.image_ids(labelled=True) == [first]
    assert rounds.next_image(FIRST, "ann").image_id == second
    assert rounds.next_image(FIRST, "bob").image_id == current


def test_undo_goes_back_answer_by_answer_and_no_further(answers, rounds, store):
    images = [grade(rounds, "ann") for _ in range(2)]
    skipped = rounds.next_image(FIRST, "ann").image_id
    answers.skip(skipped, "ann", "unsure")
    undone = [answers.undo("ann").image_id for _ in range(3)]
    assert undone == [skipped, *reversed(images)]
    with pytest.raises(AnswerError, match="nothing to undo"):
        answers.undo("ann")
    assert store.labelled_count() == 0
    assert [event.details["label"] for event in events(store, "labelled")] == ["HGG", "HGG"]


def test_an_answer_given_again_after_an_undo_can_be_undone_again(answers, rounds):
    image = grade(rounds, "ann")
    answers.undo("ann")
    assert grade(rounds, "ann") == image
    assert answers.undo("ann").image_id == image
    with pytest.raises(AnswerError, match="nothing to undo"):
        answers.undo("ann")


def test_undo_reopens_a_completed_round(answers, rounds):
    images = [grade(rounds, "ann") for _ in range(4)]
    assert rounds.completed_since(None)
    assert answers.undo("ann").image_id == images[-1]
    assert not rounds.completed_since(None)


def test_an_image_that_somebody_else_has_answered_since_is_left_alone(answers, rounds):
    image = grade(rounds, "ann")
    take_label(rounds, image, "bob", {"label": "LGG"})
    with pytest.raises(AnswerError, match=f"{image} was labelled by bob since"):
        answers.undo("ann")
    with pytest.raises(AnswerError, match="nothing to undo"):
        answers.undo("eve")


def test_an_undo_after_an_expired_lease_and_a_new_model_still_works(answers, rounds, store, pool, clock):
    image = grade(rounds, "ann", strategy=CATALOGUE["dropout_variance"])
    clock.advance(500)
    score(store, pool)
    again = answers.undo("ann")
    assert again.image_id == image
    assert rounds.next_image(CATALOGUE["dropout_variance"], "ann").image_id == image


def test_an_undo_sent_again_takes_back_nothing_more(answers, rounds, store, clock):
    first, second, third = (grade(rounds, "ann") for _ in range(3))
    assert answers.undo("ann", "u1").image_id == third
    again = answers.undo("ann", "u1")
    assert (again.image_id, again.event, again.assignment.image_id) == (third, "labelled", third)
    assert store.image_ids(labelled=True) == [first, second]
    clock.advance(1)
    assert answers.undo("ann", "u2").image_id == second
    assert rounds.next_image(FIRST, "ann").image_id == second  # and gives up the third
    assert rounds.next_image(FIRST, "bob").image_id == third
    assert answers.undo("ann", "u1").assignment is None
    assert len(events(store, "undone")) == 2


def test_ids_of_undos_are_a_reader_s_own(answers, rounds, store):
    mine, theirs = grade(rounds, "ann"), grade(rounds, "bob")
    assert answers.undo("ann", "u").image_id == mine
    assert answers.undo("bob", "u").image_id == theirs
    assert store.labelled_count() == 0


def lose_label(rounds, image: str) -> None:
    """Somebody has removed the label in the datastore."""
    rounds.note([ImageState(image)])


def test_an_undo_goes_on_when_the_label_is_gone_already(answers, rounds, store):
    image = grade(rounds, "ann")
    lose_label(rounds, image)
    undone = answers.undo("ann")
    assert (undone.image_id, undone.taken_back, undone.assignment.image_id) == (image, None, image)
    assert rounds.next_image(FIRST, "ann").image_id == image


def test_an_undo_takes_no_image_from_another_reader_until_their_lease_ends(answers, rounds, clock):
    image = grade(rounds, "ann")
    lose_label(rounds, image)
    assert rounds.next_image(FIRST, "bob").image_id == image
    with pytest.raises(AnswerError, match=f"{image} is held by bob"):
        answers.undo("ann")
    assert rounds.next_image(FIRST, "bob").image_id == image
    clock.advance(31)
    assert answers.undo("ann").assignment.image_id == image
    assert rounds.next_image(FIRST, "bob").image_id != image


def test_an_undo_of_an_image_that_has_left_the_pool_is_refused(answers, rounds):
    image = grade(rounds, "ann")
    rounds.note([ImageState(image, present=False)])
    with pytest.raises(AnswerError, match=f"{image} is no longer there"):
        answers.undo("ann")


def test_a_label_that_was_taken_back_and_is_still_there_is_removed_and_not_noted_again(answers, rounds, store):
    image = rounds.next_image(FIRST, "ann").image_id
    state = ImageState(image, label=Label("r1", "ann"))
    rounds.note([state])
    assert answers.undo("ann", "u").taken_back == "r1"
    assert answers.undo("ann", "u").taken_back == "r1"  # killed before the file was removed, and asked again
    assert rounds.note([state]).taken_back == {image: "r1"}  # what the next start finds
    assert store.labelled_count() == 0
    assert len(events(store, "labelled")) == 1
    lose_label(rounds, image)
    assert answers.undo("ann", "u").taken_back is None
    rounds.note([state])  # the same label put back by hand
    assert store.labelled_count() == 1
    assert len(events(store, "labelled")) == 2


def test_an_answer_sent_twice_is_taken_once(rounds, store, pool):
    image = grade(rounds, "ann", answer_id="abc")
    take_label(rounds, image, "ann", {"label": "HGG", "answer_id": "abc"})
    assert len(events(store, "labelled")) == 1
    take_label(rounds, image, "ann", {"label": "LGG", "answer_id": "def"})
    assert len(events(store, "labelled")) == 2


def test_progress_counts_what_is_done_and_by_whom(answers, rounds, store, pool):
    score(store, pool, unreadable=(pool[-1],))
    for client in ("ann", "ann", "bob"):
        grade(rounds, client, strategy=RANDOM)
    answers.skip(rounds.next_image(FIRST, "ann").image_id, "ann", "unsure")
    now = answers.progress("ann")
    assert (now.total, now.labelled, now.skipped, now.unreadable, now.mine) == (12, 3, 1, 1, 2)
    answers.undo("ann")  # the skip
    answers.undo("ann")
    now = answers.progress("ann")
    assert (now.labelled, now.skipped, now.mine) == (2, 0, 1)
