"""Watches a studies folder and tells once things have become quiet: files that came, went, or were written anew."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

logger = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
LONGEST_SECONDS = 5.0
"""A copy of many files is told of this often while it goes on."""
POLL_SECONDS = 30.0
"""A file system of another machine does not tell: it is looked at this often, for files that came and went."""
_REMOTE = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "gluster", "afs", "virtiofs")


class Watcher:
    """Calls back after files of a folder came, went or were renamed.

    Args:
        folder: watched with its sub-folders.
        concerns: whether a path matters.
        tell: called in a thread of its own, never twice at once.
    """

    def __init__(self, folder: Path, concerns: Callable[[Path], bool], tell: Callable[[], None]) -> None:
        self._concerns = concerns
        self._tell = tell
        self._seen = threading.Event()
        self._last = threading.Event()
        handler = FileSystemEventHandler()
        handler.on_created = handler.on_deleted = handler.on_moved = self._event  # type: ignore[method-assign]
        handler.on_closed = self._event  # type: ignore[method-assign]
        self._observer = PollingObserver(timeout=POLL_SECONDS) if _is_remote(folder) else Observer()
        try:
            self._observer.schedule(handler, str(folder), recursive=True)
            self._observer.start()
        except OSError as error:
            logger.error("%s cannot be watched, changes are seen at the next start: %s", folder, error)
            return
        threading.Thread(target=self._work, name="studies-watcher", daemon=True).start()

    def _event(self, event: FileSystemEvent) -> None:
        if any(path and self._concerns(Path(str(path))) for path in (event.src_path, event.dest_path)):
            self._seen.set()
            self._last.set()

    def look_again(self) -> None:
        """Call back in a moment although nothing has come, gone or been renamed."""
        self._seen.set()

    def _work(self) -> None:
        while True:
            self._seen.wait()
            waited = 0.0
            while waited < LONGEST_SECONDS:
                self._last.clear()
                if not self._last.wait(QUIET_SECONDS):
                    break
                waited += QUIET_SECONDS
            self._seen.clear()
            try:
                self._tell()
            except Exception:  # the watcher must outlive one failure
                logger.exception("a change in the studies folder could not be followed")

    def stop(self) -> None:
        """Watch no longer."""
        self._observer.stop()


def _is_remote(folder: Path) -> bool:
    """Whether a folder is on a file system that does not tell of changes."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return False
    real = folder.resolve()
    under = [(len(point), kind) for point, kind in mounts if real.is_relative_to(point)]
    return bool(under) and max(under)[1].startswith(_REMOTE)
