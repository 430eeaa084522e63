"""Writers of one process write in the order in which they came."""

import threading
import time

import pytest
from sqlalchemy.exc import OperationalError

from tasks.store.store import Store
from tasks.store.tables import Skip
from tasks.store.turns import Turns
from tests.server import wait_for


def test_turns_are_taken_in_the_order_in_which_they_were_asked_for():
    turns, order = Turns(10.0), []

    def take(number: int) -> None:
        with turns.turn():
            order.append(number)

    with turns.turn():
        threads = []
        for number in range(20):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            wait_for(lambda waiting=number + 1: len(turns._waiting) == waiting, 5)
    for thread in threads:
        thread.join()
    assert order == list(range(20))
    with turns.turn():  # nobody holds it any longer
        pass


def test_a_turn_that_does_not_come_in_time_is_given_up_and_the_others_go_on():
    turns, failed, done = Turns(0.2), [], []

    def take() -> None:
        try:
            with turns.turn():
                done.append(1)
        except OperationalError as error:
            failed.append(str(error.orig))

    threads = [threading.Thread(target=take) for _ in range(3)]
    with turns.turn():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == ["database is locked"] * 3
    take()
    assert done == [1]


def test_a_turn_ends_with_an_error():
    turns = Turns(0.1)
    with pytest.raises(ValueError, match="x"), turns.turn():
        raise ValueError("x")
    with turns.turn():
        pass


def test_nobody_who_writes_waits_for_those_who_come_later(tmp_path):
    """Each of twenty writers who never rest writes about as often as every other one."""
    store = Store(tmp_path / "store.sqlite")
    counts, end = [0] * 20, time.monotonic() + 2.0

    def write(number: int) -> None:
        while time.monotonic() < end:
            with store.transaction() as session:
                session.merge(Skip(image_id=f"{number}", client_id="ann", reason="r"))
            counts[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert max(counts) < 1.5 * min(counts), counts
