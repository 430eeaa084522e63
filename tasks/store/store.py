"""Records, rounds, leases, models and history in one database.

SQLAlchemy over any database it supports; by default one SQLite file, which several server processes and jobs read and
write at once, see :mod:`tasks.store.database`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import orm

from tasks.store import revisions
from tasks.store.database import PATIENCE_SECONDS, READ_ONLY, open_engine
from tasks.store.tables import Event, Image, Model, Record, Round, Scoring, Skip, Training, now
from tasks.store.turns import Turns
from tasks.store.upgrade import bring_up_to_date

_CHUNK = 10_000
"""Values in one query."""


@dataclass(frozen=True)
class ImageRecord:
    """One image's record as plain values.

    Attributes:
        image_id: id in the datastore.
        model_version: content hash of the checkpoints that made it.
        fingerprint: identifies the image's content, so that an unchanged image is not scored again.
        scores: acquisition name -> score.
        class_entropies: foreground class name -> entropy weighted with the class's probability.
        embedding: ``(d,)`` float32.
        error: why the image could not be scored, None if it was.
    """

    image_id: str
    model_version: str
    fingerprint: str
    scores: Mapping[str, float]
    class_entropies: Mapping[str, float]
    embedding: np.ndarray | None
    error: str | None = None


class Store:
    """The database behind an app.

    Args:
        location: path of a SQLite file (made if missing) or any SQLAlchemy URL.
        patience: seconds that a writer waits for another process that holds the database.

    Raises:
        ValueError: the database cannot be opened.
    """

    def __init__(self, location: str | Path, patience: float = PATIENCE_SECONDS) -> None:
        self.location = location
        self.patience = patience
        try:
            self.engine = open_engine(_url(location), patience)
            # Other databases have queues of their own.
            self._turn = Turns(patience).turn if self.engine.dialect.name == "sqlite" else nullcontext
            self._reader = self.engine.execution_options(**READ_ONLY)
            bring_up_to_date(self.engine)
            self.check_writable()
        except (sa.exc.SQLAlchemyError, ImportError, OSError, ValueError, TypeError) as error:
            words = str(getattr(error, "orig", None) or error).partition("\n")[0]
            raise ValueError(f"store {_shown(location)!r} cannot be opened: {words}") from error

    def __reduce__(self) -> tuple[type[Store], tuple[str | Path, float]]:
        # A training on several GPUs sends its task to new processes; each opens connections of its own.
        return Store, (self.location, self.patience)

    @contextmanager
    def transaction(self) -> Iterator[orm.Session]:
        """One atomic transaction: committed at the end, rolled back on any exception."""
        with self._turn(), orm.Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[orm.Session]:
        """A consistent view for reading, which never waits for a writer."""
        with orm.Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session

    def __str__(self) -> str:
        """Where the database is, without a password."""
        return _shown(self.location)

    def check_writable(self) -> None:
        """Raise :class:`sqlalchemy.exc.OperationalError` now where a transaction could not be written."""
        with self._turn(), self.engine.begin() as connection:
            connection.execute(sa.delete(Skip).where(sa.false()))  # SQLite begins one in a read-only file, too

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    # Images

    def noted_labels(self) -> dict[str, tuple[str, str]]:
        """Image id -> name, and size and time of the file, of the final label that was last noted."""
        known = (Image.label_ref.is_not(None), Image.label_stamp.is_not(None))
        query = sa.select(Image.image_id, Image.label_ref, Image.label_stamp).where(Image.present, *known)
        with self.reading() as session:
            return {row.image_id: (row.label_ref, row.label_stamp) for row in session.execute(query)}

    def image_ids(self, labelled: bool | None = None) -> list[str]:
        """Ids of the present images, ascending; optionally only the labelled or the unlabelled ones."""
        query = sa.select(Image.image_id).where(Image.present).order_by(Image.image_id)
        if labelled is not None:
            query = query.where(Image.labelled == labelled)
        with self.reading() as session:
            return list(session.scalars(query))

    def label_count(self) -> int:
        """Number of present images that can be trained on: labelled, or given out again with the label they have."""
        with self.reading() as session:
            has_label = sa.or_(Image.labelled, Image.reopened)
            return session.scalar(sa.select(sa.func.count()).select_from(Image).where(Image.present, has_label)) or 0

    def labelled_count(self) -> int:
        """Number of present images with a final label."""
        with self.reading() as session:
            query = sa.select(sa.func.count()).select_from(Image).where(Image.present, Image.labelled)
            return session.scalar(query) or 0

    # History

    history_columns = ("at", "event", "image_id", "client_id", "strategy", "round", "model_version", "details")

    def history(self) -> Iterator[list[tuple[Any, ...]]]:
        """Everything annotators did, oldest first: some thousand rows at a time of :attr:`history_columns`.

        No connection is held between two parts, however slowly they are taken. ``details`` is JSON.
        """
        columns = (Event.id, Event.at, Event.event, Event.image_id, Event.client_id)
        of_round = (Round.strategy, Round.number, Round.model_version)
        query = sa.select(*columns, *of_round, Event.details).join(Round, Round.id == Event.round_id, isouter=True)
        last: int | None = 0
        while last is not None:
            part = query.where(Event.id > last).order_by(Event.id).limit(_CHUNK)
            with self.reading() as session:
                rows = session.execute(part).all()
            last = rows[-1].id if rows else None
            yield [
                (
                    f"{row.at.isoformat()}Z",
                    *(row.event, row.image_id, row.client_id),
                    *(row.strategy or "", "" if row.number is None else row.number, row.model_version or ""),
                    json.dumps(row.details, sort_keys=True) if row.details else "",
                )
                for row in rows
            ]

    # Records

    def add_record(self, record: ImageRecord) -> None:
        """Write one record, replacing an older one of the same image and model version."""
        embedding = None if record.embedding is None else np.asarray(record.embedding, dtype="<f4").tobytes()
        with self.transaction() as session:
            session.merge(
                Record(
                    image_id=record.image_id,
                    model_version=record.model_version,
                    fingerprint=record.fingerprint,
                    scores=dict(record.scores),
                    class_entropies=dict(record.class_entropies),
                    embedding=embedding,
                    error=record.error,
                    created_at=now(),
                )
            )

    def fingerprints(self, model_version: str) -> dict[str, str]:
        """Image id -> fingerprint of all records of a model version, errors included."""
        with self.reading() as session:
            query = sa.select(Record.image_id, Record.fingerprint).where(Record.model_version == model_version)
            return {row.image_id: row.fingerprint for row in session.execute(query)}

    def records(self, model_version: str, image_ids: Iterable[str] | None = None) -> list[ImageRecord]:
        """Records of a model version by ascending image id, errors included."""
        query = sa.select(Record).where(Record.model_version == model_version).order_by(Record.image_id)
        if image_ids is not None:
            query = query.where(Record.image_id.in_(list(image_ids)))
        with self.reading() as session:
            return [_plain(row) for row in session.scalars(query)]

    def errors(self, model_version: str) -> dict[str, str]:
        """Image id -> reason, for the images that could not be scored."""
        query = sa.select(Record.image_id, Record.error).where(
            Record.model_version == model_version, Record.error.is_not(None)
        )
        with self.reading() as session:
            return {row.image_id: str(row.error) for row in session.execute(query)}

    def forget_records(self, model_version: str, image_ids: Sequence[str]) -> None:
        """Drop records of a model version: the images are due for scoring again."""
        with self.transaction() as session:
            session.execute(
                sa.delete(Record).where(Record.model_version == model_version, Record.image_id.in_(image_ids))
            )

    def unscored(self, model_version: str) -> int:
        """Number of present images without any record for a model version."""
        scored = sa.select(Record.image_id).where(Record.model_version == model_version)
        query = sa.select(sa.func.count()).select_from(Image).where(Image.present, Image.image_id.not_in(scored))
        with self.reading() as session:
            return session.scalar(query) or 0

    # Models and scorings

    def label_revision(self) -> int:
        """The revision of the final label that changed last."""
        with self.reading() as session:
            return revisions.latest_revision(session)

    def labels_changed_since(self, revision: int) -> int:
        """Images whose final label was given, replaced or removed after a revision."""
        with self.reading() as session:
            return revisions.changed_since(session, revision)

    def add_model(
        self,
        name: str,
        version: str,
        path: str,
        labelled_count: int,
        metrics: Mapping[str, Any] | None = None,
        training: Training | None = None,
    ) -> None:
        """Publish a checkpoint: from the commit on it is the current one of that name.

        Args:
            name: of the model.
            version: content hash of the file.
            path: file name.
            labelled_count: labels that it was trained on.
            metrics: anything worth keeping with it.
            training: how it was made, kept in the same transaction; default one that saw all labels there are.
        """
        with self.transaction() as session:
            session.add(
                Model(name=name, version=version, path=path, labelled_count=labelled_count, metrics=dict(metrics or {}))
            )
            if training is None:
                time, revision = now(), revisions.latest_revision(session)
                training = Training(name=name, started_at=time, finished_at=time, label_revision=revision)
                training.model_version = version
            session.add(training)

    def add_training(self, training: Training) -> None:
        """Note a training that has ended without publishing anything."""
        with self.transaction() as session:
            session.add(training)

    def trainings(self, name: str | None = None, limit: int | None = None) -> Sequence[Training]:
        """Trainings that have ended, the newest first; optionally of one name."""
        query = sa.select(Training).order_by(Training.id.desc()).limit(limit)
        with self.reading() as session:
            return session.scalars(query if name is None else query.where(Training.name == name)).all()

    def trained_revision(self, name: str, version: str | None = None) -> int | None:
        """The largest label revision that a successful training of a name saw, None if there was none.

        Args:
            name: of the trainer.
            version: only trainings that gave this model version.
        """
        query = sa.select(sa.func.max(Training.label_revision)).where(Training.name == name)
        wanted = Training.model_version.is_not(None) if version is None else Training.model_version == version
        with self.reading() as session:
            return session.scalar(query.where(wanted))

    def models(self, name: str, limit: int | None = None) -> Sequence[Model]:
        """Published checkpoints of a name, newest first."""
        query = sa.select(Model).where(Model.name == name).order_by(Model.id.desc()).limit(limit)
        with self.reading() as session:
            return session.scalars(query).all()

    def current_model(self, name: str) -> Model | None:
        """The newest checkpoint of a name."""
        with self.reading() as session:
            return session.scalars(
                sa.select(Model).where(Model.name == name).order_by(Model.id.desc()).limit(1)
            ).first()

    def complete_scoring(self, model_version: str) -> None:
        """Say that every image has a record for this model version: it now orders the rounds."""
        with self.transaction() as session:
            session.execute(sa.delete(Scoring).where(Scoring.model_version == model_version))
            session.add(Scoring(model_version=model_version))

    def serving_version(self) -> str:
        """The model version whose records order the rounds; empty before the first completed scoring."""
        with self.reading() as session:
            return serving_version(session)


def _url(location: str | Path) -> str:
    url = str(location)
    if "://" not in url:
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{url}"
    if sa.make_url(url).get_backend_name() == "sqlite" and sa.make_url(url).database in (None, "", ":memory:"):
        raise ValueError("jobs are processes of their own and cannot see a database in memory")
    return url


def _shown(location: str | Path) -> str:
    try:
        return sa.make_url(str(location)).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return str(location)


def serving_version(session: orm.Session) -> str:
    """The same within a transaction that is already open."""
    return session.scalar(sa.select(Scoring.model_version).order_by(Scoring.id.desc()).limit(1)) or ""


def embeddings_of(stored: Sequence[bytes]) -> np.ndarray:
    """Stored embeddings of one model version as an ``(n, d)`` float32 array."""
    return np.frombuffer(b"".join(stored), dtype="<f4").reshape(len(stored), -1) if stored else np.zeros((0, 0))


def _plain(row: Record) -> ImageRecord:
    return ImageRecord(
        image_id=row.image_id,
        model_version=row.model_version,
        fingerprint=row.fingerprint,
        scores=row.scores,
        class_entropies=row.class_entropies,
        embedding=None if row.embedding is None else embeddings_of([row.embedding])[0],
        error=row.error,
    )
