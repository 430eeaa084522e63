"""Rounds and leases: who gets which image, and what a label does."""

import multiprocessing
from pathlib import Path

import pytest
import sqlalchemy as sa

from strategies.catalogue import CATALOGUE
from tasks.rounds.rounds import Rounds
from tasks.store.store import ImageRecord, Store
from tasks.store.tables import Event
from tests.tasks.conftest import score
from tests.tiny import sync_images, take_label

VARIANCE, RANDOM, FIRST = CATALOGUE["dropout_variance"], CATALOGUE["random"], CATALOGUE["first"]


def test_cold_start_is_seeded_random_and_says_so(store, pool, rounds, clock):
    given = rounds.next_image(VARIANCE, "ann")
    assert given.reason == "cold_start"
    assert given.score is None
    assert given.model_version == ""
    assert (given.rank, given.round, given.round_size, given.remaining) == (1, 1, 4, 4)
    assert Rounds(store, 4, seed=0).next_image(VARIANCE, "ann").image_id == given.image_id


def test_a_scored_pool_is_served_in_order_of_score(store, pool, rounds):
    score(store, pool)
    served = []
    for _ in pool:
        given = rounds.next_image(VARIANCE, "ann")
        assert given.reason == "scored"
        assert given.score == pytest.approx(1 - pool.index(given.image_id) / 100)
        served.append(given.image_id)
        take_label(rounds, given.image_id, "ann")
    assert served == pool
    assert rounds.next_image(VARIANCE, "ann") is None


def test_the_same_annotator_gets_the_leased_image_back(store, pool, rounds, clock):
    first = rounds.next_image(VARIANCE, "ann")
    clock.advance(10)
    again = rounds.next_image(VARIANCE, "ann")
    assert again.image_id == first.image_id
    assert again.lease_expires > first.lease_expires


def test_two_annotators_never_hold_the_same_image(store, pool, rounds):
    held = [rounds.next_image(VARIANCE, f"reader{i}").image_id for i in range(12)]
    assert sorted(held) == pool
    assert rounds.next_image(VARIANCE, "one too many") is None


def test_an_expired_lease_goes_to_the_next_annotator(store, pool, rounds, clock):
    score(store, pool)
    first = rounds.next_image(VARIANCE, "ann").image_id
    clock.advance(29)
    assert rounds.next_image(VARIANCE, "bob").image_id != first
    clock.advance(2)
    assert rounds.next_image(VARIANCE, "eve").image_id == first


def test_another_strategy_gives_up_the_earlier_lease(store, pool, rounds):
    score(store, pool)
    first = rounds.next_image(VARIANCE, "ann").image_id
    rounds.next_image(CATALOGUE["bald"], "ann")
    assert rounds.next_image(VARIANCE, "bob").image_id == first


def test_a_label_completes_the_lease_and_the_history_tells(store, pool, rounds):
    given = rounds.next_image(VARIANCE, "ann")
    assert take_label(rounds, given.image_id) == "ann"
    assert rounds.next_image(VARIANCE, "ann").image_id != given.image_id
    with store.reading() as session:
        events = session.execute(sa.select(Event.event, Event.image_id, Event.client_id).order_by(Event.id)).all()
    assert events[:2] == [("leased", given.image_id, "ann"), ("labelled", given.image_id, "ann")]


def test_a_label_without_lease_counts(store, pool, rounds):
    take_label(rounds, "image05", "bob")
    assert store.image_ids(labelled=True) == ["image05"]


def test_a_finished_round_is_closed_and_the_next_one_opened(store, pool, rounds, clock):
    start = clock()
    clock.advance(1)
    for number in (1, 1, 1, 1, 2):
        given = rounds.next_image(VARIANCE, "ann")
        assert given.round == number
        assert rounds.completed_since(start) is (number == 2)
        take_label(rounds, given.image_id, "ann")
    assert not rounds.completed_since(clock())


def test_a_new_model_version_opens_a_new_round_but_keeps_leases(store, pool, rounds):
    score(store, pool)
    held = rounds.next_image(VARIANCE, "ann")
    score(store, pool[::-1], version="v2")
    assert rounds.next_image(VARIANCE, "ann").image_id == held.image_id
    other = rounds.next_image(VARIANCE, "bob")
    assert (other.image_id, other.model_version) == (pool[-1], "v2")


def test_a_version_that_is_still_being_scored_does_not_order_anything(store, pool, rounds):
    score(store, pool)
    for image_id in pool[:3]:
        store.add_record(
            store.records("v1", [image_id])[0].__class__(image_id, "v2", "f", {"dropout_variance": 9.0}, {}, None)
        )
    assert rounds.next_image(VARIANCE, "ann").model_version == "v1"


def test_unreadable_images_are_skipped_by_every_strategy(store, pool, rounds):
    score(store, pool, unreadable=("image03",))
    assert store.errors("v1") == {"image03": "image03.nii.gz cannot be read"}
    for strategy in (VARIANCE, RANDOM, FIRST, CATALOGUE["core_set"], CATALOGUE["bald"]):
        served = set()
        while given := rounds.next_image(strategy, f"reader{len(served)}"):
            served.add(given.image_id)
        assert "image03" not in served
        assert len(served) == 11
        for i in range(12):
            rounds.next_image(CATALOGUE["margin"], f"reader{i}")  # gives the leases up


def test_images_added_after_scoring_are_served_once_the_scored_ones_are_gone(store, pool, rounds):
    score(store, pool)
    sync_images(store, dict.fromkeys([*pool, "new"], False))
    served = []
    while given := rounds.next_image(VARIANCE, f"reader{len(served)}"):
        served.append((given.image_id, given.reason))
    assert served[-1] == ("new", "cold_start")
    assert len(served) == 13


@pytest.mark.parametrize("strategy", [FIRST, RANDOM], ids=["first", "random"])
def test_first_goes_through_the_ids_and_random_does_not(pool, rounds, strategy):
    order = [rounds.next_image(strategy, f"reader{i}").image_id for i in range(12)]
    assert sorted(order) == pool
    assert (order == pool) is (strategy is FIRST)


def test_an_image_that_left_is_not_served(store, pool, rounds):
    score(store, pool)
    held = rounds.next_image(VARIANCE, "ann").image_id
    sync_images(store, dict.fromkeys(pool[1:], False))
    assert rounds.next_image(VARIANCE, "ann").image_id != held


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"lease_minutes": 0}, {"lease_minutes": float("nan")}])
def test_options_out_of_range(store, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Rounds(store, **options)


def ask_and_label(path: Path, name: str, requests: int, queue) -> None:
    rounds = Rounds(Store(path), batch_size=10)
    taken = []
    for request in range(requests):
        given = rounds.next_image(VARIANCE, f"{name}{request % 5}")
        taken.append((f"{name}{request % 5}", given.image_id))
        take_label(rounds, given.image_id, f"{name}{request % 5}")
    queue.put(taken)


def hold(path: Path, name: str, requests: int, queue) -> None:
    rounds = Rounds(Store(path), batch_size=10)
    queue.put([(f"{name}{i}", rounds.next_image(VARIANCE, f"{name}{i}").image_id) for i in range(requests)])


@pytest.mark.slow
@pytest.mark.parametrize("work", [ask_and_label, hold])
def test_two_processes_with_500_requests_each_never_share_lose_or_skip_an_image(tmp_path, work):
    path = tmp_path / "store.sqlite"
    ids = [f"image{i:04d}" for i in range(1000)]
    sync_images(Store(path), dict.fromkeys(ids, False))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=work, args=(path, name, 500, queue)) for name in "ab"]
    for process in processes:
        process.start()
    taken = [pair for _ in processes for pair in queue.get(timeout=300)]
    for process in processes:
        process.join()
    assert sorted(image_id for _, image_id in taken) == ids
    assert Store(path).labelled_count() == (1000 if work is ask_and_label else 0)


@pytest.mark.parametrize("strategy", ["entropy_kl", "entropy_kl_band"])
def test_no_reader_and_no_later_round_gets_an_image_from_the_ends_of_the_ranking(store, clock, strategy):
    ids = [f"image{i:02d}" for i in range(40)]
    sync_images(store, dict.fromkeys(ids, False))
    for rank, image_id in enumerate(ids):
        store.add_record(ImageRecord(image_id, "v1", "f", {"entropy_kl": 1 - rank / 100}, {}, None))
    store.complete_scoring("v1")
    rounds = Rounds(store, batch_size=3, lease_minutes=30, seed=0, clock=clock)
    allowed = ids[4:36] if strategy == "entropy_kl" else ids[4:16]
    served = {rounds.next_image(CATALOGUE[strategy], f"reader{i}").image_id for i in range(len(allowed))}
    assert served == set(allowed)


def test_a_round_is_ordered_ahead_and_again_once_most_of_it_is_gone(store, pool, rounds):
    score(store, pool)
    assert rounds.prepare(VARIANCE)
    assert rounds.is_prepared(VARIANCE)
    take_label(rounds, pool[0])
    assert rounds.is_prepared(VARIANCE)
    served = rounds.next_image(VARIANCE, "ann")
    assert (served.image_id, served.round_size) == (pool[1], 3)  # what is left of the plan
    assert rounds.prepare(VARIANCE)
    for name in pool[4:7]:
        take_label(rounds, name)
    assert not rounds.is_prepared(VARIANCE)


def test_a_plan_of_an_older_model_is_not_used(store, pool, rounds):
    score(store, pool)
    rounds.prepare(VARIANCE)
    score(store, pool[::-1], "v2")
    assert rounds.next_image(VARIANCE, "ann").image_id == pool[-1]


def test_after_a_scoring_what_was_ordered_ahead_is_ordered_anew(store, pool, rounds):
    score(store, pool)
    rounds.prepare(VARIANCE)
    score(store, pool[::-1], "v2")
    rounds.forget_plans()
    assert not rounds.is_prepared(VARIANCE)
    assert rounds.prepare(VARIANCE)
    assert rounds.next_image(VARIANCE, "ann").model_version == "v2"


def test_a_spoiled_plan_serves_until_it_is_made_again(store, pool, rounds):
    score(store, pool)
    rounds.prepare(VARIANCE)
    for name in pool[:3]:
        take_label(rounds, name)
    assert not rounds.is_prepared(VARIANCE)
    served = rounds.next_image(VARIANCE, "ann")
    assert (served.image_id, served.round_size) == (pool[3], 1)


def test_images_in_other_hands_count_as_annotated_for_what_should_be_unlike_them(store, pool, rounds):
    score(store, pool)
    dissimilar = CATALOGUE["dropout_variance_dissimilar"]
    held = rounds.next_image(dissimilar, "ann")
    with store.reading() as session:
        pools = rounds.planner.pools.pool(session, dissimilar, "v1", 2)
    assert held.image_id not in pools.image_ids
    assert len(pools.annotated) == 4  # the open round


def test_a_strategy_whose_score_the_serving_models_do_not_give_says_so(store, pool, rounds, caplog):
    score(store, pool)
    assert rounds.prepare(CATALOGUE["entropy_kl"])
    assert "gives no" not in caplog.text  # nobody has asked for it yet
    given = rounds.next_image(CATALOGUE["entropy_kl"], "ann")
    assert (given.reason, given.score, given.model_version) == ("score_missing", None, "v1")
    assert "entropy_kl: the serving model v1 gives no entropy_kl" in caplog.text
    assert rounds.next_image(VARIANCE, "bob").reason == "scored"
