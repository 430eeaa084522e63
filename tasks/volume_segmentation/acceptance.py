"""Whether a label map fits its volume, and what is stored of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from tasks.common.files import ImageError, LabelError, reading
from tasks.datastore.rules import Accepted
from tasks.geometry.grid import Grid, onto, read_grid
from tasks.geometry.label_values import check_counts, load, read_nifti_label, value_counts
from tasks.geometry.sizes import check_label, is_nrrd, sides
from tasks.geometry.volumes import IMAGE_ENDINGS

RAW = ".bin"
"""Ending of a label as OHIF keeps it in memory: one byte per voxel of the image, the first axis fastest."""
_BACKGROUND = "background"


class VolumeRule:
    """Takes label maps that are on the grid of their image and have the declared labels.

    Segments are recognised by name where the sender names them (``label_info`` with ``name`` and ``idx``), else by
    value. What differs from the image in its directions only is brought onto the image's grid.

    Args:
        names: foreground label names, value 1 first.
        allow_empty: whether a label map without any segment is a label.
    """

    def __init__(self, names: Sequence[str], allow_empty: bool = False) -> None:
        self._names = list(names)
        self._allow_empty = allow_empty

    def __call__(self, label: Path, image: Path, info: Mapping[str, Any], folder: Path) -> Accepted:
        """Look at a label map: see :class:`tasks.datastore.rules.LabelRule`.

        Returns:
            The label map, with ``segments`` (label name -> voxels) and ``notes`` (what was changed).
        """
        try:
            target = read_grid(image)
        except ImageError as error:
            raise LabelError(f"its image cannot be read: {str(error).replace(str(image), image.name)}") from error
        try:
            values, grid = self._read(label, target)
        except ImageError as error:
            raise LabelError(str(error).replace(str(label), "the label")) from error
        values, note = onto(values, grid, target)
        counts = value_counts(values)
        own = self._by_name(counts, info.get("label_info"))
        declared: Counter[float] = Counter()
        for value, count in counts.items():
            declared[own.get(value, value)] += count
        try:
            check_counts(declared, "the label", len(self._names) + 1)
        except ImageError as error:
            raise LabelError(f"{error} ({', '.join(self._names)})") from error
        segments = {name: declared[value] for value, name in enumerate(self._names, start=1)}
        if not (self._allow_empty or any(segments.values())):
            raise LabelError("the label is empty; the option allow_empty would take it")
        mapped = values.copy() if own else values
        for value, wanted in own.items():
            mapped[values == value] = wanted
        about: dict[str, Any] = {"segments": segments, "notes": [note] if note else []}
        if not note and mapped is values and label.name.endswith(IMAGE_ENDINGS):
            return Accepted(label, about)
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / "label.nii.gz"
        nibabel.save(nibabel.Nifti1Image(mapped.astype(np.uint8), target.affine), made)
        return Accepted(made, about)

    def _read(self, label: Path, image: Grid) -> tuple[np.ndarray, Grid]:
        if label.name.endswith(RAW):
            return _read_raw(label, image)
        if not label.name.endswith(IMAGE_ENDINGS):
            raise ImageError(f"{label} is no {', '.join((*IMAGE_ENDINGS, RAW))} file")
        check_label(label, image.shape, len(self._names) + 1)
        return _read_volume(label)

    def _by_name(self, counts: Mapping[float, int], segments: Any) -> dict[float, int]:
        """Values that mean something else than ours -> the value that we declare for it."""
        if not segments:
            return {}
        wanted = {name.lower(): value for value, name in enumerate(self._names, start=1)} | {_BACKGROUND: 0}
        table: dict[float, int] = {}
        for index, name in _segments(segments):
            own = index if name.lower() in _GENERIC else wanted.get(name.lower())
            if index in counts and own is None:
                raise LabelError(f"segment {name!r} is none of {', '.join(self._names)}")
            if index in counts and own is not None and own != index:
                table[index] = own
        return table


_GENERIC = {"", "unknown"}
"""Names that say nothing: the value counts."""


def _segments(given: Any) -> list[tuple[int, str]]:
    try:
        segments = [segment for segment in list(given) if segment.get("idx") is not None]
        return [(int(segment["idx"]), str(segment.get("name") or "").strip()) for segment in segments]
    except (TypeError, ValueError, AttributeError) as error:
        raise LabelError('label_info must be a list of {"name": ..., "idx": ...}') from error


def _read_volume(label: Path) -> tuple[np.ndarray, Grid]:
    if not is_nrrd(label):
        values, affine = read_nifti_label(label)
        return values, Grid(tuple(values.shape), affine)
    volume = load(label)
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise ImageError(f"{label} is not one volume: {sides(volume.shape)}")
    values = volume[0].numpy()
    return np.asarray(values), Grid(tuple(values.shape), np.asarray(volume.affine, dtype=float))


def _read_raw(label: Path, image: Grid) -> tuple[np.ndarray, Grid]:
    with reading(label):
        size = label.stat().st_size
        if size != math.prod(image.shape):
            expected = f"one per voxel of the image, {sides(image.shape)}, were expected"
            raise ImageError(f"{label} has {size} bytes; {expected}")
        values = np.fromfile(label, dtype=np.uint8)
    return values.reshape(image.shape, order="F"), image
