"""Words that leave the server: they name files, never the server's folders."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from monailabel.config import settings

_END = r"\s'\"`<>|:;,()\[\]{}"
"""What a path without blanks ends at."""


def without_paths(text: str) -> str:
    """A text in which every path of this machine is only the name of the file or folder that it leads to.

    Addresses such as ``/al/problems`` and URLs stay: only what begins with a folder of the file system's root counts.
    """
    return _paths(_known_folders()).sub(lambda found: found[0].rstrip("/").rpartition("/")[2], text)


def _known_folders() -> tuple[str, ...]:
    """Folders whose names may hold blanks, the innermost first."""
    given = [settings.MONAI_LABEL_STUDIES, settings.MONAI_LABEL_APP_DIR, tempfile.gettempdir(), sys.prefix]
    local = {str(Path(folder).absolute()) for folder in given if folder and "://" not in folder}
    return tuple(sorted(local | {str(Path(folder).resolve()) for folder in local}, key=len, reverse=True))


@lru_cache(maxsize=4)
def _paths(folders: tuple[str, ...]) -> re.Pattern[str]:
    starts = "|".join(re.escape(folder) for folder in (*folders, *(f"/{name}" for name in os.listdir("/"))))
    return re.compile(rf"(?<![\w.:/\\-])(?:{starts})(?![\w.-])(?:/[^{_END}]*)*")
