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
_HISTORY = sa.table("history", sa.column("id"), sa.column("image_id"), sa.column("event"))
_MODELS = sa.table("models", *(sa.column(name) for name in ("name", "version", "labelled_count", "created_at")))
_TRAININGS = sa.table(
    "trainings",
    *(sa.column(name) for name in ("name", "started_at", "finished_at", "label_revision", "model_version", "left_out")),
)


def latest_revision(session: orm.Session | sa.Connection) -> int:
    """The revision of the label that changed last, 0 before the first."""
    return session.scalar(sa.select(sa.func.max(_IMAGES.c.label_revision))) or 0


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
    schema = session.scalar(sa.select(sa.func.max(_SCHEMAS.c.id))) if given else None
    statement = (
        sa.update(_IMAGES)
        .where(_IMAGES.c.image_id == sa.bindparam("image"))
        .values(label_revision=revision, label_stamp=sa.bindparam("stamp"), label_schema=schema, reopened=sa.false())
    )
    rows = [{"image": image_id, "stamp": stamp} for image_id, stamp in labels.items()]
    if rows:
        session.connection().execute(statement, rows)
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


def number_old_labels(connection: sa.Connection) -> None:
    """Give the labels of a store of an earlier version their revisions, in the order in which they came.

    Such a store knows how many labels a model was trained on: as many of the first ones count as seen.
    """
    old = sa.and_(_IMAGES.c.labelled, _IMAGES.c.label_revision.is_(None))
    if connection.scalar(sa.select(_IMAGES.c.image_id).where(old).limit(1)) is None:
        return
    last = (
        sa.select(_HISTORY.c.image_id, sa.func.max(_HISTORY.c.id).label("event"))
        .where(_HISTORY.c.event == "labelled")
        .group_by(_HISTORY.c.image_id)
        .subquery()
    )
    query = (
        sa.select(_IMAGES.c.image_id)
        .join(last, last.c.image_id == _IMAGES.c.image_id, isouter=True)
        .where(old)
        .order_by(sa.func.coalesce(last.c.event, 0), _IMAGES.c.image_id)
    )
    names = list(connection.scalars(query))
    first = latest_revision(connection) + 1
    statement = sa.update(_IMAGES).where(_IMAGES.c.image_id == sa.bindparam("image"))
    rows = [{"image": name, "revision": number} for number, name in enumerate(names, start=first)]
    connection.execute(statement.values(label_revision=sa.bindparam("revision")), rows)
    recorded = sa.select(_TRAININGS.c.model_version)
    models = connection.execute(sa.select(_MODELS).where(_MODELS.c.version.not_in(recorded))).all()
    for row in models:
        connection.execute(
            sa.insert(_TRAININGS).values(
                name=row.name,
                started_at=row.created_at,
                finished_at=row.created_at,
                label_revision=first - 1 + min(row.labelled_count, len(names)),
                model_version=row.version,
                left_out="{}",
            )
        )
