"""Open a round, lease the next image, take a label, close the round."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy import orm

from strategies.assignment import Assignment
from strategies.catalogue import QueryStrategy
from tasks.rounds.planning import SCORE_MISSING, Plan, Planner, Plans, has_round, next_number
from tasks.rounds.reconciliation import ImageState, Noted, reconcile, remaining_images
from tasks.rounds.scored_pool import waiting
from tasks.store.store import Store, serving_version
from tasks.store.tables import Event, Image, Lease, PseudoLabel, Round, RoundImage, now

logger = logging.getLogger(__name__)


# Built once: putting such queries together takes longer than the database takes to answer them.
_FREE_PLACES = (
    sa.select(RoundImage)
    .join(Round, Round.id == RoundImage.round_id)
    .where(Round.strategy == sa.bindparam("strategy"), Round.model_version == sa.bindparam("version"))
    .where(Round.closed_at.is_(None))
    .where(sa.exists().where(Image.image_id == RoundImage.image_id, *waiting()))
    .where(~sa.exists().where(Lease.image_id == RoundImage.image_id))
    .order_by(RoundImage.round_id, RoundImage.rank)
    .limit(1)
)
_ASSIGNED = (
    sa.select(Round, RoundImage, remaining_images(Round.id).label("remaining"))
    .join(RoundImage, RoundImage.round_id == Round.id)
    .where(Round.id == sa.bindparam("round_id"), RoundImage.image_id == sa.bindparam("image_id"))
)


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
        self.clock = clock
        self.planner: Plans = Planner(store, batch_size, seed)
        self._plans: dict[str, Plan] = {}
        self._planning = threading.Lock()

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
        while True:
            with self.store.transaction() as session:
                time = self.clock()
                session.execute(sa.delete(Lease).where(Lease.expires_at <= time))
                own = self._own_lease(session, strategy, client_id)
                if own is not None:
                    own.expires_at = time + self.lease
                    return self.assignment(session, own)
                version = self._serving_version(session, strategy)
                place = self._free_place(session, strategy, version)
                if place is None:
                    plan = self._plans.pop(strategy.name, None)
                    if plan is not None and self._open(session, strategy, plan):
                        place = self._free_place(session, strategy, version)
                if place is not None:
                    lease = Lease(
                        image_id=place.image_id,
                        client_id=client_id,
                        round_id=place.round_id,
                        expires_at=time + self.lease,
                    )
                    session.add(lease)
                    session.add(
                        Event(
                            at=time,
                            event="leased",
                            image_id=place.image_id,
                            client_id=client_id,
                            round_id=place.round_id,
                        )
                    )
                    return self.assignment(session, lease)
            # Ordering the pool takes long: nobody else has to wait for it.
            logger.info("%s waits until the pool is ordered by %s", client_id, strategy.name)
            if not self.prepare(strategy):
                return None

    def prepare(self, strategy: QueryStrategy) -> bool:
        """Order the pool for the strategy's next round ahead of the request that will need it.

        Returns:
            Whether there is anything left for another round.
        """
        with self._planning:
            while not self._is_current(strategy):  # a request may open the round while the next one is being ordered
                plan = self.planner.plan(strategy)
                if plan is None:
                    self._plans.pop(strategy.name, None)
                    return False
                self._plans[strategy.name] = plan
            return True

    def _is_current(self, strategy: QueryStrategy) -> bool:
        with self.store.reading() as session:
            plan = self._plans.get(strategy.name)
            return plan is not None and not plan.is_spoiled and _is_next(session, strategy, plan)

    def is_prepared(self, strategy: QueryStrategy) -> bool:
        """Whether the pool is ordered for the next round, and most of that can still be served."""
        plan = self._plans.get(strategy.name)
        return plan is not None and not plan.is_spoiled

    def forget_plans(self) -> None:
        """Another model orders the pool from now on: what was ordered ahead must be ordered anew."""
        self._plans.clear()

    def note(self, states: Sequence[ImageState]) -> Noted:
        """Bring the store in line with the datastore, in one transaction.

        Args:
            states: images as the datastore has them, in the order in which they became so.
        """
        with self.store.transaction() as session:
            return self.note_within(session, states)

    def note_within(self, session: orm.Session, states: Sequence[ImageState]) -> Noted:
        """The same as part of a transaction that changes the datastore's index too.

        Args:
            session: a writing transaction.
            states: images as the datastore has them, in the order in which they became so.
        """
        noted = reconcile(session, self.clock(), states)

        def leave_plans(_: orm.Session) -> None:
            for plan in list(self._plans.values()):
                for image_id in noted.gone:
                    plan.lose(image_id)

        sa.event.listen(session, "after_commit", leave_plans, once=True)
        return noted

    def open_scored(self, strategy: QueryStrategy) -> None:
        """Open the strategy's first round under the serving model version, unless a request has done so already."""
        with self.store.reading() as session:
            version = serving_version(session)
            if not version or has_round(session, strategy, version):
                return
        plan = self.planner.plan(strategy)
        with self.store.transaction() as session:
            version = self._serving_version(session, strategy)
            if plan is not None and not has_round(session, strategy, version):
                self._open(session, strategy, plan)

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
        held = (
            sa.select(Lease, Round.strategy, sa.and_(Image.present, ~Image.labelled).label("open"))
            .join(Round, Round.id == Lease.round_id)
            .join(Image, Image.image_id == Lease.image_id)
            .where(Lease.client_id == client_id)
            .order_by(Lease.expires_at.desc())
        )
        for lease, name, is_open in session.execute(held).all():
            if kept is None and name == strategy.name and is_open:
                kept = lease
            else:
                session.delete(lease)
        session.flush()
        return kept

    def _serving_version(self, session: orm.Session, strategy: QueryStrategy) -> str:
        """The serving model version; the strategy's open rounds under others are closed."""
        version = serving_version(session)
        session.execute(
            sa.update(Round)
            .where(Round.strategy == strategy.name, Round.closed_at.is_(None), Round.model_version != version)
            .values(closed_at=self.clock())
        )
        return version

    def _free_place(self, session: orm.Session, strategy: QueryStrategy, version: str) -> RoundImage | None:
        """The first image of the strategy's open rounds that can be served and is not leased."""
        return session.scalars(_FREE_PLACES, {"strategy": strategy.name, "version": version}).first()

    def _open(self, session: orm.Session, strategy: QueryStrategy, plan: Plan) -> bool:
        """Open the planned round with what can still be served of it; False if it has become stale."""
        if not _is_next(session, strategy, plan):
            return False
        names = [place.image_id for place in plan.places]
        left = set(
            session.scalars(
                sa.select(Image.image_id)
                .where(Image.image_id.in_(names), *waiting())
                .where(~sa.exists().where(Lease.image_id == Image.image_id))
            )
        )
        places = [place for place in plan.places if place.image_id in left]
        if not places:
            return False
        row = Round(strategy=strategy.name, model_version=plan.model_version, number=plan.number, size=len(places))
        row.reason, row.opened_at = plan.reason, self.clock()
        session.add(row)
        session.flush()
        session.add_all(
            RoundImage(round_id=row.id, rank=rank, image_id=place.image_id, score=place.score, group=place.group)
            for rank, place in enumerate(places, start=1)
        )
        session.add_all(
            PseudoLabel(round_id=row.id, image_id=image_id, score=score) for image_id, score in plan.pseudo.items()
        )
        session.flush()
        logger.info(
            "round %d of %s: %d images, %s, model %s",
            *(plan.number, strategy.name, len(places), plan.reason, plan.model_version or "none"),
        )
        if plan.reason == SCORE_MISSING:
            logger.warning(
                "%s: the serving model %s gives no %s (there is no committee, or it was trained before the model "
                "beside it): the order is random until there is one",
                *(strategy.name, plan.model_version, strategy.score),
            )
        if plan.pseudo:
            logger.info("round %d of %s: the model labels %d images", plan.number, strategy.name, len(plan.pseudo))
        return True

    def assignment(self, session: orm.Session, lease: Lease) -> Assignment:
        """The lease as its annotator sees it."""
        row, place, remaining = session.execute(
            _ASSIGNED, {"round_id": lease.round_id, "image_id": lease.image_id}
        ).one()
        return Assignment(
            image_id=lease.image_id,
            strategy=row.strategy,
            score=place.score,
            rank=place.rank,
            round=row.number,
            round_size=row.size,
            remaining=remaining,
            model_version=row.model_version,
            reason=row.reason,
            lease_expires=lease.expires_at,
            group=place.group,
        )


def _is_next(session: orm.Session, strategy: QueryStrategy, plan: Plan) -> bool:
    """Whether a plan is for the strategy's next round under the serving model version."""
    return (plan.model_version, plan.number) == (serving_version(session), next_number(session, strategy))


def remaining_in(session: orm.Session, round_id: int) -> int:
    """Images of a round that can still be served."""
    return session.scalar(sa.select(remaining_images(round_id))) or 0
