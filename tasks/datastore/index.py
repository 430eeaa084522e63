"""The index of a studies folder: which images and labels there are and what is known of each, in one SQLite file.

The files are the truth: a damaged index is set aside and made again from them.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from monailabel.datastore.local import DataModel, ImageLabelModel

from tasks.common.strict_json import sendable
from tasks.store.database import READ_ONLY, open_engine

logger = logging.getLogger(__name__)

_METADATA = sa.MetaData()
_IMAGES = sa.Table(
    "images",
    _METADATA,
    sa.Column("image_id", sa.String, primary_key=True),
    sa.Column("ext", sa.String, nullable=False),
    sa.Column("info", sa.JSON, nullable=False),
)
_LABELS = sa.Table(
    "labels",
    _METADATA,
    sa.Column("image_id", sa.String, primary_key=True),
    sa.Column("tag", sa.String, primary_key=True),
    sa.Column("ext", sa.String, nullable=False),
    sa.Column("info", sa.JSON, nullable=False),
)
_CHUNK = 5000


class IndexChange:
    """What is written to an index in one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def put_images(self, images: Mapping[str, DataModel]) -> None:
        """Add or replace images."""
        self._replace(_IMAGES, [_row(model, image_id=image_id) for image_id, model in images.items()])

    def put_labels(self, labels: Mapping[tuple[str, str], DataModel]) -> None:
        """Add or replace labels by image id and tag."""
        self._replace(_LABELS, [_row(model, image_id=name, tag=tag) for (name, tag), model in labels.items()])

    def drop_image(self, image_id: str) -> None:
        """Forget an image; what is noted of its labels stays, for the day it comes back."""
        self._connection.execute(sa.delete(_IMAGES).where(_IMAGES.c.image_id == image_id))

    def drop_label(self, image_id: str, tag: str) -> None:
        """Forget a label."""
        self._connection.execute(sa.delete(_LABELS).where(_LABELS.c.image_id == image_id, _LABELS.c.tag == tag))

    def _replace(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        for start in range(0, len(rows), _CHUNK):
            self._connection.execute(sa.insert(table).prefix_with("OR REPLACE"), rows[start : start + _CHUNK])


class Index:
    """The index file.

    Args:
        file: SQLite file, made if missing.
        repair: set a damaged one aside and start anew; else it is an error.
    """

    def __init__(self, file: Path, repair: bool = True) -> None:
        self.file = file
        try:
            self._engine = self._open()
        except sa.exc.DatabaseError as error:
            if not repair or not _is_damage(error):
                raise
            self._set_aside(error)
            self._engine = self._open()

    def _open(self) -> sa.Engine:
        engine = open_engine(f"sqlite:///{self.file}")
        try:
            _METADATA.create_all(engine)
            with engine.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                if found != "ok":
                    raise sa.exc.DatabaseError("PRAGMA quick_check", None, ValueError(f"malformed: {found}"))
        except Exception:
            engine.dispose()
            raise
        return engine

    def _set_aside(self, error: Exception) -> None:
        stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%S")
        aside = self.file.with_name(f"{self.file.name}.damaged-{stamp}")
        logger.error("%s is damaged (%s); it is kept as %s and made again from the files", self.file, error, aside.name)
        for ending in ("", "-wal", "-shm"):
            part = self.file.with_name(self.file.name + ending)
            if part.exists():
                part.replace(aside.with_name(aside.name + ending))

    def load(self) -> dict[str, ImageLabelModel]:
        """Everything in the index, by image id."""
        construct = ImageLabelModel.model_construct
        with self._engine.connect().execution_options(**READ_ONLY) as connection:
            objects = {
                row.image_id: construct(
                    image=DataModel.model_construct(ext=row.ext, info=sendable(row.info)), labels={}
                )
                for row in connection.execute(sa.select(_IMAGES).order_by(_IMAGES.c.image_id))
            }
        for (image_id, tag), label in self.labels().items():
            if image_id in objects:
                objects[image_id].labels[tag] = label
        return objects

    def labels(self) -> dict[tuple[str, str], DataModel]:
        """All labels by image id and tag: also those of images that are gone, and what another process has noted."""
        with self._engine.connect().execution_options(**READ_ONLY) as connection:
            return {
                (row.image_id, row.tag): DataModel.model_construct(ext=row.ext, info=sendable(row.info))
                for row in connection.execute(sa.select(_LABELS))
            }

    @contextmanager
    def change(self) -> Iterator[IndexChange]:
        """One atomic change: kept at the end, forgotten on any exception."""
        with self._engine.begin() as connection:
            yield IndexChange(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _row(model: DataModel, **key: str) -> dict[str, Any]:
    return {**key, "ext": model.ext, "info": model.info}


def _is_damage(error: sa.exc.DatabaseError) -> bool:
    return any(words in str(error) for words in ("malformed", "not a database", "encrypted"))
