"""What readers do besides labelling: skip an image, bring it back, undo their last answer; and how far they are."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import orm

from strategies import revisions
from strategies.rounds import Assignment, Rounds, close_finished, remaining_in
from strategies.store import Event, Image, Lease, Record, Round, Skip, serving_version

LABELLED = "labelled"
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
            close_finished(session, image_id, time)

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

    def last(self, client_id: str) -> Event:
        """A reader's last label or skip that was not undone yet.

        Raises:
            AnswerError: there is none, or somebody else has answered for the image since.
        """
        kinds = (LABELLED, SKIPPED, UNDONE)
        with self.store.reading() as session:
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

    def undo(self, client_id: str) -> Assignment | None:
        """Take back a reader's last answer: the image is unlabelled again and promised to the same reader.

        The label itself must have been removed from the datastore before.

        Returns:
            The image's place in its round; None if it was answered without one.

        Raises:
            AnswerError: see :meth:`last`.
        """
        event = self.last(client_id)
        with self.store.transaction() as session:
            time = self.rounds.clock()
            image = session.get_one(Image, event.image_id)
            if image.labelled:
                image.labelled = False
                revisions.note_labels(session, {event.image_id: None}, given=False)
            session.execute(sa.delete(Skip).where(Skip.image_id == event.image_id))
            row = session.get(Round, event.round_id) if event.round_id is not None else None
            lease = None
            if row is not None:
                row.closed_at, row.completed = None, False
                lease = session.merge(
                    Lease(
                        image_id=event.image_id,
                        client_id=client_id,
                        round_id=row.id,
                        expires_at=time + self.rounds.lease,
                    )
                )
            _note(session, time, UNDONE, event.image_id, client_id, lease)
            session.flush()
            return self.rounds.assignment(session, lease) if lease is not None else None

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
