"""Work that takes long has threads of its own, a bounded queue, and leaves it when nobody waits any longer."""

import asyncio
import threading

import pytest
from fastapi import HTTPException

from apps.lanes import Lane


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
