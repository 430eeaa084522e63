"""The unlabelled pool as a query strategy sees it: arrays over the records of one model version.

The records of a completed scoring pass do not change, so they are read once and kept; what may be chosen among them is
asked for anew every time.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import orm

from strategies.catalogue import Pool, QueryStrategy
from strategies.store import Image, Lease, Record, Round, RoundImage, Scoring, Skip, embedding_of


class Key(NamedTuple):
    """What a table of records was read for: it is read again when this changes."""

    model_version: str
    completed_at: dt.datetime | None
    records: int
    embeddings: bool


_CHUNK = 2000
_SEPARATOR = "/"
"""Stands in no image id: they are file names."""


def waiting() -> tuple[sa.ColumnExpressionArgument[bool], ...]:
    """Conditions on :class:`Image` for those that can still be served."""
    # "IS NOT" keeps SQLite from walking the index of all unlabelled images to find the few that are asked for.
    return Image.present, Image.labelled.is_not(True), Image.image_id.not_in(sa.select(Skip.image_id))


def open_rounds(strategy: QueryStrategy, version: str) -> sa.Select:
    """Ids of a strategy's open rounds under a model version."""
    return sa.select(Round.id).where(
        Round.strategy == strategy.name, Round.model_version == version, Round.closed_at.is_(None)
    )


@dataclass(frozen=True)
class RecordTable:
    """The records of one model version without those of unreadable images.

    Attributes:
        key: changes when the records do.
        image_ids: ``n`` ids, ascending.
        scores: acquisition name -> ``(n,)``, NaN where a record lacks it.
        class_scores: ``(n, classes)``.
        embeddings: ``(n, d)``, ``(n, 0)`` if they were not asked for.
        errors: ids of the images that could not be scored.
    """

    key: Key
    image_ids: tuple[str, ...]
    scores: dict[str, np.ndarray]
    class_scores: np.ndarray
    embeddings: np.ndarray
    errors: frozenset[str]

    @cached_property
    def places(self) -> dict[str, int]:
        """Image id -> row."""
        return {image_id: row for row, image_id in enumerate(self.image_ids)}

    def rows(self, image_ids: Iterable[str]) -> np.ndarray:
        """``(n,)`` bool, true for the given images."""
        mask = np.zeros(len(self.image_ids), dtype=bool)
        mask[[self.places[image_id] for image_id in image_ids if image_id in self.places]] = True
        return mask


class Pools:
    """Makes pools; keeps the records of the last model version asked for."""

    def __init__(self) -> None:
        self._table: RecordTable | None = None
        self._lock = threading.Lock()

    def pool(self, session: orm.Session, strategy: QueryStrategy, version: str, round: int) -> Pool | None:
        """What the strategy may choose from.

        Args:
            session: a consistent view of the store.
            strategy: row of the catalogue.
            version: the serving model version.
            round: number of this round among the scored ones.

        Returns:
            The pool; None if the strategy works from records and no image that is left has one: a cold start.
        """
        if not strategy.needs_records:
            return self.everything(session, strategy, version, round)
        table = self.table(session, version, strategy.embeddings)
        usable = np.ones(len(table.image_ids), dtype=bool)
        if strategy.score is not None:
            usable = ~np.isnan(table.scores.get(strategy.score, np.full(len(usable), np.nan)))
        labelled = table.rows(session.scalars(sa.select(Image.image_id).where(Image.labelled)))
        hidden = table.rows(session.scalars(sa.select(Image.image_id).where(~Image.present)))
        skipped = table.rows(session.scalars(sa.select(Skip.image_id)))
        free = usable & ~labelled & ~hidden & ~skipped
        held = table.rows(_promised(session, strategy, version))
        chosen = np.flatnonzero(free & ~held)
        if not len(chosen):
            return None
        return Pool(
            image_ids=tuple(table.image_ids[row] for row in chosen),
            scores=table.scores[strategy.score][chosen] if strategy.score else np.zeros(0),
            class_scores=table.class_scores[chosen] if strategy.class_scores else np.zeros((len(chosen), 0)),
            embeddings=table.embeddings[chosen] if strategy.embeddings else np.zeros((len(chosen), 0)),
            # What annotators are working on will be labelled: as good as annotated for what should be unlike it.
            annotated=table.embeddings[labelled | (free & held)] if strategy.embeddings else np.zeros((0, 0)),
            held=table.scores[strategy.score][free & held] if strategy.score else np.zeros(0),
            round=round,
        )

    def everything(self, session: orm.Session, strategy: QueryStrategy, version: str, round: int = 1) -> Pool:
        """All images that may be served, without records: for a cold start, and for strategies that need none."""
        left_out = _promised(session, strategy, version)
        if version:
            left_out |= self.table(session, version, False).errors
        # One text instead of a row per image: the database makes it without holding up other threads.
        text = session.scalar(sa.select(sa.func.aggregate_strings(Image.image_id, _SEPARATOR)).where(*waiting()))
        found = sorted(text.split(_SEPARATOR)) if text else []
        return Pool(tuple(image_id for image_id in found if image_id not in left_out), round=round)

    def table(self, session: orm.Session, version: str, embeddings: bool) -> RecordTable:
        """The records of a model version, read again only when they have changed."""
        # Not its id: a pass that is completed again may get the same.
        completed = session.scalar(sa.select(Scoring.completed_at).where(Scoring.model_version == version))
        count = session.scalar(sa.select(sa.func.count()).select_from(Record).where(Record.model_version == version))
        with self._lock:
            table = self._table
            wanted = Key(version, completed, count or 0, embeddings)
            # A table with embeddings serves those who need none, too.
            if table is None or table.key not in (wanted, wanted._replace(embeddings=True)):
                table = self._table = _read(session, wanted)
            return table


def _promised(session: orm.Session, strategy: QueryStrategy, version: str) -> set[str]:
    """Images that annotators hold, or that are in an open round of the strategy."""
    open_images = sa.select(RoundImage.image_id).where(RoundImage.round_id.in_(open_rounds(strategy, version)))
    return {*session.scalars(sa.select(Lease.image_id)), *session.scalars(open_images)}


def _read(session: orm.Session, key: Key) -> RecordTable:
    query = sa.select(Record.image_id, Record.scores, Record.class_entropies, Record.error)
    if key.embeddings:
        query = query.add_columns(Record.embedding)
    ids: list[str] = []
    scores: list[dict[str, float]] = []
    classes: list[list[float]] = []
    vectors: list[np.ndarray] = []
    errors = set()
    rows = session.execute(
        query.where(Record.model_version == key.model_version)
        .order_by(Record.image_id)
        .execution_options(yield_per=_CHUNK)
    )
    for row in rows:
        if row.error is not None:
            errors.add(row.image_id)
            continue
        vector = embedding_of(row.embedding) if key.embeddings else None
        if key.embeddings and vector is None:
            continue
        ids.append(row.image_id)
        scores.append(row.scores)
        classes.append(list(row.class_entropies.values()))
        if vector is not None:
            vectors.append(vector)
    names = {name for values in scores for name in values}
    return RecordTable(
        key=key,
        image_ids=tuple(ids),
        scores={name: np.array([values.get(name, np.nan) for values in scores], dtype=float) for name in names},
        class_scores=np.array(classes).reshape(len(ids), -1) if classes else np.zeros((0, 0)),
        embeddings=np.array(vectors).reshape(len(ids), -1) if vectors else np.zeros((len(ids), 0)),
        errors=frozenset(errors),
    )
