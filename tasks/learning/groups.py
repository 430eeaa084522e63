"""Groups of images that a split must not separate: the slices of one patient, the copies of one image."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.common.files import image_id, read_table

LABELS_TABLE = "labels.csv"
DUPLICATES_TABLE = "duplicates.csv"


@dataclass(frozen=True)
class Grouping:
    """Says which images belong together.

    Attributes:
        tables: each a mapping from image id to the name of its group; an image in none of them is on its own.
        pattern: regular expression that finds the group in an image id (its first group, else the whole match).
    """

    tables: Sequence[Mapping[str, str]] = ()
    pattern: str = ""

    def __call__(self, image_ids: Sequence[str]) -> np.ndarray:
        """Group numbers ``(n,)``: images that share a group in any way, also through a third one, have the same."""
        names = [self._names(image) for image in image_ids]
        numbers: dict[str, int] = {}
        pairs = [(row, numbers.setdefault(name, len(numbers))) for row, found in enumerate(names) for name in found]
        size = len(image_ids)
        rows = np.array([row for row, _ in pairs], int)
        columns = np.array([size + column for _, column in pairs], int)
        graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(size + len(numbers),) * 2)
        return np.asarray(connected_components(graph, directed=False)[1][:size])

    def _names(self, image: str) -> list[str]:
        found = [f"{kind}:{table[image]}" for kind, table in enumerate(self.tables) if table.get(image)]
        match = re.search(self.pattern, image) if self.pattern else None
        if match:
            found.append(f"pattern:{match.group(1) if match.re.groups else match.group()}")
        return found


def read_grouping(studies: Path, group_by: str, duplicates: Path | None = None) -> Grouping:
    """The grouping of a studies folder.

    Args:
        studies: folder that may hold a ``labels.csv``.
        group_by: a column of ``labels.csv``, or a regular expression on image ids; empty groups nothing.
        duplicates: table written by ``python -m tasks.duplicates``, if there is one.

    Raises:
        ValueError: ``group_by`` is neither.
    """
    tables = []
    if duplicates is not None and duplicates.is_file():
        tables.append({image_id(row["file"]): row["group"] for row in read_table(duplicates, ("file", "group"))})
    if not group_by:
        return Grouping(tables)
    table = studies / LABELS_TABLE
    rows = read_table(table, ("file",)) if table.is_file() else []
    if rows and group_by in rows[0]:
        return Grouping([*tables, {image_id(row["file"]): row[group_by] for row in rows}])
    known = f"{table.name} has the columns {', '.join(rows[0])}" if rows else f"there is no {LABELS_TABLE}"
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ValueError(f"group_by {group_by!r} is no regular expression ({error}), and {known}") from error
    if pattern.groups == 0 and re.escape(group_by) == group_by:
        raise ValueError(f"group_by {group_by!r} is no column ({known}) and no pattern such as ^(patient[0-9]+)")
    return Grouping(tables, group_by)


def hold_out(
    groups: Sequence[int] | np.ndarray, share: float, rng: np.random.Generator, classes: Sequence[int] | None = None
) -> list[int]:
    """Choose whole groups to hold out.

    Not scikit-learn's splitters: ``GroupShuffleSplit`` takes a share of the groups, not of the images, and
    ``StratifiedGroupKFold`` needs as many groups as folds; here one patient may have most of a few images.

    Args:
        groups: ``(n,)`` group of each image.
        share: of the images to hold out; never more than that unless a single group is larger.
        rng: decides which groups.
        classes: ``(n,)`` class of each image: of several draws the one that leaves every class on both sides.

    Returns:
        Indices held out, ascending; empty if there is only one group or nothing to hold out.
    """
    labels = np.asarray(groups)
    wanted = round(share * len(labels))
    sizes = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    if wanted < 1 or len(sizes) < 2:
        return []
    best: tuple[int, list[int]] | None = None
    for _ in range(1 if classes is None else 50):
        order = labels[rng.permutation(len(labels))]
        chosen: list[int] = []
        room = wanted
        for group in dict.fromkeys(order.tolist()):
            if sizes[group] <= room:
                chosen.append(group)
                room -= sizes[group]
        if not chosen:
            chosen = [min(sizes, key=lambda group: (sizes[group], group))]
        held = np.isin(labels, chosen)
        missing = 0
        if classes is not None:
            values = np.asarray(classes)
            every = set(values.tolist())
            # A class that training lacks is worse than one that validation lacks.
            missing = 10 * len(every - set(values[~held].tolist())) + len(every - set(values[held].tolist()))
        if best is None or missing < best[0]:
            best = missing, np.flatnonzero(held).tolist()
        if best[0] == 0:
            break
    assert best is not None
    return best[1]


def hold_out_by_name(names: Sequence[str], share: float, seed: int) -> list[int]:
    """Choose whole groups to hold out so that a group stays on its side however many others come.

    Args:
        names: ``(n,)`` name of each image's group.
        share: probability with which a group is held out.
        seed: with the name, decides whether it is.

    Returns:
        Indices held out, ascending. With two groups or more, one at least is held out and one is not.
    """
    values = {name: zlib.crc32(f"{seed}/{name}".encode()) / 2**32 for name in names}
    if len(values) < 2:
        return []
    order = sorted(values, key=lambda name: values[name])
    count = sum(value < share for value in values.values())
    held = set(order[: min(max(count, 1), len(order) - 1)])
    return [index for index, name in enumerate(names) if name in held]
