"""The store that a command works on."""

from __future__ import annotations

from pathlib import Path

import typer

from tasks.store.store import Store


def store_of(studies: Path, store: str) -> Store:
    """Open the store of a studies folder.

    Args:
        studies: the folder.
        store: as the server's ``--conf store``; empty for the file in the folder.

    Raises:
        typer.BadParameter: there is none, or it cannot be opened.
    """
    location = store or str(studies / "active_learning" / "store.sqlite")
    if "://" not in location and not Path(location).is_file():
        raise typer.BadParameter(f"there is no store {location}", param_hint="--store")
    try:
        return Store(location)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--store") from error
