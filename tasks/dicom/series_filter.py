"""Which series of an archive are images, and which of a study are its channels."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.common.files import split_names
from tasks.dicom.client import Series


@dataclass(frozen=True)
class SeriesFilter:
    """Modalities and a pattern of the description.

    Attributes:
        modalities: such as ``("CT", "MR")``.
        pattern: regular expression, found anywhere in the description, whatever the case; None takes all.
    """

    modalities: tuple[str, ...]
    pattern: re.Pattern[str] | None = None

    @classmethod
    def parse(cls, text: str) -> SeriesFilter:
        """From ``MR``, ``CT,MR`` or ``MR:t1.*post``.

        Raises:
            ValueError: no modality, or the pattern is no regular expression.
        """
        names, _, pattern = text.partition(":")
        modalities = tuple(name.upper() for name in split_names(names))
        if not modalities or not all(name.isalnum() for name in modalities):
            raise ValueError(f"{text!r} must be modalities such as 'CT,MR', or 'MR:pattern of the description'")
        try:
            return cls(modalities, re.compile(pattern, re.IGNORECASE) if pattern else None)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error

    def takes(self, series: Series) -> bool:
        """Whether a series is an image."""
        return series.Modality in self.modalities and (
            self.pattern is None or self.pattern.search(series.SeriesDescription) is not None
        )


def channel_series(name: str, study: Iterable[Series]) -> Series | None:
    """The series of a study that a channel's name means.

    Descriptions are compared by letters and digits only: ``T1post`` means ``T1 POST``, ``T1_post`` and, where there is
    no such, the shortest description with ``t1post`` in it.
    """
    wanted = _plain(name)
    found = [series for series in study if wanted in _plain(series.SeriesDescription)]
    return min(
        found, key=lambda series: (len(_plain(series.SeriesDescription)), series.SeriesInstanceUID), default=None
    )


def images(found: Sequence[Series], channels: Sequence[str]) -> dict[str, tuple[Series | None, ...]]:
    """What of an archive is an image: series id -> its channels.

    Args:
        found: series that the filter takes.
        channels: names of the channels; with fewer than two every series is an image.

    Returns:
        Per image the series of each channel, the first being the image's own; None for one that its study lacks.
        Studies without the first channel have no image.
    """
    if len(channels) < 2:
        wanted = [series for series in found if not channels or _plain(channels[0]) in _plain(series.SeriesDescription)]
        return {series.SeriesInstanceUID: (series,) for series in wanted}
    studies: dict[str, list[Series]] = defaultdict(list)
    for series in found:
        studies[series.StudyInstanceUID].append(series)
    result: dict[str, tuple[Series | None, ...]] = {}
    for study in studies.values():
        first, *others = (channel_series(name, study) for name in channels)
        if first is not None:
            result[first.SeriesInstanceUID] = (first, *others)
    return result


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
