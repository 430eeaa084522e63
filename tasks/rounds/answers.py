"""What readers do besides labelling: skip an image, bring it back, undo their last answer; and how far they are."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import orm

from strategies.assignment import Assignment
from tasks.rounds.reconciliation import close_finished
from tasks.rounds.rounds import Rounds, remaining_in
from tasks.store.revisions import note_labels
from tasks.store.store import serving_version
from tasks.store.tables import LABELLED, Event, Image, Lease, Record, Round, Skip

SKIPPED = "skipped"
UNDONE = "undone"
RESTORED = "restored"


class AnswerError(ValueError):
    """A skip or undo that is not possible; the message says why."""


@dataclass(frozen=True)
class Progress:
    """How far the labelling is.

    Attributes:
        total: images there are.
        labelled: images with a final label.
        skipped: images skipped and not restored.
        unreadable: unlabelled images that the last scoring pass could not use.
        mine: labels of one reader that were not undone.
        round: number of the round that the reader works in, 0 before the first image.
        remaining: images of that round that are neither labelled nor skipped.
    """

    total: int
    labelled: int
    skipped: int
    unreadable: int
    mine: int
    round: int
    remaining: int


@dataclass(frozen=True)
class Undone:
    """An answer that was taken back.

    Attributes:
        image_id: the image.
        event: what the answer was: ``labelled`` or ``skipped``.
        taken_back: name of the label that the datastore has still to remove, None if it has none.
        assignment: the image's place in its round; None if it was answered without one, or if the reader does not
            hold it any more.
    """

    image_id: str
    event: str
    taken_back: str | None
    assignment: Assignment | None


class Answers:
    """Skips, undos and progress over the same store as the rounds.

    Args:
        rounds: rounds and leases.
    """

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.store = rounds.store

    def skip(self, image_id: str, client_id: str, reason: str) -> None:
        """Take an image out of the pool until it is restored or labelled; the reader's lease ends.

        Raises:
            AnswerError: no such image, it is labelled, or somebody else holds it.
        """
        with self.store.transaction() as session:
            time = self.rounds.clock()
            image = session.get(Image, image_id)
            lease = session.get(Lease, image_id)
            if image is None or not image.present:
                raise AnswerError(f"there is no image {image_id!r}")
            if image.labelled:
                raise AnswerError(f"{image_id} is labelled already")
            if lease is not None and lease.client_id != client_id and lease.expires_at > time:
                raise AnswerError(f"{image_id} is held by {lease.client_id}")
            if session.get(Skip, image_id) is not None:
                return
            session.add(Skip(image_id=image_id, client_id=client_id, reason=reason, at=time))
            _note(session, time, SKIPPED, image_id, client_id, lease, reason=reason)
            if lease is not None:
                session.delete(lease)
            session.flush()
            close_finished(session, [image_id], time)

    def skipped(self) -> list[dict[str, str]]:
        """Skipped images with ``image``, ``client_id``, ``reason`` and ``at``, the latest first."""
        with self.store.reading() as session:
            rows = session.scalars(sa.select(Skip).order_by(Skip.at.desc(), Skip.image_id)).all()
            return [
                {
                    "image": row.image_id,
                    "client_id": row.client_id,
                    "reason": row.reason,
                    "at": f"{row.at.isoformat()}Z",
                }
                for row in rows
            ]

    def restore(self, image_id: str, client_id: str) -> None:
        """Put a skipped image back into the pool.

        Raises:
            AnswerError: it is not skipped.
        """
        with self.store.transaction() as session:
            row = session.get(Skip, image_id)
            if row is None:
                raise AnswerError(f"{image_id!r} is not skipped")
            session.delete(row)
            _note(session, self.rounds.clock(), RESTORED, image_id, client_id, None)

    def undo(self, client_id: str, undo_id: str = "") -> Undone:
        """Take back a reader's last answer: the image is unlabelled again and promised to the same reader.

        The label's file is still there afterwards. Until the datastore has removed it, the store knows that it must,
        so a kill between the two is made good.

        Args:
            client_id: the reader.
            undo_id: of the request; one that is sent again takes back nothing more.

        Raises:
            AnswerError: there is nothing to undo, somebody else has answered for the image since or holds it, or it
                is no longer there.
        """
        with self.store.transaction() as session:
            time = self.rounds.clock()
            repeated = _undo(session, client_id, undo_id)
            if repeated is not None:
                return self._undone(session, repeated.image_id, str(repeated.details["undone"]), client_id)
            event = _last(session, client_id)
            image = session.get_one(Image, event.image_id)
            holder = session.get(Lease, event.image_id)
            if not image.present:
                raise AnswerError(f"{event.image_id} is no longer there")
            if holder is not None and holder.client_id != client_id and holder.expires_at > time:
                raise AnswerError(f"{event.image_id} is held by {holder.client_id}")
            if image.labelled:
                image.labelled = False
                note_labels(session, {event.image_id: None}, given=False)
            session.execute(sa.delete(Skip).where(Skip.image_id == event.image_id))
            lease = self._lease(session, event, client_id, time)
            _note(session, time, UNDONE, event.image_id, client_id, lease, undone=event.event, undo_id=undo_id)
            session.flush()
            return self._undone(session, event.image_id, event.event, client_id)

    def _lease(self, session: orm.Session, event: Event, client_id: str, time: dt.datetime) -> Lease | None:
        """Promise the image of an answer again, in the round that it came from."""
        row = session.get(Round, event.round_id) if event.round_id is not None else None
        if row is None:
            return None
        row.closed_at, row.completed = None, False
        return session.merge(
            Lease(image_id=event.image_id, client_id=client_id, round_id=row.id, expires_at=time + self.rounds.lease)
        )

    def _undone(self, session: orm.Session, image_id: str, event: str, client_id: str) -> Undone:
        image, lease = session.get_one(Image, image_id), session.get(Lease, image_id)
        own = lease is not None and lease.client_id == client_id
        return Undone(
            image_id=image_id,
            event=event,
            taken_back=None if image.labelled else image.label_ref,
            assignment=self.rounds.assignment(session, lease) if lease is not None and own else None,
        )

    def progress(self, client_id: str) -> Progress:
        """How far the labelling is, and one reader's share."""
        with self.store.reading() as session:

            def unlabelled(among: sa.Select) -> int:
                query = sa.select(sa.func.count()).select_from(Image)
                # "IS NOT" keeps SQLite from walking the index of all unlabelled images.
                found = query.where(Image.image_id.in_(among), Image.present, Image.labelled.is_not(True))
                return session.scalar(found) or 0

            labelled = sa.func.count(sa.case((Image.labelled, 1)))
            counts = session.execute(sa.select(sa.func.count(), labelled).where(Image.present)).one()

            errors = sa.select(Record.image_id).where(
                Record.model_version == serving_version(session), Record.error.is_not(None)
            )
            labelled_by = (
                sa.select(sa.func.count(Event.image_id.distinct()))
                .where(Event.client_id == client_id, Event.event == LABELLED)
                .join(Image, Image.image_id == Event.image_id)
                .where(Image.labelled, Image.present)
            )
            latest = sa.select(Event.round_id).where(Event.client_id == client_id, Event.round_id.is_not(None))
            number = session.scalar(latest.order_by(Event.id.desc()).limit(1))
            row = session.get(Round, number) if number is not None else None
            return Progress(
                round=row.number if row else 0,
                remaining=remaining_in(session, row.id) if row else 0,
                total=counts[0],
                labelled=counts[1],
                skipped=unlabelled(sa.select(Skip.image_id)),
                unreadable=unlabelled(errors),
                mine=session.scalar(labelled_by) or 0,
            )


def _undo(session: orm.Session, client_id: str, undo_id: str) -> Event | None:
    """The undo of a reader that came with this id."""
    if not undo_id:
        return None
    own = sa.select(Event).where(Event.client_id == client_id, Event.event == UNDONE)
    return session.scalars(own.where(Event.details["undo_id"].as_string() == undo_id)).first()


def _last(session: orm.Session, client_id: str) -> Event:
    """A reader's last label or skip that was not undone yet.

    Raises:
        AnswerError: there is none, or somebody else has answered for the image since.
    """
    kinds = (LABELLED, SKIPPED, UNDONE)
    own = sa.select(Event).where(Event.client_id == client_id, Event.event.in_(kinds)).order_by(Event.id.desc())
    undone: list[str] = []
    for event in session.scalars(own):
        if event.event == UNDONE:
            undone.append(event.image_id)
        elif event.image_id in undone:
            undone.remove(event.image_id)
        else:
            break
    else:
        raise AnswerError("there is nothing to undo")
    newer = sa.select(Event).where(Event.image_id == event.image_id, Event.id > event.id)
    other = session.scalars(newer.where(Event.client_id != client_id, Event.event.in_(kinds))).first()
    if other is not None:
        raise AnswerError(f"{event.image_id} was {other.event} by {other.client_id} since")
    return event


def _note(
    session: orm.Session,
    time: dt.datetime,
    kind: str,
    image_id: str,
    client_id: str,
    lease: Lease | None,
    **details: str,
) -> None:
    session.add(
        Event(
            at=time,
            event=kind,
            image_id=image_id,
            client_id=client_id,
            round_id=lease.round_id if lease else None,
            details=details,
        )
    )
