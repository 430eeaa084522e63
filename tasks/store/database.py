"""Connections to a database that several processes read and write at once and that survives a crash.

SQLite runs in write-ahead-log mode: readers never wait. Writing transactions start immediately (``BEGIN IMMEDIATE``),
so what a transaction has read cannot change before it writes.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

READ_ONLY = {"read_only": True}
"""Execution options of connections whose transactions only read."""
PATIENCE_SECONDS = 10.0
"""How long a writer waits for another process that holds the database: somebody waits for the answer."""


def open_engine(url: str, patience: float = PATIENCE_SECONDS) -> sa.Engine:
    """An engine for any SQLAlchemy URL, set up for SQLite where it is one.

    Args:
        url: of the database.
        patience: seconds that a writer waits for another one.

    Raises:
        sqlalchemy.exc.ArgumentError: no such kind of database.
        ModuleNotFoundError: its driver is not installed.
    """
    if sa.make_url(url).get_backend_name() != "sqlite":
        return sa.create_engine(url)
    # Requests are served by a bounded number of threads, so connections need no bound of their own.
    engine = sa.create_engine(url, poolclass=sa.QueuePool, max_overflow=-1, connect_args={"timeout": patience})
    sa.event.listen(engine, "connect", _configure_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # Python's sqlite3 must not start transactions by itself: the "begin" listener does, and at once for writing.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
