"""Where the frames of DICOM instances are in space: one per slice, or many in an enhanced (multi-frame) instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

GROUPS = "PerFrameFunctionalGroupsSequence"


@dataclass(frozen=True)
class Frame:
    """A plane of pixels in space.

    Attributes:
        position: of the first pixel, mm (LPS).
        orientation: directions of a row and of a column (LPS).
        spacing: of rows and of columns, mm.
        rows: number of rows.
        columns: number of columns.
    """

    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    rows: int
    columns: int

    @property
    def along(self) -> float:
        """Place on the plane's normal, mm."""
        return float(self.position @ np.cross(self.orientation[:3], self.orientation[3:]))


def claimed(instance: Dataset) -> tuple[int, int, int, int]:
    """Frames, rows, columns and samples per pixel that an instance claims to have, whether their pixels are there.

    Raises:
        ValueError: it does not say, or no number.
    """
    try:
        frames = max(int(instance.get("NumberOfFrames") or 1), len(instance.get(GROUPS) or ()))
        return frames, int(instance.Rows), int(instance.Columns), int(instance.get("SamplesPerPixel") or 1)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"pixels of an unknown number: {error}") from error


def frames_of(instance: Dataset) -> list[Frame]:
    """The frames of an instance, in their order.

    Raises:
        ValueError: a frame without position, orientation or spacing.
    """
    try:
        rows, columns = int(instance.Rows), int(instance.Columns)
        if GROUPS not in instance:
            if int(instance.get("NumberOfFrames") or 1) > 1:
                raise ValueError("several frames, but not the place of each")
            position, orientation = _numbers(instance.ImagePositionPatient), _numbers(instance.ImageOrientationPatient)
            return [Frame(position, orientation, _numbers(instance.PixelSpacing), rows, columns)]
        return [
            Frame(
                _numbers(group(instance, own, "PlanePositionSequence").ImagePositionPatient),
                _numbers(group(instance, own, "PlaneOrientationSequence").ImageOrientationPatient),
                _numbers(group(instance, own, "PixelMeasuresSequence").PixelSpacing),
                rows,
                columns,
            )
            for own in instance[GROUPS].value
        ]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"slices without position or orientation: {error}") from error


def group(instance: Dataset, own: Dataset, name: str) -> Dataset:
    """A functional group of a frame: its own or the shared one.

    Args:
        instance: an enhanced instance.
        own: the frame's item of its per-frame groups.
        name: keyword of the group's sequence.

    Raises:
        TypeError, IndexError: there is none.
    """
    shared = instance.get("SharedFunctionalGroupsSequence") or [Dataset()]
    return (own.get(name) or shared[0].get(name))[0]


def _numbers(values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype=float)
