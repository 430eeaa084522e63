"""What the model labels itself: which images are due, which pseudo-labels are current, how well they were."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from tasks.rounds.planning import SCORED
from tasks.store.store import Store, serving_version
from tasks.store.tables import Image, PseudoLabel, Round, now


@dataclass(frozen=True)
class Pseudo:
    """One pseudo-label.

    Attributes:
        image_id: id in the datastore.
        round_id: row of the round whose split left the image to the model.
        round: number of that round among those of its strategy.
        model_version: checkpoints that scored and label the image.
        score: acquisition score.
    """

    image_id: str
    round_id: int
    round: int
    model_version: str
    score: float


class PseudoLabels:
    """Pseudo-labels of one strategy over a store.

    The first round under a model version leaves images to the model; together they are a generation. A generation
    becomes current, and replaces the one before, when all its images are done.

    Args:
        store: database shared by all processes.
        strategy: name of the query strategy.
    """

    def __init__(self, store: Store, strategy: str) -> None:
        self.store = store
        self.strategy = strategy

    def due(self) -> list[Pseudo]:
        """What the scoring job still has to label for the serving model version, most confident first."""
        with self.store.reading() as session:
            version = serving_version(session)
            return self._rows(session, *_DUE, Round.model_version == version) if version else []

    def made(self, pseudo: Pseudo) -> None:
        """The model has labelled an image."""
        self._set(pseudo, made_at=now())

    def failed(self, pseudo: Pseudo, why: str) -> None:
        """An image could not be labelled; it is not tried again under this model version."""
        self._set(pseudo, error=why)

    def current(self) -> dict[str, Pseudo]:
        """Image id -> pseudo-label of the newest finished generation, without images that people have labelled."""
        with self.store.reading() as session:
            generations = (
                sa.select(sa.func.min(Round.id))
                .where(Round.strategy == self.strategy, Round.reason == SCORED)
                .group_by(Round.model_version)
            )
            unfinished = (
                sa.select(PseudoLabel.round_id).join(Image, Image.image_id == PseudoLabel.image_id).where(*_DUE)
            )
            newest = session.scalar(
                sa.select(sa.func.max(Round.id)).where(Round.id.in_(generations), Round.id.not_in(unfinished))
            )
            rows = self._rows(session, PseudoLabel.round_id == newest, PseudoLabel.made_at.is_not(None), *_WANTED)
        return {row.image_id: row for row in rows}

    def to_compare(self) -> list[Pseudo]:
        """Newest pseudo-label of every image that a person has labelled since, where they were not compared yet."""
        with self.store.reading() as session:
            found = self._joined(session, PseudoLabel.made_at.is_not(None), Image.labelled)
            newest = {label.image_id: (label, row) for label, row in found}
            return [_plain(label, row) for label, row in newest.values() if label.compared_at is None]

    def compared(self, pseudo: Pseudo, dice: Mapping[str, float]) -> None:
        """A person has labelled the image: note the Dice per label, empty if it could not be told."""
        self._set(pseudo, compared_at=now(), agreement=dict(dice))

    def summary(self) -> list[dict[str, Any]]:
        """Every generation, oldest first.

        Returns:
            ``round``, ``model_version``, numbers of images ``due``, ``made`` and ``failed``, lowest and highest of
            their ``scores``, how many were ``compared`` with a person's label, and their mean ``dice`` (None
            without any).
        """
        generations: dict[int, list[tuple[PseudoLabel, Round]]] = {}
        with self.store.reading() as session:
            for label, row in self._joined(session):
                generations.setdefault(label.round_id, []).append((label, row))
        return [_summary([label for label, _ in rows], rows[0][1]) for rows in generations.values()]

    def _set(self, pseudo: Pseudo, **values: Any) -> None:
        with self.store.transaction() as session:
            session.execute(
                sa.update(PseudoLabel)
                .where(PseudoLabel.round_id == pseudo.round_id, PseudoLabel.image_id == pseudo.image_id)
                .values(**values)
            )

    def _rows(self, session: orm.Session, *conditions: Any) -> list[Pseudo]:
        return [_plain(label, row) for label, row in self._joined(session, *conditions)]

    def _joined(self, session: orm.Session, *conditions: Any) -> list[tuple[PseudoLabel, Round]]:
        query = (
            sa.select(PseudoLabel, Round)
            .join(Round, Round.id == PseudoLabel.round_id)
            .join(Image, Image.image_id == PseudoLabel.image_id)
            .where(Round.strategy == self.strategy, *conditions)
            .order_by(PseudoLabel.round_id, PseudoLabel.score, PseudoLabel.image_id)
        )
        return [(label, row) for label, row in session.execute(query)]


_WANTED = (Image.present, ~Image.labelled)
_DUE = (PseudoLabel.made_at.is_(None), PseudoLabel.error.is_(None), *_WANTED)


def _plain(label: PseudoLabel, row: Round) -> Pseudo:
    return Pseudo(label.image_id, label.round_id, row.number, row.model_version, label.score)


def _summary(labels: Sequence[PseudoLabel], row: Round) -> dict[str, Any]:
    scores = [label.score for label in labels]
    dice = [statistics.fmean(label.agreement.values()) for label in labels if label.agreement]
    made = sum(label.made_at is not None for label in labels)
    failed = sum(label.error is not None for label in labels)
    return {
        "round": row.number,
        "model_version": row.model_version,
        "due": len(labels) - made - failed,
        "made": made,
        "failed": failed,
        "scores": [min(scores), max(scores)],
        "compared": len(dice),
        "dice": statistics.fmean(dice) if dice else None,
    }
