"""Of a damaged store whatever can be read is kept."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.store import repair
from tasks.store.repair import mend
from tasks.store.store import ImageRecord, Store
from tasks.store.tables import Event, Image, IndexedLabel
from tests.tiny import history_of

COUNT = 2000
PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    """A store with many pages, and nothing in a write-ahead log."""
    file = tmp_path_factory.mktemp("sound") / "store.sqlite"
    fill(file)
    return file.read_bytes()


def fill(file: Path) -> None:
    store = Store(file)
    with store.transaction() as session:
        session.add_all(Image(image_id=f"image{number}") for number in range(COUNT))
        session.add_all(
            Event(event="labelled", image_id=f"image{number}", client_id="ann", details={"number": number})
            for number in range(COUNT)
        )
        session.add_all(
            IndexedLabel(image_id=f"image{number}", tag="final", ext=".nii", info={"n": number})
            for number in range(COUNT)
        )
    store.add_record(ImageRecord("image0", "v1", "f", {"bald": 0.5}, {}, np.arange(500, dtype=np.float32)))
    store.close()


def counts(file: Path) -> tuple[int, int, int]:
    store = Store(file)
    with store.reading() as session:
        found = tuple(session.scalar(sa.select(sa.func.count()).select_from(t)) for t in (Event, Image, IndexedLabel))
    store.close()
    return found


def test_a_sound_store_and_none_are_left_alone(tmp_path, sound):
    mend(tmp_path / "store.sqlite")
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "store.sqlite"
    file.write_bytes(sound)
    mend(file)
    assert file.read_bytes() == sound
    assert [path.name for path in tmp_path.iterdir() if "-" not in path.suffix] == ["store.sqlite"]


def pages_of(file: Path, table: str) -> list[int]:
    with closing(sqlite3.connect(file)) as connection:
        try:
            query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'"
            return [page for (page,) in connection.execute(query, (table,))]
        except sqlite3.OperationalError:
            pytest.skip("this SQLite cannot tell which pages a table has")


@pytest.mark.parametrize("table", ["history", "images", "index_labels"])
def test_a_damaged_page_costs_its_own_rows_and_no_others(tmp_path, sound, table, caplog):
    file = tmp_path / "store.sqlite"
    file.write_bytes(sound)
    pages = pages_of(file, table)
    content = bytearray(sound)
    for page in pages[1::4]:
        content[(page - 1) * PAGE : page * PAGE] = b"\xa5" * PAGE
    file.write_bytes(content)
    mend(file)
    found = dict(zip(("history", "images", "index_labels"), counts(file), strict=True))
    lost = found.pop(table)
    assert set(found.values()) == {COUNT}
    assert COUNT * 0.6 < lost < COUNT
    assert f"rows of {table} could be read, others are lost" in caplog.text
    (aside,) = tmp_path.glob("store.sqlite.damaged-*")
    assert aside.read_bytes() == bytes(content)
    store = Store(file)
    assert all(row["details"] == f'{{"number": {row["image_id"][5:]}}}' for row in history_of(store))
    assert store.records("v1")[0].embedding.tolist() == list(range(500))
    store.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=64)), min_size=1, max_size=20))
def test_whatever_is_damaged_the_store_opens_and_writes_again(damages):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "store.sqlite"
        fill_once = _sound_bytes()
        content = bytearray(fill_once)
        for place, junk in damages:
            start = (place * 997 * 13) % len(content)
            content[start : start + len(junk)] = junk
        file.write_bytes(content[: len(fill_once)])
        mend(file)
        store = Store(file)
        store.add_record(ImageRecord("new", "v2", "f", {}, {}, None))
        assert [record.image_id for record in store.records("v2")] == ["new"]
        store.close()


_KEPT: list[bytes] = []


def _sound_bytes() -> bytes:
    if not _KEPT:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder) / "store.sqlite")
            _KEPT.append((Path(folder) / "store.sqlite").read_bytes())
    return _KEPT[0]


@pytest.mark.parametrize("content", [b"nonsense" * 2000, b"SQLite format 3\x00" + bytes(5000), "half"])
def test_where_nothing_can_be_read_a_new_store_is_begun_and_the_old_file_kept(tmp_path, sound, content):
    file = tmp_path / "store.sqlite"
    damaged = sound[: PAGE // 2] if content == "half" else content
    file.write_bytes(damaged)
    mend(file)
    assert counts(file) == (0, 0, 0)
    (aside,) = tmp_path.glob("store.sqlite.damaged-*")
    assert aside.read_bytes() == damaged


def test_a_file_of_somebody_else_is_never_touched(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("these are the notes of the project, and no database" * 100)
    before = file.read_bytes()
    mend(file, ours=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert file.read_bytes() == before


@pytest.mark.parametrize("place", ["_salvage", "_exchange", "between"])
def test_a_kill_while_a_store_is_mended_loses_nothing(tmp_path, sound, place, monkeypatch):
    file = tmp_path / "store.sqlite"
    file.write_bytes(sound)
    content = bytearray(sound)
    for page in pages_of(file, "history")[1::4]:
        content[(page - 1) * PAGE : page * PAGE] = b"\xa5" * PAGE
    file.write_bytes(content)
    child = os.fork()
    if child == 0:
        try:
            replace = Path.replace

            def killed(self, target):
                result = replace(self, target)
                if ".damaged-" in str(target):
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            if place == "between":
                monkeypatch.setattr(Path, "replace", killed)
            else:
                monkeypatch.setattr(repair, place, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            mend(file)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    mend(file)
    events, images, labels = counts(file)
    assert COUNT * 0.6 < events < COUNT
    assert (images, labels) == (COUNT, COUNT)
