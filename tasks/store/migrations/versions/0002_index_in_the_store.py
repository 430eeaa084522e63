"""The datastore's index is part of the store; it was a file of its own in the studies folder.

Its content is taken over by the datastore, which knows the folder: :mod:`tasks.datastore.earlier_index`.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


_METADATA = sa.MetaData()
sa.Table(
    "index_images",
    _METADATA,
    sa.Column("image_id", sa.String(), primary_key=True),
    sa.Column("ext", sa.String(), nullable=False),
    sa.Column("info", sa.JSON(), nullable=False),
)
sa.Table(
    "index_labels",
    _METADATA,
    sa.Column("image_id", sa.String(), primary_key=True),
    sa.Column("tag", sa.String(), primary_key=True),
    sa.Column("ext", sa.String(), nullable=False),
    sa.Column("info", sa.JSON(), nullable=False),
)


def upgrade() -> None:
    """Create the index's two tables, empty; a store that was damaged may have them and not know its revision."""
    _METADATA.create_all(op.get_bind())
