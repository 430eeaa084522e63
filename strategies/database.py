"""Connections to a database that several processes read and write at once and that survives a crash.

SQLite runs in write-ahead-log mode: readers never wait. Writing transactions start immediately (``BEGIN IMMEDIATE``),
so what a transaction has read cannot change before it writes.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

READ_ONLY = {"read_only": True}
"""Execution options of connections whose transactions only read."""


def open_engine(url: str) -> sa.Engine:
    """An engine for any SQLAlchemy URL, set up for SQLite where it is one.

    Raises:
        sqlalchemy.exc.ArgumentError: no such kind of database.
        ModuleNotFoundError: its driver is not installed.
    """
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # Python's sqlite3 must not start transactions by itself: the "begin" listener does, and at once for writing.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
