"""What the store forgets by itself, and what only a person may delete.

Records of old model versions and places of rounds that nobody was given have a bound; the history has none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy import orm

from tasks.store.claims import SCORING, is_claimed
from tasks.store.store import Store, serving_version
from tasks.store.tables import Event, Lease, PseudoLabel, Record, Round, RoundImage, now

CHUNK = 500
"""Rows deleted in one transaction: requests wait for its end."""
KEPT_GENERATIONS = 100
"""Rounds of a strategy whose pseudo-labels are kept."""


class Retention:
    """Deletes what nothing can ask for any more, a little at a time.

    Args:
        store: database shared by all processes.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def tidy(self, wanted: Collection[str] = ()) -> int:
        """Delete one chunk.

        Args:
            wanted: model versions whose records are kept besides those of the serving one.

        Returns:
            Rows deleted; 0 once nothing is left to delete.
        """
        return self._old_records(wanted) or self._unserved_places() or self._old_pseudo_labels()

    def _old_records(self, wanted: Collection[str]) -> int:
        with self.store.reading() as session:
            if _next_version(session, {*wanted, serving_version(session)}) is None:
                return 0  # the usual case must not wait for writers
        with self.store.transaction() as session:
            # A pass that is running may score a version that is not the newest any more.
            if is_claimed(session, SCORING, now()):
                return 0
            version = _next_version(session, {*wanted, serving_version(session)})
            if version is None:
                return 0
            chunk = sa.select(Record.image_id).where(Record.model_version == version).limit(CHUNK)
            return _delete(session, Record, Record.model_version == version, Record.image_id.in_(chunk))

    def _unserved_places(self) -> int:
        """Places of closed rounds that nobody was given; the others stay as long as the history names them."""
        closed = sa.select(Round.id).where(Round.closed_at.is_not(None))
        served = sa.exists().where(Event.image_id == RoundImage.image_id, Event.round_id == RoundImage.round_id)
        leased = sa.exists().where(Lease.image_id == RoundImage.image_id, Lease.round_id == RoundImage.round_id)
        unserved = sa.select(RoundImage.round_id, RoundImage.rank).where(RoundImage.round_id.in_(closed))
        query = unserved.where(~served, ~leased).limit(CHUNK)
        with self.store.reading() as session:
            if session.execute(query).first() is None:
                return 0
        with self.store.transaction() as session:
            rows = session.execute(query).all()
            for round_id, rank in rows:
                session.execute(sa.delete(RoundImage).where(RoundImage.round_id == round_id, RoundImage.rank == rank))
            return len(rows)

    def _old_pseudo_labels(self) -> int:
        with self.store.reading() as session:
            query = sa.select(PseudoLabel.round_id, Round.strategy).join(Round, Round.id == PseudoLabel.round_id)
            rounds: dict[str, list[int]] = {}
            for row in session.execute(query.distinct().order_by(PseudoLabel.round_id.desc())):
                rounds.setdefault(row.strategy, []).append(row.round_id)
        old = [round_id for found in rounds.values() for round_id in found[KEPT_GENERATIONS:]]
        if not old:
            return 0
        with self.store.transaction() as session:
            return _delete(session, PseudoLabel, PseudoLabel.round_id == old[-1])


def delete_history(store: Store, before: dt.datetime) -> int:
    """Delete the history of readers' answers before a time (UTC), a little at a time.

    Returns:
        Lines deleted.
    """
    deleted = 0
    while True:
        with store.transaction() as session:
            chunk = sa.select(Event.id).where(Event.at < before).limit(CHUNK)
            count = _delete(session, Event, Event.id.in_(chunk))
        if not count:
            return deleted
        deleted += count


def _next_version(session: orm.Session, kept: Collection[str]) -> str | None:
    """A model version that has records and is not kept."""
    last: str | None = None
    while True:
        # The primary key begins with the version: one step of its index for every version there is.
        query = sa.select(Record.model_version).order_by(Record.model_version).limit(1)
        last = session.scalar(query if last is None else query.where(Record.model_version > last))
        if last is None or last not in kept:
            return last


def _delete(session: orm.Session, table: type, *conditions: sa.ColumnElement[bool]) -> int:
    result = session.execute(sa.delete(table).where(*conditions).execution_options(synchronize_session=False))
    return int(result.rowcount)  # type: ignore[attr-defined]
