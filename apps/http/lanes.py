"""Lanes: threads of their own for work that takes long, so that it cannot hold up what annotators wait for.

All other routes share the threads of Starlette's pool. Forty waiting inferences would fill it, and with it every label
and every next image would wait.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

from fastapi import HTTPException, Request
from monailabel.config import settings

LOOK_SECONDS = 0.5
"""How often it is looked whether whoever waits is still there."""
LONGEST_QUEUE = 16
"""Inferences that may wait."""
GONE = 499
"""Status in the log of a request whose client did not wait for the answer."""

T = TypeVar("T")


class Lane:
    """Runs calls in its own threads; more than some that wait are refused.

    Args:
        name: what waits, in the plural, for messages.
        threads: calls that run at once.
        longest: calls that may wait.
        seconds: what one call takes, for ``Retry-After``.
    """

    def __init__(self, name: str, threads: int, longest: int, seconds: float) -> None:
        self.name = name
        self.threads = threads
        self.longest = longest
        self.seconds = seconds
        self.waiting = 0
        self.running = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, request: Request, call: Callable[[], T]) -> T:
        """Run a call when its turn has come, unless its client has gone by then.

        Raises:
            HTTPException: 503 if too many wait already; 499 if the client has gone.
        """
        with self._lock:
            if self.waiting >= self.longest:
                raise _busy(self)
            self.waiting += 1
        turn = _Turn(self, call)
        done = asyncio.wrap_future(self._pool.submit(turn))
        try:
            while not done.done():
                await asyncio.wait([done], timeout=LOOK_SECONDS)
                if not done.done() and await request.is_disconnected() and turn.give_up():
                    raise HTTPException(GONE, "the client has gone")
        except asyncio.CancelledError:
            turn.give_up()
            raise
        return cast(T, done.result())


class Gate:
    """Lets some calls through at once; the others wait in their own threads, and more than some that wait are refused.

    For plain routes and what they call, where only a part of the work is heavy: see :class:`Lane` for the whole of it.

    Args:
        name: what waits, in the plural, for messages.
        at_once: calls that are let through.
        longest: calls that may wait; each holds a thread of the pool that all routes share.
        seconds: how long one waits at most.
    """

    def __init__(self, name: str, at_once: int, longest: int, seconds: float) -> None:
        self.name = name
        self.longest = longest
        self.seconds = seconds
        self.waiting = 0
        self._lock = threading.Lock()
        self._free = threading.Semaphore(at_once)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and keep it until the end of the block.

        Raises:
            HTTPException: 503 if too many wait already, or if it has waited too long.
        """
        if not self._free.acquire(blocking=False):
            self._wait()
        try:
            yield
        finally:
            _give_memory_back()
            self._free.release()

    def _wait(self) -> None:
        with self._lock:
            if self.waiting >= self.longest:
                raise _busy(self)
            self.waiting += 1
        try:
            if not self._free.acquire(timeout=self.seconds):
                raise _busy(self)
        finally:
            with self._lock:
                self.waiting -= 1


def _give_memory_back() -> None:
    """Return freed memory to the system: glibc keeps what a thread has freed for that thread, gigabytes after a few."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _busy(queue: Lane | Gate) -> HTTPException:
    words = f"{queue.waiting} {queue.name} wait already; try again later"
    return HTTPException(503, words, {"Retry-After": str(math.ceil(queue.seconds))})


class _Turn:
    """One call, which leaves the queue exactly once: when it starts or when nobody wants it any longer."""

    def __init__(self, lane: Lane, call: Callable[[], object]) -> None:
        self._lane = lane
        self._call = call
        self._waits = True

    def give_up(self) -> bool:
        """Do not run it; False if it runs already."""
        with self._lane._lock:
            waited, self._waits = self._waits, False
            self._lane.waiting -= waited
            return waited

    def __call__(self) -> object:
        with self._lane._lock:
            if not self._waits:
                return None
            self._waits = False
            self._lane.waiting -= 1
            self._lane.running += 1
        try:
            return self._call()
        finally:
            with self._lane._lock:
                self._lane.running -= 1


INFERENCES = Lane("inferences", max(1, settings.MONAI_LABEL_INFER_CONCURRENCY), LONGEST_QUEUE, seconds=30)
"""Runs one inference at a time, or as many as ``MONAI_LABEL_INFER_CONCURRENCY`` says."""

REQUESTS_AT_ONCE = 120
"""Threads that all other routes share; whoever waits at a gate holds one of them."""
DECODES = Gate("images and labels", at_once=2, longest=80, seconds=60)
"""Reads what was sent, or is asked for by a page: pixels take many times the bytes of their file.

The labels of as many annotators as a server can have at once may wait: one that is refused has to be sent again.
"""
