"""What a simulation needs to know about a kind of task: true labels, the annotator's answer, and the examination."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

ANNOTATOR = "oracle"


@dataclass(frozen=True)
class Measure:
    """A result of a model on the test images.

    Attributes:
        key: name in the rows.
        title: for people.
    """

    key: str
    title: str


class Oracle(ABC):
    """Stands in for the annotator of one app, and examines its models.

    Attributes:
        model: trainer and inferer that are compared.
        endings: of image files.
        measures: the one that curves show first.
        notes: what tables add, as the mean over the rounds that have it.
    """

    model: ClassVar[str]
    endings: ClassVar[Sequence[str]]
    measures: ClassVar[Sequence[Measure]]
    notes: ClassVar[Sequence[Measure]] = ()

    @abstractmethod
    def truth(self, folder: Path, names: Sequence[str], described: bool) -> dict[str, str]:
        """True labels.

        Args:
            folder: data set.
            names: image file names.
            described: whether the folder has a ``dataset.json`` (and so ``images/`` and ``labels/``).

        Returns:
            Image name -> label file or class name.

        Raises:
            ValueError: an image without label.
        """

    @abstractmethod
    def answer(self, app: Any, image_id: str, truth: str) -> str:
        """Give the true label of an image; returns the label id."""

    @abstractmethod
    def examine(self, app: Any, test: Mapping[str, Path], truth: Mapping[str, str]) -> dict[str, Any]:
        """Results of the app's current model on test images.

        Returns:
            The measures, and ``per_image``: one result per image, in the order of their names.
        """
