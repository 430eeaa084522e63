"""The tables of the store.

Whoever changes one adds a migration to ``tasks/store/migrations/versions``: stores of every earlier version must open.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import orm


def now() -> dt.datetime:
    """Current time in UTC, without a time zone, as every column stores it."""
    return dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)


class Base(orm.DeclarativeBase):
    """Tables of the store."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {dict[str, Any]: sa.JSON, dict[str, float]: sa.JSON}


class Image(Base):
    """One image of the pool. ``present`` is false once it has left the datastore; nothing is deleted.

    ``label_ref`` names the label that the history has a line of; while the image is not labelled, it names one that
    was taken back and that the datastore has still to remove.
    """

    __tablename__ = "images"
    image_id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    labelled: orm.Mapped[bool] = orm.mapped_column(default=False, index=True)
    present: orm.Mapped[bool] = orm.mapped_column(default=True)
    # Written by tasks.store.revisions: when the final label last changed, and size and time of its file then.
    label_revision: orm.Mapped[int | None] = orm.mapped_column(default=None, index=True)
    label_stamp: orm.Mapped[str | None] = orm.mapped_column(default=None)
    # Written by tasks.store.label_names: under which label names it was given (None: the first), and whether the image
    # is given out again because a name has come since.
    label_schema: orm.Mapped[int | None] = orm.mapped_column(default=None)
    reopened: orm.Mapped[bool] = orm.mapped_column(default=False, server_default=sa.false())
    label_ref: orm.Mapped[str | None] = orm.mapped_column(default=None)


class IndexedImage(Base):
    """An image in the datastore's index, see :mod:`tasks.datastore.index`: its file's ending, and what is kept with it.

    The index's two tables can be made again from the files; nothing else refers to them.
    """

    __tablename__ = "index_images"
    image_id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    ext: orm.Mapped[str]
    info: orm.Mapped[dict[str, Any]]


class IndexedLabel(Base):
    """A label of a tag in the datastore's index: its file's ending, and what is kept with it."""

    __tablename__ = "index_labels"
    image_id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    tag: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    ext: orm.Mapped[str]
    info: orm.Mapped[dict[str, Any]]


class Record(Base):
    """Everything one scoring pass learned about one image, for one model version; or why it could not."""

    __tablename__ = "records"
    model_version: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    image_id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    fingerprint: orm.Mapped[str]
    scores: orm.Mapped[dict[str, float]] = orm.mapped_column(default=dict)
    class_entropies: orm.Mapped[dict[str, float]] = orm.mapped_column(default=dict)
    embedding: orm.Mapped[bytes | None] = orm.mapped_column(default=None)
    error: orm.Mapped[str | None] = orm.mapped_column(default=None)
    created_at: orm.Mapped[dt.datetime] = orm.mapped_column(default=now)
    # The few records with an error are found without walking over all embeddings.
    __table_args__ = (
        sa.Index(
            "failed_records",
            "model_version",
            "image_id",
            sqlite_where=sa.text("error IS NOT NULL"),
            postgresql_where=sa.text("error IS NOT NULL"),
        ),
    )


class Model(Base):
    """One published checkpoint. ``scored_at`` is set once every image has a record for it."""

    __tablename__ = "models"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(index=True)
    version: orm.Mapped[str]
    path: orm.Mapped[str]
    labelled_count: orm.Mapped[int]
    metrics: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
    created_at: orm.Mapped[dt.datetime] = orm.mapped_column(default=now)


class Training(Base):
    """A training that has ended: what it saw, and what came of it. It decides when the next one is due.

    ``model_version`` is None if it failed, ``error`` says why. ``left_out`` maps images that vanished while they were
    read to the reason.
    """

    __tablename__ = "trainings"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(index=True)
    started_at: orm.Mapped[dt.datetime]
    finished_at: orm.Mapped[dt.datetime]
    label_revision: orm.Mapped[int]
    model_version: orm.Mapped[str | None] = orm.mapped_column(default=None)
    error: orm.Mapped[str | None] = orm.mapped_column(default=None)
    left_out: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)


class LabelSchema(Base):
    """Names and values of the labels from a start of the server on."""

    __tablename__ = "label_schemas"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    values: orm.Mapped[dict[str, Any]]
    since: orm.Mapped[dt.datetime] = orm.mapped_column(default=now)


class Claim(Base):
    """Work that one server on this store does; it lapses unless the server renews it."""

    __tablename__ = "claims"
    work: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    owner: orm.Mapped[str]
    expires_at: orm.Mapped[dt.datetime]


class Hold(Base):
    """Somebody has stopped the background jobs; one row at most."""

    __tablename__ = "holds"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    client_id: orm.Mapped[str]
    at: orm.Mapped[dt.datetime]
    label_revision: orm.Mapped[int]


class Scoring(Base):
    """A completed scoring pass: from here on rounds are ordered by the records of this model version."""

    __tablename__ = "scorings"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    model_version: orm.Mapped[str] = orm.mapped_column(unique=True)
    completed_at: orm.Mapped[dt.datetime] = orm.mapped_column(default=now)


class Round(Base):
    """One batch served to annotators under one model version (empty in a cold start)."""

    __tablename__ = "rounds"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    strategy: orm.Mapped[str]
    model_version: orm.Mapped[str]
    number: orm.Mapped[int]
    size: orm.Mapped[int]
    reason: orm.Mapped[str]
    opened_at: orm.Mapped[dt.datetime] = orm.mapped_column(default=now)
    closed_at: orm.Mapped[dt.datetime | None] = orm.mapped_column(default=None)
    completed: orm.Mapped[bool] = orm.mapped_column(default=False)
    __table_args__ = (sa.Index("open_rounds", "strategy", "model_version", "closed_at"),)


class RoundImage(Base):
    """An image's place in a round; rank 1 is served first."""

    __tablename__ = "round_images"
    round_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("rounds.id"), primary_key=True)
    rank: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    image_id: orm.Mapped[str] = orm.mapped_column(index=True)
    score: orm.Mapped[float | None]
    group: orm.Mapped[str | None] = orm.mapped_column(default=None)


class PseudoLabel(Base):
    """An image that the model labels itself, by the split of a round.

    Due while it has neither ``made_at`` nor ``error``. Once a person has labelled the image and the two were compared
    at ``compared_at``, ``agreement`` is the Dice per label, empty if they could not be.
    """

    __tablename__ = "pseudo_labels"
    round_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("rounds.id"), primary_key=True)
    image_id: orm.Mapped[str] = orm.mapped_column(primary_key=True, index=True)
    score: orm.Mapped[float]
    made_at: orm.Mapped[dt.datetime | None] = orm.mapped_column(default=None)
    error: orm.Mapped[str | None] = orm.mapped_column(default=None)
    compared_at: orm.Mapped[dt.datetime | None] = orm.mapped_column(default=None)
    agreement: orm.Mapped[dict[str, float]] = orm.mapped_column(default=dict)


class Lease(Base):
    """An image promised to one annotator. The primary key keeps two annotators from holding the same image."""

    __tablename__ = "leases"
    image_id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    client_id: orm.Mapped[str] = orm.mapped_column(index=True)
    round_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("rounds.id"))
    expires_at: orm.Mapped[dt.datetime]


class Skip(Base):
    """An image that a reader could not grade; nobody is given it until it is restored or labelled."""

    __tablename__ = "skips"
    image_id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    client_id: orm.Mapped[str]
    reason: orm.Mapped[str]
    at: orm.Mapped[dt.datetime] = orm.mapped_column(default=now)


LABELLED = "labelled"
"""The event of a final label that was given."""


class Event(Base):
    """History: who was given, labelled or skipped which image, when, under which round and model version."""

    __tablename__ = "history"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    at: orm.Mapped[dt.datetime] = orm.mapped_column(default=now)
    event: orm.Mapped[str]
    image_id: orm.Mapped[str] = orm.mapped_column(index=True)
    client_id: orm.Mapped[str] = orm.mapped_column(index=True)
    round_id: orm.Mapped[int | None] = orm.mapped_column(default=None)
    details: orm.Mapped[dict[str, Any]] = orm.mapped_column(default=dict)
