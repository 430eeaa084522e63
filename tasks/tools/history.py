"""Shorten the history of a studies folder, which nothing else ever does.

``python -m tasks.history STUDIES --before 2026-01-01`` deletes the lines of the audit trail and the earlier versions of
labels that are older than a date. It works while the server runs: it deletes a little at a time, and nothing that the
server still needs but *Undo* of answers of that time and their share in a reader's count.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tasks.datastore.folder import HISTORY
from tasks.store.retention import delete_history
from tasks.tools.stores import store_of

_STAMP = "%Y%m%dT%H%M%S.%f"


def delete_versions(folder: Path, before: dt.datetime) -> int:
    """Delete earlier versions of labels that were replaced or removed before a time.

    Args:
        folder: ``labels/history`` of a studies folder; files that are not named as versions are stay.
        before: UTC, without a time zone.

    Returns:
        Files deleted.
    """
    deleted = 0
    for file in folder.glob("*/*"):
        if (replaced := _replaced_at(file)) is not None and replaced < before:
            file.unlink(missing_ok=True)
            deleted += 1
    return deleted


def _replaced_at(file: Path) -> dt.datetime | None:
    """When a version was replaced, by its name such as ``20260101T120000.000000.nii.gz``."""
    parts = file.name.split(".")
    try:
        return dt.datetime.strptime(".".join(parts[:2]), _STAMP)
    except ValueError:
        return None


def main(
    studies: Annotated[Path, typer.Argument(help="studies folder", exists=True, file_okay=False)],
    before: Annotated[dt.datetime, typer.Option(help="date or time (UTC); everything older is deleted for good")],
    store: Annotated[str, typer.Option(help="as the server's --conf store; default the file in STUDIES")] = "",
) -> None:
    """Delete the history of answers and the earlier versions of labels that are older than a date."""
    database = store_of(studies, store)
    lines = delete_history(database, before)
    database.close()
    files = delete_versions(studies / "labels" / HISTORY, before)
    Console().print(f"{lines} lines of the history, {files} earlier versions of labels deleted")


if __name__ == "__main__":
    typer.run(main)
