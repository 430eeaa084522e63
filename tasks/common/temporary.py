"""Temporary files of a server and its jobs: in a folder of their own, which the next start empties after a kill."""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import shutil
import tempfile
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

TEMPORARY = "tmp"
"""Folder, beside the models, with one folder for each living process and its lock."""
_LONGEST_FOR_SOCKETS = 70
"""Characters of a folder in which ``multiprocessing`` can still make its sockets: their paths end after 107."""


class TemporaryFolder:
    """A folder for all temporary files of this process, its libraries' too, for as long as the process lives.

    A lock tells other processes that it is in use; the system takes the lock back however the process ends.

    Args:
        parent: where the folders of all processes are, made if missing.
    """

    def __init__(self, parent: Path) -> None:
        self.folder = parent / uuid.uuid4().hex[:12]
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent)
        self._process = os.getpid()
        self._lock = FileLock(_lock_of(self.folder), thread_local=False)
        self._lock.acquire(timeout=5)  # another process may just look whether anybody holds it
        try:
            self.folder.mkdir(mode=0o700)
        except OSError:
            self._lock.release()
            _lock_of(self.folder).unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove it with everything in it; a fork of the process does nothing."""
        if os.getpid() != self._process:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        _lock_of(self.folder).unlink(missing_ok=True)
        self._lock.release()


def sweep(parent: Path) -> None:
    """Remove the folders of processes that are gone."""
    for lock_file in parent.glob("*.lock"):
        folder = lock_file.with_suffix("")
        lock = FileLock(lock_file, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # its process lives
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            lock_file.unlink(missing_ok=True)
            logger.info("removed temporary files that a killed server or job has left")
        lock.release()


_current: TemporaryFolder | None = None


def use_temporary_folder(parent: Path) -> None:
    """Let this process, with all its libraries, keep temporary files in a folder of its own below another one.

    Where that cannot be, as on a full disk, they stay in the system's folder, and the log says so.
    """
    global _current
    forget_temporary_folder()
    try:
        made = TemporaryFolder(parent)
    except (OSError, NotImplementedError) as error:  # read-only, full, or a file system without locks
        logger.warning("temporary files are kept in the system's folder: %s", error)
        return
    if len(str(made.folder)) > _LONGEST_FOR_SOCKETS:
        multiprocessing.util.get_temp_dir()  # is decided once, at the first call
    tempfile.tempdir = str(made.folder)
    _current = made


def forget_temporary_folder() -> None:
    """Remove this process's folder; what comes next goes to the system's."""
    global _current
    if _current is not None:
        tempfile.tempdir = None
        _current.remove()
        _current = None


atexit.register(forget_temporary_folder)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")
