"""The index of a studies folder: which images and labels there are and what is known of each, in the store's database.

The files are the truth: what is missing in the index is found again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from monailabel.datastore.local import DataModel, ImageLabelModel
from sqlalchemy import orm

from tasks.common.strict_json import sendable
from tasks.store.store import Store
from tasks.store.tables import LABELLED, Event, Image, IndexedImage, IndexedLabel

_IMAGES, _LABELS = cast(sa.Table, IndexedImage.__table__), cast(sa.Table, IndexedLabel.__table__)
_REPLACE = {
    table: (
        sa.delete(table).where(*(key == sa.bindparam(f"old_{key.name}") for key in table.primary_key)),
        table.insert(),
    )
    for table in (_IMAGES, _LABELS)
}
"""Statements that remove rows by their keys, and add them."""
_ONE_IMAGE = (
    sa.select(IndexedLabel.tag, IndexedLabel.ext, IndexedLabel.info)
    .select_from(IndexedImage)
    .outerjoin(IndexedLabel, IndexedLabel.image_id == IndexedImage.image_id)
    .where(IndexedImage.image_id == sa.bindparam("image_id"))
)
_CHUNK = 5000
"""Rows, or values, in one statement."""


@dataclass(frozen=True)
class NotedLabel:
    """A final label that the history has a line of.

    Attributes:
        ref: its name.
        stamp: size and time of its file.
        info: what the history tells of it, and who gave it.
    """

    ref: str
    stamp: str
    info: Mapping[str, Any]


class IndexChange:
    """What is written to an index in one transaction.

    Attributes:
        session: the transaction, for what must hold together with it.
    """

    def __init__(self, session: orm.Session) -> None:
        self.session = session

    def images(self, image_ids: Collection[str]) -> dict[str, DataModel]:
        """What is noted of images, another process's changes included, by image id; without those that are unknown."""
        names, found = sorted(image_ids), {}
        columns = (IndexedImage.image_id, IndexedImage.ext, IndexedImage.info)
        for start in range(0, len(names), _CHUNK):
            query = sa.select(*columns).where(IndexedImage.image_id.in_(names[start : start + _CHUNK]))
            found.update({row.image_id: _model(row) for row in self.session.execute(query)})
        return found

    def put_images(self, images: Mapping[str, DataModel]) -> None:
        """Add or replace images."""
        self._replace(_IMAGES, [_row(model, image_id=image_id) for image_id, model in images.items()])

    def put_labels(self, labels: Mapping[tuple[str, str], DataModel]) -> None:
        """Add or replace labels by image id and tag."""
        self._replace(_LABELS, [_row(model, image_id=name, tag=tag) for (name, tag), model in labels.items()])

    def drop_image(self, image_id: str) -> None:
        """Forget an image; what is noted of its labels stays, for the day it comes back."""
        self.session.execute(sa.delete(IndexedImage).where(IndexedImage.image_id == image_id))

    def drop_label(self, image_id: str, tag: str) -> None:
        """Forget a label."""
        self.session.execute(sa.delete(IndexedLabel).where(IndexedLabel.image_id == image_id, IndexedLabel.tag == tag))

    def _replace(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        remove, insert = _REPLACE[table]
        keys = [column.name for column in table.primary_key]
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            self.session.connection().execute(remove, [{f"old_{key}": row[key] for key in keys} for row in part])
            self.session.connection().execute(insert, part)


class Index:
    """The index's tables in a store.

    Args:
        store: the database.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def load(self) -> dict[str, ImageLabelModel]:
        """Everything in the index, by image id."""
        construct = ImageLabelModel.model_construct
        with self.store.reading() as session:
            columns = (IndexedImage.image_id, IndexedImage.ext, IndexedImage.info)
            objects = {
                row.image_id: construct(image=_model(row), labels={})
                for row in session.execute(sa.select(*columns).order_by(IndexedImage.image_id))
            }
        for (image_id, tag), label in self.labels().items():
            if image_id in objects:
                objects[image_id].labels[tag] = label
        return objects

    def labels_of(self, image_id: str) -> dict[str, DataModel] | None:
        """The labels of one image by tag, another process's included; None if the image is not known."""
        with self.store.reading() as session:
            rows = session.execute(_ONE_IMAGE, {"image_id": image_id}).all()
        return {row.tag: _model(row) for row in rows if row.tag is not None} if rows else None

    def labels(self) -> dict[tuple[str, str], DataModel]:
        """All labels by image id and tag: also those of images that are gone, and what another process has noted."""
        columns = (IndexedLabel.image_id, IndexedLabel.tag, IndexedLabel.ext, IndexedLabel.info)
        with self.store.reading() as session:
            return {(row.image_id, row.tag): _model(row) for row in session.execute(sa.select(*columns))}

    def noted(self, image_ids: Collection[str]) -> dict[str, NotedLabel]:
        """The final labels that the history has a line of, by image id."""
        found: dict[str, NotedLabel] = {}
        names = sorted(image_ids)
        with self.store.reading() as session:
            for start in range(0, len(names), _CHUNK):
                wanted = names[start : start + _CHUNK]
                last = sa.select(sa.func.max(Event.id)).where(Event.event == LABELLED, Event.image_id.in_(wanted))
                events = session.scalars(sa.select(Event).where(Event.id.in_(last.group_by(Event.image_id))))
                infos = {event.image_id: {**event.details, "client_id": event.client_id} for event in events}
                named = (Image.label_ref.is_not(None), Image.label_stamp.is_not(None))
                query = sa.select(Image.image_id, Image.label_ref, Image.label_stamp)
                for row in session.execute(query.where(Image.image_id.in_(wanted), *named)):
                    info = infos.get(row.image_id, {})
                    found[row.image_id] = NotedLabel(row.label_ref, row.label_stamp, info)
        return found

    def clear(self) -> int:
        """Forget everything: the next start finds images and labels again by their files.

        Returns:
            How many images and labels it knew.
        """
        with self.store.transaction() as session:
            return sum(session.connection().execute(sa.delete(table)).rowcount for table in (_IMAGES, _LABELS))

    @contextmanager
    def change(self) -> Iterator[IndexChange]:
        """One atomic change: kept at the end, forgotten on any exception."""
        with self.store.transaction() as session:
            yield IndexChange(session)


def _row(model: DataModel, **key: str) -> dict[str, Any]:
    return {**key, "ext": model.ext, "info": model.info}


def _model(row: sa.Row[Any]) -> DataModel:
    return DataModel.model_construct(ext=row.ext, info=sendable(row.info))
