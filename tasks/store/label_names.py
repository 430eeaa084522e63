"""Names and values of the labels: the first start writes them down, a later start with others is refused.

Names may be added at the end. A label given before then says nothing about the new name: its image counts as not
annotated for it, and may be given out again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import orm

from tasks.store.store import Store
from tasks.store.tables import Event, Image, LabelSchema, Model, now

logger = logging.getLogger(__name__)

REOPENED = "reopened"


class SchemaError(ValueError):
    """Label names that do not fit those of the store; the message says how to go on."""


class LabelNames:
    """The label names of a store.

    Args:
        store: database shared by all processes.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def declare(self, names: Sequence[str], first_value: int = 1, add: bool = False) -> None:
        """Write down the names of the first start, compare those of a later one.

        Args:
            names: in the order of their values.
            first_value: value of the first name.
            add: whether names may be added at the end.

        Raises:
            SchemaError: another order, or a name that is new, renamed or missing.
        """
        values = {name: value for value, name in enumerate(names, start=first_value)}
        with self.store.transaction() as session:
            known = _current(session)
            if known is not None and known.values == values:
                return
            if known is not None and _is_used(session):
                _check_addition(_names(known), list(names), add)
            elif known is not None:
                session.delete(known)  # nothing is labelled yet: the start before was a mistake
                session.flush()
            session.add(LabelSchema(values=values))
        logger.info("labels: %s", ", ".join(f"{name} {value}" for name, value in values.items()))

    def names(self) -> list[str]:
        """The current names, in the order of their values; empty before the first start."""
        with self.store.reading() as session:
            known = _current(session)
            return _names(known) if known is not None else []

    def first_count(self) -> int | None:
        """How many names there were at first, None before the first start."""
        with self.store.reading() as session:
            return next((len(row.values) for row in _ordered(session)), None)

    def known_names(self) -> dict[str, int]:
        """Image id -> number of names, the first ones, that its label tells of; only where these are not all."""
        with self.store.reading() as session:
            schemas = _ordered(session)
            if len(schemas) < 2:
                return {}
            counts = {row.id: len(row.values) for row in schemas}
            query = sa.select(Image.image_id, Image.label_schema).where(
                sa.or_(Image.labelled, Image.reopened),
                sa.or_(Image.label_schema.is_(None), Image.label_schema != schemas[-1].id),
            )
            first = counts[schemas[0].id]
            return {row.image_id: counts.get(row.label_schema, first) for row in session.execute(query)}

    def not_annotated(self) -> dict[str, list[str]]:
        """Name -> ids of the present images that were labelled before there was such a name, ascending."""
        known, names = self.known_names(), self.names()
        present = set(self.store.image_ids()) & known.keys()
        missing = {name: sorted(i for i in present if known[i] <= place) for place, name in enumerate(names)}
        return {name: images for name, images in missing.items() if images}

    def reopen(self, name: str, client_id: str) -> int:
        """Give the images out again that are not annotated for a name; their labels stay until new ones come.

        Returns:
            How many images were put back into the pool.

        Raises:
            SchemaError: no such name.
        """
        names = self.names()
        if name not in names:
            raise SchemaError(f"label must be one of {', '.join(names)}; got {name!r}")
        wanted = set(self.not_annotated().get(name, []))
        with self.store.transaction() as session:
            latest = _ordered(session)[-1].id
            old = sa.or_(Image.label_schema.is_(None), Image.label_schema != latest)
            found = session.scalars(sa.select(Image.image_id).where(Image.present, Image.labelled, old)).all()
            images = [image_id for image_id in found if image_id in wanted]
            rows = [{"image_id": image_id, "labelled": False, "reopened": True} for image_id in images]
            if rows:
                session.execute(sa.update(Image), rows)
            time = now()
            session.add_all(
                Event(at=time, event=REOPENED, image_id=image_id, client_id=client_id, details={"label": name})
                for image_id in images
            )
        logger.info("%d images are given out again for the label %s, asked by %s", len(images), name, client_id)
        return len(images)


def _ordered(session: orm.Session) -> Sequence[LabelSchema]:
    return session.scalars(sa.select(LabelSchema).order_by(LabelSchema.id)).all()


def _current(session: orm.Session) -> LabelSchema | None:
    return session.scalars(sa.select(LabelSchema).order_by(LabelSchema.id.desc()).limit(1)).first()


def _names(schema: LabelSchema) -> list[str]:
    return sorted(schema.values, key=lambda name: schema.values[name])


def _is_used(session: orm.Session) -> bool:
    label = sa.exists().where(sa.or_(Image.labelled, Image.reopened))
    return bool(session.scalar(sa.select(sa.or_(label, sa.exists().where(Model.id > 0)))))


def _check_addition(known: list[str], names: list[str], add: bool) -> None:
    before = ",".join(known)
    if names[: len(known)] != known:
        raise SchemaError(
            f"option labels is {','.join(names)}, but this store was labelled with {before}: order and names must "
            f'stay; start with --conf labels "{before}", or add names at its end with --conf relabel true'
        )
    if not add:
        raise SchemaError(
            f"option labels adds {','.join(names[len(known) :])} to {before}: to add it, start with --conf labels "
            f'"{",".join(names)}" --conf relabel true; images labelled so far count as not annotated for it'
        )
