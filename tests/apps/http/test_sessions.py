"""Sessions have a quota and an expiry for all together, and their ids lead nowhere else."""

import pytest

from apps.http import sessions as module
from apps.http.sessions import QuotaError, Sessions


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sessions(tmp_path, clock):
    return Sessions(tmp_path / "sessions", longest=600, quota=1000, clock=clock)


def files(tmp_path, **contents: bytes):
    folder = tmp_path / "coming" / "files"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def add(sessions, tmp_path, size: int = 100, expiry: int = 0):
    with sessions.room() as room:
        room.take(size)
        return sessions.add(files(tmp_path, image=bytes(size)), expiry)


def test_a_session_is_kept_as_long_as_it_is_used_and_then_removed_with_its_files(sessions, tmp_path, clock):
    used, unused = add(sessions, tmp_path), add(sessions, tmp_path, expiry=60)
    clock.now += 61
    assert sessions.get(unused.id) is None
    assert not (sessions.folder / unused.id).exists()
    for seconds in (539, 599, 600):
        clock.now += seconds
        assert sessions.get(used.id).image.read_bytes() == bytes(100)
    clock.now += 601
    again = Sessions(sessions.folder, longest=600, clock=clock)  # after a restart
    assert again.remove_expired() == 1
    assert not list(sessions.folder.iterdir())


def test_looking_is_not_using(sessions, tmp_path, clock):
    session = add(sessions, tmp_path)
    clock.now += 400
    assert sessions.get(session.id, touch=False) is not None
    clock.now += 201
    assert sessions.get(session.id, touch=False) is None


def test_all_sessions_together_have_a_quota(sessions, tmp_path):
    first = add(sessions, tmp_path, 600)
    with sessions.room() as coming, sessions.room() as other:
        coming.take(300)
        with pytest.raises(QuotaError, match="all sessions together"):
            other.take(101)
        other.take(100)
    with sessions.room() as early:  # what others add meanwhile counts
        add(sessions, tmp_path, 400)
        with pytest.raises(QuotaError):
            early.take(1)
    assert sessions.remove(first.id)
    add(sessions, tmp_path, 600)


def test_sessions_have_a_largest_number(sessions, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    add(sessions, tmp_path), add(sessions, tmp_path)
    with pytest.raises(QuotaError, match="2 sessions already"):
        add(sessions, tmp_path)


@pytest.mark.parametrize("name", ["..", ".", "", "../sessions", "/etc", "files", "x" * 36, "A" * 8 + "-a" * 3])
def test_no_other_folder_is_a_session(sessions, tmp_path, name):
    session = add(sessions, tmp_path)
    for odd in (name, f"{session.id}/../{session.id}", f"{session.id}\n", session.id.upper()):
        if odd != session.id:
            assert sessions.get(odd) is None
            assert not sessions.remove(odd)
    assert sessions.get(session.id) is not None


def test_what_a_kill_has_left_is_removed_once_it_is_old(sessions, tmp_path, clock):
    session = add(sessions, tmp_path)
    (session.folder.parent / "session.json").unlink()
    clock.now = session.folder.parent.stat().st_mtime + 599
    assert sessions.remove_expired() == 0
    clock.now += 2
    assert sessions.remove_expired() == 1


def test_nothing_that_is_told_names_a_folder(sessions, tmp_path):
    shown = add(sessions, tmp_path).shown()
    assert str(tmp_path) not in str(shown)
    assert (shown["image"], shown["expiry"]) == ("image", 600)
