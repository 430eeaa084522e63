"""Labels that were refused, kept for a while: an hour's work must not be lost over a wrong header."""

from __future__ import annotations

import datetime as dt
import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.common.files import read_own_json

logger = logging.getLogger(__name__)

KEPT_DAYS = 30
_ABOUT = "reason.json"
LARGEST = 20 << 30
"""Bytes kept in all; the oldest go first."""
MOST = 10_000
"""Refused labels kept in all; the oldest go first."""


class RejectedLabels:
    """The folder ``rejected``: per refused label a folder with its bytes and ``reason.json``.

    Args:
        folder: made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sizes: dict[str, int] = {}

    def keep(self, label: Path, name: str, about: Mapping[str, Any], reason: str) -> Path:
        """Keep a refused label.

        Args:
            label: file that was sent.
            name: safe name of the file to keep it under.
            about: image, tag and what else came with it.
            reason: why it was refused.

        Returns:
            The folder it is kept in.
        """
        time = dt.datetime.now(dt.timezone.utc)
        place = self.folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        try:
            place.mkdir(parents=True)
            shutil.copyfile(label, place / name)
            content = {**about, "reason": reason, "at": time.isoformat(), "file": name}
            (place / _ABOUT).write_text(json.dumps(content, indent=2, default=str))
            self._sizes[place.name] = _size(place)
        except OSError:
            shutil.rmtree(place, ignore_errors=True)
            raise
        self.forget_old(time)
        return place

    def names(self) -> list[str]:
        """Names of the refused labels that are kept, the newest first."""
        return sorted((place.name for place in self.folder.glob("*-*")), reverse=True)

    def about(self, name: str) -> dict[str, Any]:
        """What is known of a refused label: ``image``, ``tag``, ``reason``, ``at``, ``file`` and who sent it."""
        known = read_own_json(self.folder / name / _ABOUT)
        params = known.pop("params", None)
        return {**known, "client_id": str(params.get("client_id") or "") if isinstance(params, dict) else ""}

    def forget_old(self, time: dt.datetime | None = None) -> None:
        """Remove what is older than 30 days, and the oldest where all of it has become too much."""
        limit = (time or dt.datetime.now(dt.timezone.utc)) - dt.timedelta(days=KEPT_DAYS)
        total = 0
        for number, name in enumerate(self.names()):
            if name not in self._sizes:  # kept by another process
                self._sizes[name] = _size(self.folder / name)
            total += self._sizes[name]
            if name < limit.strftime("%Y%m%dT%H%M%S") or total > LARGEST or number >= MOST:
                shutil.rmtree(self.folder / name, ignore_errors=True)
                self._sizes.pop(name, None)
                logger.info("the refused label %s is not kept any longer", name)


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; 0 if another thread has just removed it."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:
        return 0
