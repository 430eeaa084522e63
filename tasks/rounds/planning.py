"""Order the rest of the pool once, for a round that is not open yet."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import sqlalchemy as sa
from sqlalchemy import orm

from strategies.catalogue import QueryStrategy
from strategies.selection import CealSplit
from tasks.rounds.scored_pool import Pools
from tasks.store.store import Store, serving_version
from tasks.store.tables import Round

SCORED = "scored"
COLD_START = "cold_start"
SCORE_MISSING = "score_missing"
"""The serving models do not give the strategy's score, as without a committee that has seen the same labels."""
_NO_IMAGES = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Place:
    """An image of a round.

    Attributes:
        image_id: id in the datastore.
        score: acquisition score, None where the strategy or a cold start has none.
        group: part of the strategy's split that the image is of, None where there is no split.
    """

    image_id: str
    score: float | None
    group: str | None


@dataclass(frozen=True)
class Plan:
    """A round that is not open yet.

    Attributes:
        model_version: checkpoints that ordered it, empty in a cold start.
        number: of the round among those of its strategy, 1 first.
        reason: ``"scored"``, ``"cold_start"`` or ``"score_missing"``.
        places: images, the first to be served first.
        pseudo: image id -> score, of what the model labels itself.
        lost: images of it that were labelled since.
    """

    model_version: str
    number: int
    reason: str
    places: tuple[Place, ...]
    pseudo: Mapping[str, float]
    lost: set[str] = field(default_factory=set)

    def lose(self, image_id: str) -> None:
        """An image has been labelled."""
        if any(place.image_id == image_id for place in self.places):
            self.lost.add(image_id)

    @property
    def is_spoiled(self) -> bool:
        """Whether most of it is lost: it still serves, but should be made again."""
        return 2 * len(self.lost) > len(self.places)


class Plans(Protocol):
    """Orders pools."""

    def plan(self, strategy: QueryStrategy) -> Plan | None:
        """The strategy's next round; None if nothing is left."""


class Planner:
    """Orders pools here.

    Args:
        store: images, rounds, leases and records.
        batch_size: images per round.
        seed: makes every random order reproducible.
    """

    def __init__(self, store: Store, batch_size: int, seed: int) -> None:
        self.store = store
        self.batch_size = batch_size
        self.seed = seed
        self.pools = Pools()

    def plan(self, strategy: QueryStrategy) -> Plan | None:
        """The strategy's next round under the serving model version; None if nothing is left."""
        with self.store.reading() as session:
            return self._plan(session, strategy, serving_version(session))

    def _plan(self, session: orm.Session, strategy: QueryStrategy, version: str) -> Plan | None:
        scored_rounds = session.scalar(_count(strategy).where(Round.reason == SCORED)) or 0
        pool = self.pools.pool(session, strategy, version, scored_rounds + 1) if version else None
        reason = SCORED if pool else self._cold_reason(session, strategy, version)
        if pool is None:
            pool = self.pools.everything(session, strategy, version)
        if not pool.image_ids:
            return None
        number = next_number(session, strategy)
        rng = np.random.default_rng([self.seed, zlib.crc32(strategy.name.encode()), number])
        size = min(self.batch_size, len(pool.image_ids))
        ordered = reason == SCORED or not strategy.needs_records
        chosen = strategy.select(pool, size, rng) if ordered else rng.permutation(len(pool.image_ids))[:size]
        split = chosen if isinstance(chosen, CealSplit) else CealSplit(chosen, _NO_IMAGES)
        if not len(split.oracle):
            return None
        # The scoring job labels what the first round under a model version leaves to the model.
        pseudo = split.pseudo if strategy.pseudo_labels and not has_round(session, strategy, version) else _NO_IMAGES
        return Plan(
            model_version=version,
            number=number,
            reason=reason,
            places=tuple(
                Place(
                    image_id=pool.image_ids[index],
                    score=float(pool.scores[index]) if len(pool.scores) else None,
                    group=split.groups[place] if split.groups else None,
                )
                for place, index in enumerate(split.oracle)
            ),
            pseudo={pool.image_ids[index]: float(pool.scores[index]) for index in pseudo},
        )

    def _cold_reason(self, session: orm.Session, strategy: QueryStrategy, version: str) -> str:
        table = self.pools.table(session, version) if version and strategy.score else None
        if table is None or not table.scores or strategy.score in table.scores:
            return COLD_START
        return SCORE_MISSING


def next_number(session: orm.Session, strategy: QueryStrategy) -> int:
    """Number of the strategy's next round."""
    return (session.scalar(_count(strategy)) or 0) + 1


def _count(strategy: QueryStrategy) -> sa.Select[tuple[int]]:
    return sa.select(sa.func.count()).select_from(Round).where(Round.strategy == strategy.name)


def has_round(session: orm.Session, strategy: QueryStrategy, version: str) -> bool:
    """Whether the strategy has had a round under a model version."""
    same = sa.exists().where(Round.strategy == strategy.name, Round.model_version == version, Round.reason == SCORED)
    return bool(session.scalar(sa.select(same)))
