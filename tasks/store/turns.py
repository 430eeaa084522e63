"""Writers of one process, one after the other in the order in which they came.

SQLite lets one connection write at a time. Who has to wait sleeps up to 100 ms in its busy handler, and newcomers pass
meanwhile: with many writers some wait for seconds. Here they queue; other processes are still met in SQLite.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


class Turns:
    """A lock that is given to whoever has waited longest.

    Args:
        patience: seconds that somebody waits at most.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._mutex = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, which lasts until the end of the block.

        Raises:
            sqlalchemy.exc.OperationalError: it does not come in time; SQLite's own words.
        """
        self._take()
        try:
            yield
        finally:
            self._pass_on()

    def _take(self) -> None:
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        if mine.wait(self._patience):
            return
        with self._mutex:
            if mine.is_set():  # just now
                return
            self._waiting.remove(mine)
        raise sa.exc.OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError("database is locked"))

    def _pass_on(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False
