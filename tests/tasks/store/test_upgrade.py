"""Stores of earlier versions are brought up to date in one step, from a copy, and never half."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tasks.store import upgrade
from tasks.store.store import Store
from tasks.store.tables import Base
from tests.tiny import history_of

STORES = sorted((Path(__file__).parent / "stores").glob("*.sql"))


def made(script: Path, folder: Path) -> Path:
    file = folder / "store.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(script.read_text())
        connection.execute("PRAGMA journal_mode=WAL")  # as every version has left it
    return file


def content(file: Path) -> dict[str, list[tuple]]:
    with closing(sqlite3.connect(file)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f'SELECT * FROM "{name}" ORDER BY rowid').fetchall() for name in tables}


def schema(file: Path) -> dict[str, set[tuple]]:
    """Names, types, defaults and keys of all columns, and the indices: as SQLite itself tells them."""
    found: dict[str, set[tuple]] = {}
    with closing(sqlite3.connect(file)) as connection:
        for name, kind, table in connection.execute("SELECT name, type, tbl_name FROM sqlite_master").fetchall():
            if kind == "table":
                columns = connection.execute(f'PRAGMA table_info("{name}")').fetchall()
                found[name] = {(column[1], column[2], column[5]) for column in columns}
            elif not name.startswith("sqlite_"):
                found.setdefault(f"indices of {table}", set()).add((name,))
    return found


def test_the_newest_migration_is_the_one_that_a_new_store_says_it_has():
    config = Config()
    config.set_main_option("script_location", "tasks.store:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [upgrade.REVISION]


@pytest.mark.parametrize("script", STORES, ids=lambda path: path.stem)
def test_after_the_migrations_a_store_has_the_tables_of_a_new_one(script, tmp_path):
    file = made(script, tmp_path)
    Store(file).close()
    Store(tmp_path / "new.sqlite").close()
    assert schema(file) == schema(tmp_path / "new.sqlite")
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


@pytest.mark.parametrize("script", STORES, ids=lambda path: path.stem)
def test_a_copy_of_before_is_kept_and_stays(script, tmp_path):
    file = made(script, tmp_path)
    before = content(file)
    Store(file).close()
    (copy,) = tmp_path.glob("store.sqlite.before-*")
    assert content(copy) == before
    time = copy.stat().st_mtime_ns
    Store(file).close()
    assert copy.stat().st_mtime_ns == time


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("place", ["_migrate", "copy_before_upgrade", "first", "second", "commit"])
def test_a_kill_in_mid_migration_leaves_the_store_as_it_was_and_the_next_start_goes_on(place, tmp_path, monkeypatch):
    file = made(STORES[0], tmp_path)
    before = content(file)
    child = os.fork()
    if child == 0:
        try:
            if place in ("_migrate", "copy_before_upgrade"):
                monkeypatch.setattr(upgrade, place, lambda *_: die())
            else:
                steps = {"first": "ALTER TABLE", "second": "CREATE TABLE index_images", "commit": "COMMIT"}

                def killed(connection, cursor, statement, *_):
                    if statement.strip().startswith(steps[place]):
                        die()

                sa.event.listen(sa.Engine, "after_cursor_execute", killed)
                sa.event.listen(sa.Engine, "commit", lambda _: die() if place == "commit" else None)
            Store(file)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    shutil.copytree(tmp_path, tmp_path / "looked at", ignore=lambda *_: ["looked at"])
    assert content(tmp_path / "looked at" / "store.sqlite") == before
    store = Store(file)
    assert store.image_ids()
    assert content(next(tmp_path.glob("store.sqlite.before-*"))) == before
    store.close()
    assert not list(tmp_path.glob("*.part"))


def test_several_processes_that_open_an_old_store_at_once_bring_it_up_to_date_once(tmp_path):
    file = made(STORES[-1], tmp_path)
    lines = len(content(file)["history"])
    start = multiprocessing.get_context("fork").Barrier(6)

    def open_it() -> None:
        start.wait()
        store = Store(file)
        assert len(history_of(store)) == lines
        store.close()

    processes = [multiprocessing.get_context("fork").Process(target=open_it) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "store.sqlite"
    Store(file).close()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = content(file)
    with pytest.raises(ValueError, match=r"store\.sqlite.*newer version"):
        Store(file)
    assert content(file) == before


def test_where_no_copy_can_be_made_nothing_is_changed(tmp_path, monkeypatch):
    file = made(STORES[0], tmp_path)
    before = content(file)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(upgrade.os, "fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        Store(file)
    assert content(file) == before
    assert sorted(path.name for path in tmp_path.iterdir() if "-" not in path.suffix) == ["store.sqlite"]
