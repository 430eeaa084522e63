"""Stores of 0.1.0 to 0.5.0, which have no revision: each lacks some tables and columns of 0.5.0.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None

_METADATA = sa.MetaData()


def _table(name: str, *parts: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, _METADATA, *parts)


def _text(name: str, nullable: bool = False, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=nullable, primary_key=primary_key)


def _whole(name: str, nullable: bool = False, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=nullable, primary_key=primary_key)


def _time(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(), nullable=nullable)


def _json(name: str) -> sa.Column:
    return sa.Column(name, sa.JSON(), nullable=False)


def _truth(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


_IMAGES = _table(
    "images",
    _text("image_id", primary_key=True),
    _truth("labelled"),
    _truth("present"),
    _whole("label_revision", nullable=True),
    _text("label_stamp", nullable=True),
    _whole("label_schema", nullable=True),
    sa.Column("reopened", sa.Boolean(), nullable=False, server_default=sa.false()),
    _text("label_ref", nullable=True),
    sa.Index("ix_images_labelled", "labelled"),
    sa.Index("ix_images_label_revision", "label_revision"),
)
_RECORDS = _table(
    "records",
    _text("model_version", primary_key=True),
    _text("image_id", primary_key=True),
    _text("fingerprint"),
    _json("scores"),
    _json("class_entropies"),
    sa.Column("embedding", sa.LargeBinary()),
    _text("error", nullable=True),
    _time("created_at"),
)
_WITH_ERROR = sa.text("error IS NOT NULL")
sa.Index(
    "failed_records",
    _RECORDS.c.model_version,
    _RECORDS.c.image_id,
    sqlite_where=_WITH_ERROR,
    postgresql_where=_WITH_ERROR,
)
_MODELS = _table(
    "models",
    _whole("id", primary_key=True),
    _text("name"),
    _text("version"),
    _text("path"),
    _whole("labelled_count"),
    _json("metrics"),
    _time("created_at"),
    sa.Index("ix_models_name", "name"),
)
_TRAININGS = _table(
    "trainings",
    _whole("id", primary_key=True),
    _text("name"),
    _time("started_at"),
    _time("finished_at"),
    _whole("label_revision"),
    _text("model_version", nullable=True),
    _text("error", nullable=True),
    _json("left_out"),
    sa.Index("ix_trainings_name", "name"),
)
_table("label_schemas", _whole("id", primary_key=True), _json("values"), _time("since"))
_table("claims", _text("work", primary_key=True), _text("owner"), _time("expires_at"))
_table("holds", _whole("id", primary_key=True), _text("client_id"), _time("at"), _whole("label_revision"))
_table(
    "scorings",
    _whole("id", primary_key=True),
    _text("model_version"),
    _time("completed_at"),
    sa.UniqueConstraint("model_version"),
)
_table(
    "rounds",
    _whole("id", primary_key=True),
    _text("strategy"),
    _text("model_version"),
    _whole("number"),
    _whole("size"),
    _text("reason"),
    _time("opened_at"),
    _time("closed_at", nullable=True),
    _truth("completed"),
    sa.Index("open_rounds", "strategy", "model_version", "closed_at"),
)
_table(
    "round_images",
    sa.Column("round_id", sa.Integer(), sa.ForeignKey("rounds.id"), primary_key=True),
    _whole("rank", primary_key=True),
    _text("image_id"),
    sa.Column("score", sa.Float()),
    _text("group", nullable=True),
    sa.Index("ix_round_images_image_id", "image_id"),
)
_table(
    "pseudo_labels",
    sa.Column("round_id", sa.Integer(), sa.ForeignKey("rounds.id"), primary_key=True),
    _text("image_id", primary_key=True),
    sa.Column("score", sa.Float(), nullable=False),
    _time("made_at", nullable=True),
    _text("error", nullable=True),
    _time("compared_at", nullable=True),
    _json("agreement"),
    sa.Index("ix_pseudo_labels_image_id", "image_id"),
)
_table(
    "leases",
    _text("image_id", primary_key=True),
    _text("client_id"),
    sa.Column("round_id", sa.Integer(), sa.ForeignKey("rounds.id"), nullable=False),
    _time("expires_at"),
    sa.Index("ix_leases_client_id", "client_id"),
)
_table("skips", _text("image_id", primary_key=True), _text("client_id"), _text("reason"), _time("at"))
_HISTORY = _table(
    "history",
    _whole("id", primary_key=True),
    _time("at"),
    _text("event"),
    _text("image_id"),
    _text("client_id"),
    _whole("round_id", nullable=True),
    _json("details"),
    sa.Index("ix_history_image_id", "image_id"),
    sa.Index("ix_history_client_id", "client_id"),
)


def upgrade() -> None:
    """Add the tables, columns and indices that are missing, and number the labels of stores without revisions."""
    connection = op.get_bind()
    _METADATA.create_all(connection)
    there = sa.inspect(connection)
    for table in _METADATA.sorted_tables:
        names = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in names:
                definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(sa.DDL(f"ALTER TABLE {table.name} ADD COLUMN {definition}"))
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    _number_labels(connection)


def _number_labels(connection: sa.Connection) -> None:
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
    first = (connection.scalar(sa.select(sa.func.max(_IMAGES.c.label_revision))) or 0) + 1
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
                left_out={},
            )
        )
