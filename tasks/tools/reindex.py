"""Have the index of a studies folder made again from its files.

``python -m tasks.reindex STUDIES`` forgets which images and labels there are; the next start of the server finds them
by their files. Rounds, history and models stay, and who gave a label is known from the history as long as its file is
the one that was given. Not for a DICOMweb archive: what is known of its series, and of labels on their way there, is
nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tasks.datastore.index import Index
from tasks.tools.stores import store_of


def main(
    studies: Annotated[Path, typer.Argument(help="studies folder", exists=True, file_okay=False)],
    store: Annotated[str, typer.Option(help="as the server's --conf store; default the file in STUDIES")] = "",
) -> None:
    """Forget the index of a studies folder, so that the next start of the server makes it again from the files."""
    database = store_of(studies, store)
    forgotten = Index(database).clear()
    database.close()
    Console().print(
        f"{forgotten} images and labels are forgotten; the next start of the server finds them by their files"
    )


if __name__ == "__main__":
    typer.run(main)
