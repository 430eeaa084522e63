"""Find copies and near-copies in a folder of images, so that no split separates them.

``python -m tasks.duplicates STUDIES`` reports them and writes ``active_learning/duplicates.csv``, which trainings and
simulations of that folder then respect. Public slice collections are full of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import imagehash
import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.common.files import ImageError, read_table, write_table
from tasks.geometry.images import IMAGE_ENDINGS, intensities, read_image
from tasks.learning.groups import DUPLICATES_TABLE, LABELS_TABLE

HASH_SIDE = 16
BITS = HASH_SIDE**2
NEAR = 20
"""Differing bits of 256 up to which two images count as near-copies."""

_BLOCK = 2048


@dataclass(frozen=True)
class Copy:
    """One image of a group of copies.

    Attributes:
        file: file name.
        group: number of the group.
        exact: whether another image of the group has the very same pixels.
        distance: differing bits to the first image of the group.
    """

    file: str
    group: int
    exact: bool
    distance: int


def fingerprints(image: np.ndarray) -> tuple[str, np.ndarray]:
    """SHA-256 of the pixels, and the perceptual hash (of the mean over channels) as ``(256,)`` booleans.

    Args:
        image: ``[C, rows, columns]`` from :func:`tasks.geometry.images.read_image`.
    """
    digest = hashlib.sha256(f"{image.shape}{image.dtype}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
    grey = (255 * intensities(image).mean(0)).numpy().astype(np.uint8)
    return digest, imagehash.phash(Image.fromarray(grey), hash_size=HASH_SIDE).hash.reshape(-1)


def near_pairs(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of hashes that differ in at most so many bits.

    Args:
        hashes: ``(n, bits)`` booleans.
        distance: bits.

    Returns:
        Row and column indices, row < column.
    """
    signs = np.where(hashes, 1.0, -1.0).astype(np.float32)
    rows, columns = [], []
    for start in range(0, len(signs), _BLOCK):
        # The inner product of +-1 vectors is bits - 2 * distance.
        apart = (hashes.shape[1] - signs[start : start + _BLOCK] @ signs.T) / 2
        row, column = np.nonzero(apart <= distance + 0.25)
        later = column > row + start
        rows.append(row[later] + start)
        columns.append(column[later])
    return np.concatenate(rows or [np.zeros(0, int)]), np.concatenate(columns or [np.zeros(0, int)])


def find_copies(names: Sequence[str], digests: Sequence[str], hashes: np.ndarray, distance: int = NEAR) -> list[Copy]:
    """Group copies and near-copies; whoever is near to one image of a group belongs to it.

    Args:
        names: ``n`` file names.
        digests: of the pixels.
        hashes: ``(n, bits)`` perceptual hashes.
        distance: differing bits up to which images are near-copies.

    Returns:
        The images that have a copy, by group (the largest first) and name.
    """
    rows, columns = near_pairs(hashes, distance)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(names),) * 2)
    groups = connected_components(graph, directed=False)[1]
    members = [np.flatnonzero(groups == group) for group in np.flatnonzero(np.bincount(groups, minlength=1) > 1)]
    members.sort(key=lambda found: (-len(found), names[found[0]]))
    copies = []
    for number, found in enumerate(members, start=1):
        ordered = sorted(found, key=lambda index: names[index])
        inside = [digests[index] for index in ordered]
        for index in ordered:
            apart = int((hashes[index] != hashes[ordered[0]]).sum())
            copies.append(Copy(names[index], number, inside.count(digests[index]) > 1, apart))
    return copies


def main(
    studies: Annotated[Path, typer.Argument(help="folder with images in its root", exists=True, file_okay=False)],
    distance: Annotated[int, typer.Option(min=0, max=BITS // 2, help="differing bits of 256 for near-copies")] = NEAR,
) -> None:
    """Report exact and near duplicates and group them for training and simulation."""
    console = Console()
    files = sorted(path for path in studies.iterdir() if path.name.lower().endswith(IMAGE_ENDINGS))
    names, digests, hashes = [], [], []
    for file in track(files, description="reading images", console=console):
        try:
            digest, bits = fingerprints(read_image(file))
        except ImageError as error:
            console.print(f"[yellow]left out:[/] {error}")
            continue
        names.append(file.name)
        digests.append(digest)
        hashes.append(bits)
    copies = find_copies(names, digests, np.array(hashes).reshape(len(names), BITS), distance)
    table = studies / LABELS_TABLE
    labels = {row["file"]: row["label"] for row in read_table(table, ("file", "label"))} if table.is_file() else {}
    report = Table(title=f"copies among {len(names)} images")
    for column in ("group", "images", "exact copies", "labels", "files"):
        report.add_column(column, overflow="fold")
    for group in range(1, (copies[-1].group if copies else 0) + 1):
        inside = [copy for copy in copies if copy.group == group]
        found = sorted({labels[copy.file] for copy in inside if labels.get(copy.file)})
        shown = ", ".join(copy.file for copy in inside[:4]) + (" …" if len(inside) > 4 else "")
        words = f"[red]{' / '.join(found)}[/]" if len(found) > 1 else "".join(found)
        report.add_row(str(group), str(len(inside)), str(sum(copy.exact for copy in inside)), words, shown)
    if copies:
        console.print(report)
    out = studies / "active_learning" / DUPLICATES_TABLE
    out.parent.mkdir(exist_ok=True)
    write_table(out, ("file", "group", "exact", "distance"), [vars(copy) for copy in copies])
    console.print(f"{len(copies)} of {len(names)} images have a copy; written: {out}")


if __name__ == "__main__":
    typer.run(main)
