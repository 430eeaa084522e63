"""What the datastore has told and the store has not noted yet: nothing is lost while the database cannot be written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from tasks.rounds.reconciliation import ImageState, Noted
from tasks.rounds.rounds import Rounds


class Ledger:
    """Notes changes in the order in which they were told, once the database can be written.

    Only what was told since the last start waits here; what a kill loses is told again at the next start.

    Args:
        rounds: notes them.
    """

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self._waiting: deque[ImageState] = deque()
        self._noting = threading.Lock()

    def tell(self, states: Iterable[ImageState]) -> None:
        """Add changes; whoever tells must keep others from telling of the same images meanwhile."""
        self._waiting.extend(states)

    def is_waiting(self, image_id: str) -> bool:
        """Whether a change of an image is not noted yet."""
        return any(state.image_id == image_id for state in list(self._waiting))

    def note(self) -> Noted:
        """Note all that waits.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be written; all of it waits on.
            TimeoutError: another thread has waited too long for that already.
        """
        if not self._waiting:
            return Noted()
        if not self._noting.acquire(timeout=self.rounds.store.patience):
            raise TimeoutError("the server's database is busy")
        try:
            states = list(self._waiting)
            noted = self.rounds.note(states)
            for _ in states:
                self._waiting.popleft()
            return noted
        finally:
            self._noting.release()
