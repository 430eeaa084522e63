"""Images that readers keep on the server for a while without adding them to the pool: 3D Slicer's own volumes.

MONAI Label's sessions have no bound on their number or size.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tasks.common.files import write_json

logger = logging.getLogger(__name__)

QUOTA = 16 << 30
"""Bytes of all sessions together."""
MOST = 1000
"""Sessions at once."""
LONGEST_SECONDS = 3600
_SHORTEST_SECONDS = 60
_ABOUT = "session.json"
_FILES = "files"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class QuotaError(RuntimeError):
    """The sessions together would be too many or too large; the message says so."""


@dataclass(frozen=True)
class Session:
    """One session.

    Attributes:
        id: cannot be guessed: who knows it may read the session.
        folder: with its files.
        name: of the image in the folder; empty where there are several files.
        size: bytes.
        created_at: seconds since 1970.
        used_at: the same of the last use.
        expiry: seconds that it is kept without use.
    """

    id: str
    folder: Path
    name: str
    size: int
    created_at: int
    used_at: int
    expiry: int

    @property
    def image(self) -> Path:
        """Its image, or the folder of its files."""
        return self.folder / self.name if self.name else self.folder

    def shown(self) -> dict[str, object]:
        """What the reader is told, in MONAI Label's words, without a path of the server."""
        times = {"create_ts": self.created_at, "last_access_ts": self.used_at, "expiry": self.expiry}
        return {"name": self.id, "image": self.name, "meta": {}, **times}


class Sessions:
    """All sessions, each in a folder of its own.

    Args:
        folder: of all, made with the first session.
        longest: seconds that a session is kept without use at most.
        quota: bytes of all together.
        clock: seconds since 1970, replaceable in tests.
    """

    def __init__(
        self, folder: Path, longest: int = LONGEST_SECONDS, quota: int = QUOTA, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder = folder
        self.longest = longest if longest > _SHORTEST_SECONDS else LONGEST_SECONDS
        self.quota = quota
        self.clock = clock
        self._coming = 0
        self._kept = 0
        self._lock = threading.Lock()

    def room(self) -> Room:
        """Room for one more session, which must be given back.

        Raises:
            QuotaError: there are too many.
        """
        self.remove_expired()
        with self._lock:
            sizes = [session.size for session in self._all()]
            self._kept = sum(sizes)
        if len(sizes) >= MOST:
            raise QuotaError(f"there are {MOST} sessions already; remove one, or wait until one has expired")
        return Room(self)

    def add(self, files: Path, expiry: int = 0) -> Session:
        """Keep a folder with files, which is moved.

        Args:
            files: regular files only.
            expiry: seconds that they are kept without use; 0 for the longest time.
        """
        found = [file for file in files.rglob("*") if file.is_file()]
        now, name = int(self.clock()), str(uuid.uuid4())
        session = Session(
            id=name,
            folder=self.folder / name / _FILES,
            name=str(found[0].relative_to(files)) if len(found) == 1 else "",
            size=sum(file.stat().st_size for file in found),
            created_at=now,
            used_at=now,
            expiry=min(expiry or self.longest, self.longest),
        )
        session.folder.parent.mkdir(parents=True, mode=0o700)
        try:
            shutil.move(files, session.folder)
            self._write(session)
        except BaseException:
            shutil.rmtree(session.folder.parent, ignore_errors=True)
            raise
        with self._lock:
            self._kept += session.size
        return session

    def get(self, session_id: str, touch: bool = True) -> Session | None:
        """A session by its id, None if there is none or it has expired.

        Args:
            session_id: as a request gives it.
            touch: whether this is a use.
        """
        session = self._read(session_id) if _ID.fullmatch(session_id) else None
        if session is None:
            return None
        if self._expired(session):
            self.remove(session.id)
            return None
        if touch:
            session = replace(session, used_at=int(self.clock()))
            self._write(session)
        return session

    def remove(self, session_id: str) -> bool:
        """Forget a session and its files; whether there was one."""
        if not _ID.fullmatch(session_id) or not (self.folder / session_id).is_dir():
            return False
        shutil.rmtree(self.folder / session_id, ignore_errors=True)
        return True

    def remove_expired(self) -> int:
        """Forget the sessions that nobody uses any longer, and what a kill has left of one; returns how many."""
        count = 0
        for folder in list(self.folder.iterdir()) if self.folder.is_dir() else []:
            session = self._read(folder.name) if _ID.fullmatch(folder.name) else None
            if session is not None and not self._expired(session):
                continue
            if session is None and not self._is_old(folder):
                continue  # it may be in the making
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
        return count

    def _all(self) -> Iterator[Session]:
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if _ID.fullmatch(folder.name) and (session := self._read(folder.name)) is not None:
                yield session

    def _expired(self, session: Session) -> bool:
        return session.used_at + session.expiry < self.clock()

    def _is_old(self, folder: Path) -> bool:
        try:
            return folder.stat().st_mtime + self.longest < self.clock()
        except FileNotFoundError:
            return False

    def _read(self, session_id: str) -> Session | None:
        folder = self.folder / session_id
        try:
            return Session(id=session_id, folder=folder / _FILES, **json.loads((folder / _ABOUT).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, session: Session) -> None:
        about = {name: value for name, value in asdict(session).items() if name not in ("id", "folder")}
        write_json(session.folder.parent / _ABOUT, about)


class Room:
    """Bytes that a session in the making takes of the quota: requests that come at once count together."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._taken = 0

    def take(self, size: int) -> None:
        """Count bytes before they are written.

        Raises:
            QuotaError: there is no room for them.
        """
        sessions = self._sessions
        with sessions._lock:
            if sessions._kept + sessions._coming + size > sessions.quota:
                most = f"{sessions.quota >> 20} MB"
                raise QuotaError(f"all sessions together may hold {most}; remove one, or wait until one has expired")
            sessions._coming += size
            self._taken += size

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        with self._sessions._lock:
            self._sessions._coming -= self._taken
