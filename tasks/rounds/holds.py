"""Background jobs that somebody has stopped: until when, and by whom. It survives a restart."""

from __future__ import annotations

import logging

import sqlalchemy as sa
from sqlalchemy import orm

from tasks.rounds.rounds import Rounds
from tasks.store.revisions import changed_since, latest_revision
from tasks.store.store import Store
from tasks.store.tables import Hold

logger = logging.getLogger(__name__)


class Holds:
    """Holds the background jobs until a round is complete, ``batch_size`` labels have changed, or it is released.

    Args:
        rounds: rounds over the store.
    """

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.store: Store = rounds.store

    def hold(self, client_id: str) -> None:
        """Start no background job for the time being."""
        with self.store.transaction() as session:
            session.execute(sa.delete(Hold))
            revision = latest_revision(session)
            session.add(Hold(client_id=client_id, at=self.rounds.clock(), label_revision=revision))
        logger.info(
            "background jobs are stopped by %s, until a round is complete, %d labels have changed or a training is "
            "started by hand",
            client_id or "an unknown user",
            self.rounds.batch_size,
        )

    def release(self, client_id: str = "") -> None:
        """Start background jobs again."""
        with self.store.transaction() as session:
            released = session.execute(sa.delete(Hold)).rowcount  # type: ignore[attr-defined]
        if released:
            logger.info("background jobs go on, by %s", client_id or "an unknown user")

    def holder(self) -> str | None:
        """Who holds the background jobs, None if nobody does (any more)."""
        with self.store.reading() as session:
            hold = session.scalars(sa.select(Hold)).first()
            if hold is None:
                return None
            why = self._lapsed(session, hold)
        if why is None:
            return hold.client_id
        with self.store.transaction() as session:
            session.execute(sa.delete(Hold).where(Hold.id == hold.id, Hold.at == hold.at))
        logger.info("background jobs, stopped by %s, go on: %s", hold.client_id or "an unknown user", why)
        return None

    def _lapsed(self, session: orm.Session, hold: Hold) -> str | None:
        if self.rounds.completed_since(hold.at):
            return "a round is complete"
        changed = changed_since(session, hold.label_revision)
        return f"{changed} labels have changed" if changed >= self.rounds.batch_size else None
