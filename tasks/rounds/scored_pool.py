"""The unlabelled pool as a query strategy sees it: arrays over the records of one model version.

The records of a completed scoring pass do not change, so they are read once and kept; what may be chosen among them is
asked for anew every time.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import orm

from strategies.catalogue import Pool, QueryStrategy
from tasks.store.store import embeddings_of
from tasks.store.tables import Image, Lease, Record, Round, RoundImage, Scoring, Skip


class Key(NamedTuple):
    """What a table of records was read for: it is read again when this changes."""

    model_version: str
    completed_at: dt.datetime | None
    records: int


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
        embeddings: ``(n, d)``, zero where a record has none.
        embedded: ``(n,)`` bool, whether it has one.
        errors: ids of the images that could not be scored.
    """

    key: Key
    image_ids: tuple[str, ...]
    scores: dict[str, np.ndarray]
    class_scores: np.ndarray
    embeddings: np.ndarray
    embedded: np.ndarray
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
        table = self.table(session, version)
        usable = table.embedded if strategy.embeddings else np.ones(len(table.image_ids), dtype=bool)
        if strategy.score is not None:
            usable = usable & ~np.isnan(table.scores.get(strategy.score, np.full(len(usable), np.nan)))
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
            annotated=table.embeddings[table.embedded & (labelled | (free & held))]
            if strategy.embeddings
            else np.zeros((0, 0)),
            held=table.scores[strategy.score][free & held] if strategy.score else np.zeros(0),
            round=round,
        )

    def everything(self, session: orm.Session, strategy: QueryStrategy, version: str, round: int = 1) -> Pool:
        """All images that may be served, without records: for a cold start, and for strategies that need none."""
        left_out = _promised(session, strategy, version)
        if version:
            left_out |= self.table(session, version).errors
        # One text instead of a row per image: the database makes it without holding up other threads.
        text = session.scalar(sa.select(sa.func.aggregate_strings(Image.image_id, _SEPARATOR)).where(*waiting()))
        found = sorted(text.split(_SEPARATOR)) if text else []
        return Pool(tuple(image_id for image_id in found if image_id not in left_out), round=round)

    def table(self, session: orm.Session, version: str) -> RecordTable:
        """The records of a model version, read again only when they have changed."""
        # Not its id: a pass that is completed again may get the same.
        completed = session.scalar(sa.select(Scoring.completed_at).where(Scoring.model_version == version))
        count = session.scalar(sa.select(sa.func.count()).select_from(Record).where(Record.model_version == version))
        with self._lock:
            wanted = Key(version, completed, count or 0)
            if self._table is None or self._table.key != wanted:
                self._table = _read(session, wanted)
            return self._table


def _promised(session: orm.Session, strategy: QueryStrategy, version: str) -> set[str]:
    """Images that annotators hold, or that are in an open round of the strategy."""
    open_images = sa.select(RoundImage.image_id).where(RoundImage.round_id.in_(open_rounds(strategy, version)))
    return {*session.scalars(sa.select(Lease.image_id)), *session.scalars(open_images)}


def _read(session: orm.Session, key: Key) -> RecordTable:
    query = (
        sa.select(
            Record.image_id,
            # As text: a chunk is decoded at once, which takes a third of the time.
            sa.cast(Record.scores, sa.Text).label("scores"),
            sa.cast(Record.class_entropies, sa.Text).label("classes"),
            Record.embedding,
            Record.error,
        )
        .where(Record.model_version == key.model_version)
        .order_by(Record.image_id)
        .execution_options(yield_per=_CHUNK)
    )
    ids: list[str] = []
    scores: list[dict[str, float]] = []
    classes: list[list[float]] = []
    vectors: list[bytes | None] = []
    errors: set[str] = set()
    for chunk in session.execute(query).partitions():
        errors.update(row.image_id for row in chunk if row.error is not None)
        rows = [row for row in chunk if row.error is None]
        ids += [row.image_id for row in rows]
        scores += _decoded(row.scores for row in rows)
        classes += [list(values.values()) for values in _decoded(row.classes for row in rows)]
        vectors += [row.embedding for row in rows]
    names = {name for values in scores for name in values}
    nothing = bytes(next((len(vector) for vector in vectors if vector), 0))
    return RecordTable(
        key=key,
        image_ids=tuple(ids),
        scores={name: np.array([values.get(name, np.nan) for values in scores], dtype=float) for name in names},
        class_scores=np.array(classes).reshape(len(ids), -1) if classes else np.zeros((0, 0)),
        embeddings=embeddings_of([vector or nothing for vector in vectors]),
        embedded=np.array([vector is not None for vector in vectors], dtype=bool),
        errors=frozenset(errors),
    )


def _decoded(texts: Iterable[str]) -> list[dict[str, float]]:
    """JSON objects."""
    found: list[dict[str, float]] = json.loads(f"[{','.join(texts)}]")
    return found
