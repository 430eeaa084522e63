"""Work that only one of several servers on a store may do at a time."""

from __future__ import annotations

import datetime as dt
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import orm

from tasks.store.store import Store
from tasks.store.tables import Claim, now

logger = logging.getLogger(__name__)

TRAIN = "train"
SCORING = "scoring"
"""Kinds of work."""
OWNER = "ACTIVE_LEARNING_OWNER"
"""Environment variable that tells the jobs of a server whose jobs they are."""
LAPSE_SECONDS = 30.0
"""A claim that was not renewed for so long is nobody's: its server was killed."""
_RENEW_SECONDS = 5.0


def new_owner() -> str:
    """Name this server, and through its environment the jobs that it starts."""
    os.environ[OWNER] = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
    return os.environ[OWNER]


def owner() -> str:
    """Name of the server whose process or job this is."""
    return os.environ.get(OWNER) or new_owner()


class Claims:
    """The claims on a store.

    Args:
        store: database shared by all servers.
        clock: current UTC time, replaceable in tests.
    """

    def __init__(self, store: Store, clock: Callable[[], dt.datetime] = now) -> None:
        self.store = store
        self.clock = clock

    @contextmanager
    def claimed(self, work: str) -> Iterator[bool]:
        """Claim some work for as long as the block runs.

        A server's own claim may be taken again by its jobs; the outermost block gives it back.

        Yields:
            Whether it is ours; if not, another server is at it.
        """
        mine = owner()
        taken = self._take(work, mine)
        if taken is None:
            yield False
            return
        stop = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(work, mine, stop), name="claim", daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            stop.set()
            renewing.join()
            if taken:
                self._give_back(work, mine)

    def running(self, kind: str) -> list[str]:
        """Names of the work of a kind, such as :data:`TRAIN`, that some server is at."""
        with self.store.reading() as session:
            found = session.scalars(live_claims(kind, self.clock()))
            return [work.removeprefix(f"{kind}/") for work in found]

    def _take(self, work: str, mine: str) -> bool | None:
        """True if the claim is new, False if it was ours already, None if it is another server's."""
        with self.store.transaction() as session:
            time = self.clock()
            claim = session.get(Claim, work)
            if claim is not None and claim.owner != mine and claim.expires_at > time:
                return None
            ours = claim is not None and claim.owner == mine and claim.expires_at > time
            session.merge(Claim(work=work, owner=mine, expires_at=self._end(time)))
            return not ours

    def _give_back(self, work: str, mine: str) -> None:
        try:
            with self.store.transaction() as session:
                session.execute(sa.delete(Claim).where(Claim.work == work, Claim.owner == mine))
        except sa.exc.SQLAlchemyError as error:
            logger.warning("the claim on %s could not be given back, it lapses by itself: %s", work, error)

    def _renew(self, work: str, mine: str, stop: threading.Event) -> None:
        while not stop.wait(_RENEW_SECONDS):
            try:
                with self.store.transaction() as session:
                    own = sa.update(Claim).where(Claim.work == work, Claim.owner == mine)
                    session.execute(own.values(expires_at=self._end(self.clock())))
            except sa.exc.SQLAlchemyError as error:
                logger.warning("the claim on %s could not be renewed: %s", work, error)

    @staticmethod
    def _end(time: dt.datetime) -> dt.datetime:
        return time + dt.timedelta(seconds=LAPSE_SECONDS)


def live_claims(kind: str, time: dt.datetime) -> sa.Select[tuple[str]]:
    """The work of a kind that is claimed at a time, as a query."""
    return sa.select(Claim.work).where(Claim.work.startswith(f"{kind}/"), Claim.expires_at > time).order_by(Claim.work)


def is_claimed(session: orm.Session, kind: str, time: dt.datetime) -> bool:
    """Whether any work of a kind is claimed, within a transaction that is already open."""
    return session.scalars(live_claims(kind, time).limit(1)).first() is not None
