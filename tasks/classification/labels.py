"""Label files of graded images: JSON such as ``{"label": "HGG"}``; and labels imported from a table.

``python -m tasks.classification.labels STUDIES --labels LGG,HGG`` imports ``labels.csv`` of a studies folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tasks.classification.datastore import GradedFolder, read_grade
from tasks.common.files import ImageError, image_id, read_table, split_names
from tasks.datastore.rules import FINAL
from tasks.learning.groups import LABELS_TABLE


def read_class(file: str | Path, classes: Sequence[str]) -> int:
    """Class of a label file.

    Args:
        file: JSON with the class name under ``label``.
        classes: class names, in the order of the network's outputs.

    Returns:
        Index into ``classes``.

    Raises:
        ImageError: unreadable, or a class that is not declared.
    """
    try:
        name = (read_grade(Path(file)) or {})["label"]
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f'{file} is not a label such as {{"label": "{classes[0]}"}}: {error}') from error
    if name not in classes:
        raise ImageError(f"{file} has the class {name!r}; declared are {', '.join(classes)}")
    return list(classes).index(name)


def import_labels(studies: Path, table: Path, classes: Sequence[str]) -> dict[str, int]:
    """Give images the labels of a table; an image that has a final label already keeps it.

    Args:
        studies: studies folder.
        table: CSV with the columns ``file`` and ``label``.
        classes: class names; none takes any.

    Returns:
        Numbers of labels ``imported``, ``kept`` (labelled before), ``unlabelled`` (empty in the table) and
        ``missing`` (no such image).

    Raises:
        ValueError: unreadable table or an unknown class, with its line; nothing is imported then.
    """
    rows = read_table(table, ("file", "label"))
    for number, row in enumerate(rows, start=2):
        if row["label"] and classes and row["label"] not in classes:
            raise ValueError(f"{table} line {number}: {row['label']!r} is none of {', '.join(classes)}")
    datastore = GradedFolder(str(studies), classes=classes)
    known, labelled = set(datastore.list_images()), set(datastore.get_labeled_images())
    counts = dict.fromkeys(("imported", "kept", "unlabelled", "missing"), 0)
    found: dict[str, str] = {}
    for row in rows:
        image = image_id(row["file"])
        if not row["label"]:
            counts["unlabelled"] += 1
        elif image not in known:
            counts["missing"] += 1
        elif image in labelled:
            counts["kept"] += 1
        else:
            found[image] = row["label"]
    datastore.import_classes(found, FINAL, {"client_id": table.name})
    return {**counts, "imported": len(found)}


def main(
    studies: Annotated[Path, typer.Argument(help="studies folder", exists=True, file_okay=False)],
    labels: Annotated[str, typer.Option(help="class names, comma separated; empty takes any")] = "",
    table: Annotated[Path | None, typer.Option(help="CSV with file and label; default labels.csv in STUDIES")] = None,
) -> None:
    """Import labels from a CSV file into a studies folder."""
    classes = split_names(labels)
    try:
        counts = import_labels(studies, table or studies / LABELS_TABLE, classes)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--table") from error
    Console().print(", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    typer.run(main)
