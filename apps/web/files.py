"""The files of the pages: each name is unique, whatever folder it lies in."""

from __future__ import annotations

from pathlib import Path
from string import Template

from apps.web.headers import PAGE

FILES = {file.name: file for file in sorted(Path(__file__).resolve().parent.glob("*/*")) if file.suffix != ".pyc"}
"""Name -> file."""
ONLY_OURS = {"Content-Security-Policy": PAGE, "Cache-Control": "no-cache"}
"""Headers of a page whose scripts and styles are among these."""


def template(name: str) -> Template:
    """A page with places to fill in.

    Args:
        name: of the file.
    """
    return Template(FILES[name].read_text(encoding="utf-8"))
