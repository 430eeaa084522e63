"""Checksums of images, computed in the background, so that a viewer on another machine sees that a file has changed."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.exception import ImageNotFoundException
from sqlalchemy.exc import SQLAlchemyError

from tasks.common.files import fingerprint, reason

logger = logging.getLogger(__name__)

CHECKSUM = "checksum"
"""Key in an image's info: ``SHA256:`` and the digest of the file in hexadecimal, as 3D Slicer compares it."""
CHECKSUM_OF = "checksum_of"
"""Key in an image's info: size and modification time of the file that the checksum is of."""
_BATCH = 200
"""Checksums that are kept with one change of the index."""
_PIECE = 1 << 20
_RETRY_SECONDS = 10.0


def checksum(file: Path) -> str:
    """``SHA256:`` and the digest of a file in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as reader:
        while piece := reader.read(_PIECE):
            digest.update(piece)
    return f"SHA256:{digest.hexdigest()}"


class Checksums:
    """One thread of low priority that gives every image its checksum.

    Args:
        file_of: where an image's file is; raises ``ImageNotFoundException`` if there is none.
        info_of: what is kept with an image.
        keep: keeps values in the info of many images.
    """

    def __init__(
        self,
        file_of: Callable[[str], Path],
        info_of: Callable[[str], Mapping[str, Any]],
        keep: Callable[[Mapping[str, Mapping[str, Any]]], None],
    ) -> None:
        self._file_of = file_of
        self._info_of = info_of
        self._keep = keep
        self._urgent: deque[str] = deque()
        self._others: deque[str] = deque()
        self._wake = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._work, name="checksums", daemon=True).start()

    def add(self, image_ids: Iterable[str]) -> None:
        """Images have appeared."""
        self._others.extend(image_ids)
        self._wake.set()

    def first(self, image_id: str) -> None:
        """Somebody works with an image now."""
        self._urgent.append(image_id)
        self._wake.set()

    def close(self) -> None:
        """Compute no more."""
        self._closed.set()
        self._wake.set()

    def _work(self) -> None:
        _lower_priority()
        found: dict[str, dict[str, Any]] = {}
        while not self._closed.is_set():
            self._wake.clear()
            urgent = bool(self._urgent)
            queue = self._urgent or self._others
            if queue:
                started = time.monotonic()
                found.update(self._look_at(queue.popleft()))
                # Half of the time at most: whoever works with the images reads from the same disk.
                self._closed.wait(0.0 if self._urgent else time.monotonic() - started)
            if found and (urgent or len(found) >= _BATCH or not queue):
                try:
                    self._keep(found)
                except (OSError, SQLAlchemyError) as error:
                    logger.warning("checksums cannot be kept now: %s", reason(error))
                    self._closed.wait(_RETRY_SECONDS)
                else:
                    found = {}
            elif not queue:
                self._wake.wait()

    def _look_at(self, image_id: str) -> dict[str, dict[str, Any]]:
        """The checksum of an image whose file has none yet or has changed, by its id."""
        try:
            file = self._file_of(image_id)
            before = fingerprint([file])
            if not file.is_file() or self._info_of(image_id).get(CHECKSUM_OF) == before:
                return {}
            value = checksum(file)
        except ImageNotFoundException:  # gone in the meantime
            return {}
        except OSError as error:
            logger.warning("%s has no checksum: %s", image_id, error)
            return {}
        # A file that is being written has another one soon.
        return {image_id: {CHECKSUM: value, CHECKSUM_OF: before}} if fingerprint([file]) == before else {}


def _lower_priority() -> None:
    """Let every other thread go first, where the system has priorities of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
