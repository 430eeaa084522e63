"""A store of any earlier version becomes one of today, in one transaction, after a copy was made of it.

The steps are Alembic's, in ``tasks/store/migrations``. A new store gets its tables at once.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from tasks.store.database import READ_ONLY
from tasks.store.tables import Base

logger = logging.getLogger(__name__)

REVISION = "0002"
"""The newest migration; a store with it is opened without Alembic, which takes long to be loaded."""
_TABLES_OF_ALL_VERSIONS = {"images", "records", "history"}
_VERSIONS = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))


def bring_up_to_date(engine: sa.Engine) -> None:
    """Make the tables what this version needs.

    Args:
        engine: of the store.

    Raises:
        ValueError: a newer version of the server has written the store.
        sqlalchemy.exc.SQLAlchemyError: the database cannot be read or written; it is as it was before.
    """
    with engine.connect().execution_options(**READ_ONLY) as connection:
        found = _revision(connection)
    if found == REVISION:
        return
    if found is None:
        with engine.begin() as connection:
            if _revision(connection) is None:  # nobody else has been quicker
                Base.metadata.create_all(connection)
                _VERSIONS.create(connection)
                connection.execute(sa.insert(_VERSIONS).values(version_num=REVISION))
        return
    _migrate(engine, found)


def copy_before_upgrade(file: Path) -> Path:
    """Copy a SQLite file, with what is still in its write-ahead log, beside it; a copy that is there already stays.

    Returns:
        The copy.

    Raises:
        OSError: it cannot be written.
        sqlite3.Error: the file cannot be read.
    """
    copy = file.with_name(f"{file.name}.before-{REVISION}")
    if copy.exists():
        return copy
    part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    try:
        with (
            closing(sqlite3.connect(f"file:{_quoted(file)}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(part)) as target,
        ):
            source.backup(target)
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)
    return copy


def _quoted(file: Path) -> str:
    return str(file.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _revision(connection: sa.Connection) -> str | None:
    """The store's revision; empty for one of a version that had none, None for a new one."""
    there = set(sa.inspect(connection).get_table_names())
    if _VERSIONS.name in there:
        return connection.scalar(sa.select(_VERSIONS.c.version_num)) or ""
    return "" if _TABLES_OF_ALL_VERSIONS & there else None


def _migrate(engine: sa.Engine, found: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "tasks.store:migrations")
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    if found and found not in known:
        raise ValueError(f"it was written by a newer version of this server (revision {found}, known are {known})")
    file = engine.url.database
    if engine.dialect.name == "sqlite" and file and Path(file).is_file():
        logger.info("the store of an earlier version is kept as %s", copy_before_upgrade(Path(file)))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, REVISION)
    logger.info("the store was brought from revision %s to %s", found or "none", REVISION)
