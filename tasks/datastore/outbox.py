"""Sends what waits, in the background, again and again until it has arrived."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from tasks.common.files import ArchiveError

logger = logging.getLogger(__name__)

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 300.0


class Outbox:
    """One thread that sends what is waiting, oldest first.

    What waits is asked for every time, so nothing is lost with this process.

    Args:
        waiting: names of what waits, in the order to be sent.
        send: sends one; :class:`tasks.common.files.ArchiveError` means later.
        give_up: called with what can never be sent, and why.
    """

    def __init__(
        self,
        waiting: Callable[[], Sequence[str]],
        send: Callable[[str], None],
        give_up: Callable[[str, Exception], None],
    ) -> None:
        self._waiting = waiting
        self._send = send
        self._give_up = give_up
        self._wake = threading.Event()
        self._round = threading.Condition()
        self._closed = False
        threading.Thread(target=self._work, name="outbox", daemon=True).start()

    def send_soon(self) -> None:
        """There is something new: do not wait for the next try."""
        self._wake.set()

    def wait_for(self, name: str, seconds: float) -> bool:
        """Wait until something is no longer waiting; returns whether it is so."""
        end = time.monotonic() + seconds
        with self._round:
            while name in self._waiting():
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._round.wait(min(left, 0.5))
        return True

    def close(self) -> None:
        """Send no more."""
        self._closed = True
        self._wake.set()

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while not self._closed:
            arrived = self._send_all()
            with self._round:
                self._round.notify_all()
            pause = FIRST_PAUSE if arrived else min(2 * pause, LONGEST_PAUSE)
            self._wake.wait(LONGEST_PAUSE if arrived else pause)
            self._wake.clear()

    def _send_all(self) -> bool:
        """Whether all that waited has been dealt with."""
        for name in self._waiting():
            if self._closed:
                return True
            try:
                self._send(name)
            except ArchiveError as error:
                logger.warning("%s; %d labels wait to be sent", error, len(self._waiting()))
                return False
            except Exception as error:  # whatever is wrong with this one, the next must go
                self._give_up(name, error)
        return True
