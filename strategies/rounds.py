"""Open a round, lease the next image, take a label, close the round."""

from __future__ import annotations

import datetime as dt
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import orm

from strategies.catalogue import Pool, QueryStrategy
from strategies.selection import CealSplit
from strategies.store import (
    Event,
    Image,
    Lease,
    PseudoLabel,
    Record,
    Round,
    RoundImage,
    Skip,
    Store,
    embedding_of,
    now,
    serving_version,
)

logger = logging.getLogger(__name__)

SCORED = "scored"
COLD_START = "cold_start"

NO_IMAGES = np.zeros(0, dtype=np.int64)
"""No image of a pool."""


@dataclass(frozen=True)
class Assignment:
    """One image promised to one annotator.

    Attributes:
        image_id: id in the datastore.
        strategy: query strategy of the round.
        score: acquisition score, None where the strategy or a cold start has none.
        rank: place in the round, 1 first.
        round: number of the round among those of its strategy, 1 first.
        round_size: images in the round.
        remaining: images of the round not yet labelled, this one included.
        model_version: checkpoints that ordered the round, empty in a cold start.
        reason: ``"scored"`` or ``"cold_start"``.
        lease_expires: end of the promise, UTC.
        group: part of the strategy's split that the image is of, None where there is no split.
    """

    image_id: str
    strategy: str
    score: float | None
    rank: int
    round: int
    round_size: int
    remaining: int
    model_version: str
    reason: str
    lease_expires: dt.datetime
    group: str | None = None


class Rounds:
    """Rounds and leases over a store.

    Args:
        store: database shared by all processes.
        batch_size: images per round.
        lease_minutes: how long an image is promised, in minutes.
        seed: makes every random order reproducible.
        clock: current UTC time, replaceable in tests.

    Raises:
        ValueError: ``batch_size`` or ``lease_minutes`` out of range.
    """

    def __init__(
        self,
        store: Store,
        batch_size: int = 10,
        lease_minutes: float = 60,
        seed: int = 0,
        clock: Callable[[], dt.datetime] = now,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not lease_minutes > 0:
            raise ValueError(f"lease_minutes must be positive, got {lease_minutes}")
        self.store = store
        self.batch_size = batch_size
        self.lease = dt.timedelta(minutes=lease_minutes)
        self.seed = seed
        self.clock = clock

    def next_image(self, strategy: QueryStrategy, client_id: str) -> Assignment | None:
        """Lease the next image to an annotator.

        The annotator's own lease is given back (and prolonged) first. Otherwise the first image of the strategy's
        open rounds that is neither labelled, skipped nor leased; where there is none, another round is opened over
        the rest of the pool. All of it is one transaction.

        Args:
            strategy: row of the catalogue.
            client_id: the annotator.

        Returns:
            The assignment, or None if every image is labelled or held by somebody else.
        """
        with self.store.transaction() as session:
            time = self.clock()
            session.execute(sa.delete(Lease).where(Lease.expires_at <= time))
            own = self._own_lease(session, strategy, client_id)
            if own is not None:
                own.expires_at = time + self.lease
                return self.assignment(session, own)
            place = self._next_place(session, strategy)
            if place is None:
                return None
            lease = Lease(
                image_id=place.image_id, client_id=client_id, round_id=place.round_id, expires_at=time + self.lease
            )
            session.add(lease)
            session.add(
                Event(at=time, event="leased", image_id=place.image_id, client_id=client_id, round_id=place.round_id)
            )
            return self.assignment(session, lease)

    def take_label(self, image_id: str, client_id: str | None = None, details: Mapping[str, Any] | None = None) -> str:
        """Note that an image has its final label: its lease ends, and rounds with no image left are closed.

        Args:
            image_id: id in the datastore.
            client_id: the annotator; default is whoever holds the lease.
            details: anything worth keeping in the history; a repeated ``answer_id`` for the same image is
                noted once, so a client that has got no reply may send its answer again.

        Returns:
            The annotator noted in the history, empty if unknown.
        """
        with self.store.transaction() as session:
            time = self.clock()
            image = session.get(Image, image_id) or Image(image_id=image_id)
            image.labelled = True
            session.add(image)
            session.execute(sa.delete(Skip).where(Skip.image_id == image_id))
            lease = session.get(Lease, image_id)
            annotator = client_id or (lease.client_id if lease else "")
            if not _is_known(session, image_id, details or {}):
                session.add(
                    Event(
                        at=time,
                        event="labelled",
                        image_id=image_id,
                        client_id=annotator,
                        round_id=lease.round_id if lease else None,
                        details=dict(details or {}),
                    )
                )
            if lease is not None:
                session.delete(lease)
            session.flush()
            close_finished(session, image_id, time)
            return annotator

    def open_scored(self, strategy: QueryStrategy) -> None:
        """Open the strategy's first round under the serving model version, unless a request has done so already."""
        with self.store.transaction() as session:
            version, open_rounds = self._open_rounds(session, strategy)
            if version and not _has_round(session, strategy, version):
                self._open_round(session, strategy, version, open_rounds)

    def completed_since(self, time: dt.datetime | None) -> bool:
        """Whether a round was labelled to its end after ``time`` (None: ever)."""
        query = sa.select(sa.func.count()).select_from(Round).where(Round.completed)
        if time is not None:
            query = query.where(Round.closed_at > time)
        with self.store.reading() as session:
            return bool(session.scalar(query))

    def _own_lease(self, session: orm.Session, strategy: QueryStrategy, client_id: str) -> Lease | None:
        """The annotator's lease if it still fits the question; others of theirs are given up."""
        kept = None
        latest_first = sa.select(Lease).where(Lease.client_id == client_id).order_by(Lease.expires_at.desc())
        for lease in session.scalars(latest_first).all():
            image = session.get_one(Image, lease.image_id)
            fits = session.get_one(Round, lease.round_id).strategy == strategy.name
            if kept is None and fits and image.present and not image.labelled:
                kept = lease
            else:
                session.delete(lease)
        session.flush()
        return kept

    def _open_rounds(self, session: orm.Session, strategy: QueryStrategy) -> tuple[str, sa.Select]:
        """The serving model version and the strategy's open rounds under it; those of others are closed."""
        version = serving_version(session)
        session.execute(
            sa.update(Round)
            .where(Round.strategy == strategy.name, Round.closed_at.is_(None), Round.model_version != version)
            .values(closed_at=self.clock())
        )
        return version, sa.select(Round.id).where(
            Round.strategy == strategy.name, Round.model_version == version, Round.closed_at.is_(None)
        )

    def _next_place(self, session: orm.Session, strategy: QueryStrategy) -> RoundImage | None:
        version, open_rounds = self._open_rounds(session, strategy)
        free = (
            sa.select(RoundImage)
            .join(Image, Image.image_id == RoundImage.image_id)
            .where(RoundImage.round_id.in_(open_rounds), *waiting())
            .where(~sa.exists().where(Lease.image_id == RoundImage.image_id))
            .order_by(RoundImage.round_id, RoundImage.rank)
            .limit(1)
        )
        place = session.scalars(free).first()
        if place is None and self._open_round(session, strategy, version, open_rounds):
            place = session.scalars(free).first()
        return place

    def _open_round(self, session: orm.Session, strategy: QueryStrategy, version: str, open_rounds: sa.Select) -> bool:
        """Order the rest of the pool once and store its first ``batch_size`` images; False if nothing is left."""
        unreadable = sa.select(Record.image_id).where(Record.model_version == version, Record.error.is_not(None))
        rest = (
            sa.select(Image.image_id)
            .where(*waiting())
            .where(Image.image_id.not_in(sa.select(RoundImage.image_id).where(RoundImage.round_id.in_(open_rounds))))
            .where(Image.image_id.not_in(sa.select(Lease.image_id)))
            .where(Image.image_id.not_in(unreadable))
            .order_by(Image.image_id)
        )
        earlier = sa.select(Round).where(Round.strategy == strategy.name)
        rounds = session.scalars(earlier).all()
        scored_rounds = sum(row.reason == SCORED for row in rounds)
        pool = self._scored_pool(session, strategy, version, rest, scored_rounds + 1) if version else None
        reason = SCORED if pool else COLD_START
        if pool is None:
            pool = Pool(image_ids=tuple(session.scalars(rest)))
        if not pool.image_ids:
            return False
        number = len(rounds) + 1
        rng = np.random.default_rng([self.seed, zlib.crc32(strategy.name.encode()), number])
        size = min(self.batch_size, len(pool.image_ids))
        ordered = reason == SCORED or not strategy.needs_records
        chosen = strategy.select(pool, size, rng) if ordered else rng.permutation(len(pool.image_ids))[:size]
        split = chosen if isinstance(chosen, CealSplit) else CealSplit(chosen, NO_IMAGES)
        order = split.oracle
        # The scoring job labels what the first round under a model version leaves to the model.
        pseudo = split.pseudo if strategy.pseudo_labels and not _has_round(session, strategy, version) else NO_IMAGES
        row = Round(strategy=strategy.name, model_version=version, number=number, size=len(order), reason=reason)
        row.opened_at = self.clock()
        session.add(row)
        session.flush()
        session.add_all(
            RoundImage(
                round_id=row.id,
                rank=rank,
                image_id=pool.image_ids[index],
                score=float(pool.scores[index]) if len(pool.scores) else None,
                group=split.groups[rank - 1] if split.groups else None,
            )
            for rank, index in enumerate(order, start=1)
        )
        session.add_all(
            PseudoLabel(round_id=row.id, image_id=pool.image_ids[index], score=float(pool.scores[index]))
            for index in pseudo
        )
        session.flush()
        logger.info("round %d of %s: %d images, %s, model %s", number, strategy.name, size, reason, version or "none")
        if len(pseudo):
            logger.info("round %d of %s: the model labels %d images", number, strategy.name, len(pseudo))
        return True

    def _scored_pool(
        self, session: orm.Session, strategy: QueryStrategy, version: str, rest: sa.Select, round: int
    ) -> Pool | None:
        """The pool as the records of this model version describe it; None if no image has what is needed."""
        if not strategy.needs_records:
            return Pool(image_ids=tuple(session.scalars(rest)), round=round)
        query = (
            sa.select(Record)
            .where(Record.model_version == version, Record.error.is_(None), Record.image_id.in_(rest))
            .order_by(Record.image_id)
        )
        if strategy.score is not None:
            query = query.where(Record.scores[strategy.score].as_float().is_not(None))
        rows = session.scalars(query).all()
        if not rows:
            return None
        annotated: list[np.ndarray] = []
        if strategy.embeddings:
            labelled = (
                sa.select(Record)
                .join(Image, Image.image_id == Record.image_id)
                .where(Record.model_version == version, Record.error.is_(None), Image.labelled)
                .order_by(Record.image_id)
            )
            annotated = _embeddings(session.scalars(labelled))
        embeddings = np.array(_embeddings(rows)) if strategy.embeddings else np.zeros((len(rows), 0))
        return Pool(
            image_ids=tuple(row.image_id for row in rows),
            scores=np.array([row.scores[strategy.score] for row in rows] if strategy.score else []),
            class_scores=np.array([list(row.class_entropies.values()) for row in rows])
            if strategy.class_scores
            else np.zeros((len(rows), 0)),
            embeddings=embeddings,
            annotated=np.array(annotated).reshape(len(annotated), embeddings.shape[1]),
            held=np.array(self._held_scores(session, strategy.score, version, rest) if strategy.score else []),
            round=round,
        )

    def _held_scores(self, session: orm.Session, score: str, version: str, rest: sa.Select) -> list[float]:
        """Scores of the unlabelled images that are not in ``rest``."""
        value = Record.scores[score].as_float()
        query = (
            sa.select(value)
            .join(Image, Image.image_id == Record.image_id)
            .where(Record.model_version == version, value.is_not(None), *waiting(), Record.image_id.not_in(rest))
            .order_by(Record.image_id)
        )
        return list(session.scalars(query))

    def assignment(self, session: orm.Session, lease: Lease) -> Assignment:
        """The lease as its annotator sees it."""
        row = session.get_one(Round, lease.round_id)
        place = session.scalars(
            sa.select(RoundImage).where(RoundImage.round_id == row.id, RoundImage.image_id == lease.image_id)
        ).one()
        return Assignment(
            image_id=lease.image_id,
            strategy=row.strategy,
            score=place.score,
            rank=place.rank,
            round=row.number,
            round_size=row.size,
            remaining=_remaining(session, row.id),
            model_version=row.model_version,
            reason=row.reason,
            lease_expires=lease.expires_at,
            group=place.group,
        )


def waiting() -> tuple[sa.ColumnExpressionArgument[bool], ...]:
    """Conditions on :class:`Image` for those that can still be served."""
    return Image.present, ~Image.labelled, Image.image_id.not_in(sa.select(Skip.image_id))


def _has_round(session: orm.Session, strategy: QueryStrategy, version: str) -> bool:
    """Whether the strategy has had a round under a model version."""
    same = sa.exists().where(Round.strategy == strategy.name, Round.model_version == version, Round.reason == SCORED)
    return bool(session.scalar(sa.select(same)))


def close_finished(session: orm.Session, image_id: str, time: dt.datetime) -> None:
    """Close the open rounds of an image in which nothing is left to do."""
    of_image = (
        sa.select(Round)
        .join(RoundImage, RoundImage.round_id == Round.id)
        .where(RoundImage.image_id == image_id, Round.closed_at.is_(None))
    )
    for row in session.scalars(of_image).all():
        if _remaining(session, row.id) == 0:
            row.closed_at, row.completed = time, True
            logger.info("round %d of %s is complete", row.number, row.strategy)


def _is_known(session: orm.Session, image_id: str, details: Mapping[str, Any]) -> bool:
    """Whether this very answer has been taken before."""
    answer = details.get("answer_id")
    if not answer:
        return False
    same = sa.exists().where(Event.image_id == image_id, Event.details["answer_id"].as_string() == str(answer))
    return bool(session.scalar(sa.select(same)))


def _remaining(session: orm.Session, round_id: int) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(RoundImage)
        .join(Image, Image.image_id == RoundImage.image_id)
        .where(RoundImage.round_id == round_id, *waiting())
    )
    return session.scalar(query) or 0


def _embeddings(rows: Any) -> list[np.ndarray]:
    return [vector for vector in map(embedding_of, rows) if vector is not None]
