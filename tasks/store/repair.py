"""A damaged SQLite store: whatever can be read of it is kept, the damaged file too.

Rows are read one by one where a page of the file is damaged. The datastore finds images and labels again by their
files; who gave a label is known from the history, as far as that could be read.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_HEADER = b"SQLite format 3\x00"
_PARTS = ("", "-wal", "-shm")
_MENDED = ".mended"
_LAST_ROW = 1 << 40
"""Where the number of the last row cannot be read."""
_MOST_FAILURES = 100_000
"""Places of a table that are tried after a damaged one."""


def mend(file: Path, ours: bool = True) -> None:
    """Make a damaged store usable again; nothing happens to a sound one, and to one that is not there.

    The server calls it before it opens the store: nobody else may have it open.

    Args:
        file: SQLite file.
        ours: whether the file is a store whatever it holds; else one that does not begin like a database is left alone.

    Raises:
        OSError: the damaged file cannot be set aside.
    """
    mended = file.with_name(f"{file.name}{_MENDED}")
    try:
        if mended.exists():  # a kill has come between
            _exchange(file, mended)
        if not file.is_file() or not file.stat().st_size:
            return
        with file.open("rb") as beginning:
            if not ours and beginning.read(len(_HEADER)) != _HEADER:
                return
    except OSError:  # whoever opens it says why it cannot be
        return
    found = _damage(file)
    if found is None:
        return
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    kept = _salvage(file, part)
    part.replace(mended)
    aside = _exchange(file, mended)
    logger.error("%s is damaged (%s); it is kept as %s", file, found, aside.name)
    for table, (rows, whole) in kept.items():
        if not whole:
            logger.error("%s: %d rows of %s could be read, others are lost", file, rows, table)
    if not kept:
        logger.error("%s: nothing of it could be read; images and labels are found again by their files", file)


def _damage(file: Path) -> str | None:
    """What is wrong with a database, None if nothing is."""
    try:
        with closing(_open(file)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0].decode(errors="replace")
            return None if found == "ok" else found.splitlines()[-1]
    except sqlite3.DatabaseError as error:
        return str(error) if _is_damage(error) else None


def _is_damage(error: Exception) -> bool:
    return any(words in str(error) for words in ("malformed", "not a database", "encrypted"))


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.text_factory = bytes  # a damaged text is not read as one
    return connection


def _salvage(file: Path, target: Path) -> dict[str, tuple[int, bool]]:
    """Copy what can be read to a new file.

    Returns:
        Table -> number of rows, and whether these are all.
    """
    kept: dict[str, tuple[int, bool]] = {}
    with closing(sqlite3.connect(target, isolation_level=None)) as new, closing(_open(file)) as old:
        new.execute("BEGIN")
        try:
            query = "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
            schema = [tuple(value.decode() for value in row) for row in old.execute(query)]
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            schema = []
        for name, kind, sql in schema:
            new.execute(sql)
            if kind == "table":
                kept[name] = _copy(old, new, name)
        new.execute("COMMIT")
    with target.open("rb+") as written:
        os.fsync(written.fileno())
    return kept


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> tuple[int, bool]:
    columns = [row[1] for row in new.execute(f'PRAGMA table_info("{table}")')]
    names = ", ".join(f'"{name}"' for name in columns)
    insert = f'INSERT OR IGNORE INTO "{table}" (rowid, {names}) VALUES (?, {", ".join("?" * len(columns))})'
    rows, whole = 0, True
    for row in _readable(old, table, names):
        if row is None:
            whole = False
            continue
        try:
            values = [value.decode() if isinstance(value, bytes) and kind == "text" else value for value, kind in row]
            new.execute(insert, values)
            rows += 1
        except (sqlite3.Error, UnicodeDecodeError):
            whole = False
    return rows, whole


def _readable(old: sqlite3.Connection, table: str, names: str) -> Iterator[list[tuple[Any, str]] | None]:
    """Rows of a table with the kinds of their values; None where some cannot be read."""
    kinds = ", ".join(f"typeof({name})" for name in names.split(", "))
    query = f'SELECT rowid, {names}, {kinds} FROM "{table}"'
    first, last = _end(old, table, "ASC"), _end(old, table, "DESC")
    if first is None and last is None:
        return
    failures = 0
    ranges = deque([(first or 1, last or _LAST_ROW)])
    while ranges and failures < _MOST_FAILURES:
        low, high = ranges.popleft()
        read = low - 1
        try:
            for row in old.execute(f"{query} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", (low, high)):
                read = row[0]
                count = (len(row) - 1) // 2
                kinds_of = [kind.decode() for kind in row[1 + count :]]
                yield [(row[0], "integer"), *zip(row[1 : 1 + count], kinds_of, strict=True)]
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            yield None
            failures += 1
            # What follows the damaged page is found by halves, the whole table at a time.
            low = read + 2
            middle = (low + high) // 2
            ranges += [part for part in ((low, middle), (middle + 1, high)) if part[0] <= part[1]]


def _end(old: sqlite3.Connection, table: str, order: str) -> int | None:
    try:
        row = old.execute(f'SELECT rowid FROM "{table}" ORDER BY rowid {order} LIMIT 1').fetchone()
    except sqlite3.DatabaseError:
        return 1 if order == "ASC" else _LAST_ROW
    return None if row is None else int(row[0])


def _exchange(file: Path, mended: Path) -> Path:
    """Set a damaged file aside, and put the mended one in its place; can be begun again after a kill."""
    stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
    aside = file.with_name(f"{file.name}.damaged-{stamp}")
    for ending in _PARTS:
        part = file.with_name(file.name + ending)
        if part.exists():
            part.replace(aside.with_name(aside.name + ending))
    mended.replace(file)
    return aside
