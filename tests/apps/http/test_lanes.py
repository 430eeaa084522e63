"""Work that takes long has threads of its own, a bounded queue, and leaves it when nobody waits any longer."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import HTTPException

from apps.http.lanes import Gate, Lane
from tests.server import wait_for


class Client:
    """A request whose client may hang up."""

    def __init__(self) -> None:
        self.gone = False

    async def is_disconnected(self) -> bool:
        return self.gone


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_what_waits_is_bounded_and_told():
    async def play() -> None:
        lane, free = Lane("inferences", threads=1, longest=3, seconds=2.5), threading.Event()
        first = asyncio.create_task(lane.run(Client(), lambda: free.wait(60)))
        await until(lambda: lane.running == 1)
        waiting = [asyncio.create_task(lane.run(Client(), lambda number=number: number)) for number in range(3)]
        await until(lambda: lane.waiting == 3)
        with pytest.raises(HTTPException) as refused:
            await lane.run(Client(), lambda: None)
        assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "3"})
        assert refused.value.detail == "3 inferences wait already; try again later"
        free.set()
        assert await asyncio.gather(first, *waiting) == [True, 0, 1, 2]
        assert (lane.waiting, lane.running) == (0, 0)

    asyncio.run(play())


def test_who_has_gone_is_not_served_and_makes_room():
    async def play() -> None:
        lane, free, ran = Lane("inferences", threads=1, longest=2, seconds=1), threading.Event(), []
        first = asyncio.create_task(lane.run(Client(), lambda: free.wait(60)))
        await until(lambda: lane.running == 1)
        impatient, patient = Client(), Client()
        lost = asyncio.create_task(lane.run(impatient, lambda: ran.append("lost")))
        kept = asyncio.create_task(lane.run(patient, lambda: ran.append("kept")))
        await until(lambda: lane.waiting == 2)
        impatient.gone = True
        with pytest.raises(HTTPException, match="gone"):
            await lost
        assert lane.waiting == 1
        cancelled = asyncio.create_task(lane.run(Client(), lambda: ran.append("cancelled")))
        await until(lambda: lane.waiting == 2)
        cancelled.cancel()
        await until(lambda: lane.waiting == 1)
        free.set()
        await asyncio.gather(first, kept)
        assert ran == ["kept"]

    asyncio.run(play())


def test_an_error_reaches_who_asked():
    async def play() -> None:
        lane = Lane("inferences", threads=1, longest=1, seconds=1)
        with pytest.raises(ZeroDivisionError):
            await lane.run(Client(), lambda: 1 // 0)
        assert (lane.waiting, lane.running) == (0, 0)

    asyncio.run(play())


def test_a_gate_lets_two_through_and_refuses_who_would_wait_too_long_in_line():
    gate, free = Gate("images", at_once=2, longest=3, seconds=60), threading.Event()
    inside, most = [], []

    def call(number: int) -> int:
        with gate.turn():
            inside.append(number)
            most.append(len(inside))
            free.wait(60)
            inside.remove(number)
            return number

    with ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(call, number) for number in range(5)]
        wait_for(lambda: len(inside) == 2 and gate.waiting == 3, 60)
        with pytest.raises(HTTPException) as refused, gate.turn():
            pytest.fail("nobody else may wait")
        assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "60"})
        assert refused.value.detail == "3 images wait already; try again later"
        free.set()
        assert sorted(each.result() for each in calls) == [0, 1, 2, 3, 4]
    assert (max(most), gate.waiting) == (2, 0)


def test_a_gate_gives_up_waiting_and_a_failure_gives_the_place_back():
    gate = Gate("images", at_once=1, longest=3, seconds=0.05)
    with pytest.raises(ZeroDivisionError), gate.turn():
        1 / 0  # noqa: B018
    with gate.turn(), pytest.raises(HTTPException) as refused, gate.turn():
        pytest.fail("it is taken")
    assert (refused.value.status_code, gate.waiting) == (503, 0)
    with gate.turn():
        pass
