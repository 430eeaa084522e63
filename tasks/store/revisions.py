"""When final labels last changed: a number that grows over the whole store with every label given, replaced or removed.

A training notes the number that it saw; every label with a larger one has changed since. Numbers are never reused:
rows of images are never deleted, and a removed label keeps the number of its removal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import orm

# Not the mapped classes: the store itself calls these functions.
_IMAGES = sa.table(
    "images",
    *(
        sa.column(name)
        for name in ("image_id", "labelled", "label_revision", "label_stamp", "label_schema", "reopened")
    ),
)
_SCHEMAS = sa.table("label_schemas", sa.column("id"))
_LATEST = sa.select(sa.func.max(_IMAGES.c.label_revision))
_SCHEMA = sa.select(sa.func.max(_SCHEMAS.c.id))
_NOTE = (
    sa.update(_IMAGES)
    .where(_IMAGES.c.image_id == sa.bindparam("image"))
    .values(
        label_revision=sa.bindparam("revision"),
        label_stamp=sa.bindparam("stamp"),
        label_schema=sa.bindparam("schema"),
        reopened=sa.false(),
    )
)


def latest_revision(session: orm.Session | sa.Connection) -> int:
    """The revision of the label that changed last, 0 before the first."""
    return session.scalar(_LATEST) or 0


def note_labels(session: orm.Session, labels: Mapping[str, str | None], given: bool = True) -> int:
    """Give final labels that have changed the next revision; part of the transaction that notes the change itself.

    Args:
        session: a writing transaction; the images' rows are there.
        labels: image id -> stamp of the label's file, None where it is unknown or the label is gone.
        given: whether the labels were given or replaced; else they were removed.

    Returns:
        The revision.
    """
    session.flush()
    revision = latest_revision(session) + 1
    schema = session.scalar(_SCHEMA) if given else None
    rows = [{"image": image_id, "stamp": stamp} for image_id, stamp in labels.items()]
    if rows:
        session.connection().execute(_NOTE, [{**row, "revision": revision, "schema": schema} for row in rows])
    return revision


def touch_labels(session: orm.Session, image_ids: Sequence[str]) -> None:
    """Give labels the next revision that came or went with their images, as they were."""
    session.flush()
    statement = sa.update(_IMAGES).where(_IMAGES.c.image_id == sa.bindparam("image"))
    revision = latest_revision(session) + 1
    rows = [{"image": image_id} for image_id in image_ids]
    session.connection().execute(statement.values(label_revision=revision), rows)


def changed_since(session: orm.Session, revision: int) -> int:
    """Images whose final label has changed after a revision: given, replaced or removed."""
    query = sa.select(sa.func.count()).select_from(_IMAGES).where(_IMAGES.c.label_revision > revision)
    return session.scalar(query) or 0
