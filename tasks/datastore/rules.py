"""What a datastore asks of a label before it takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from monailabel.interfaces.datastore import DefaultLabelTag

FINAL = DefaultLabelTag.FINAL.value
"""Tag of the labels that people give."""


@dataclass(frozen=True)
class Accepted:
    """A label that fits its image.

    Attributes:
        file: what is stored: the file that was sent, or one made from it.
        about: what the sender is told and the datastore keeps with the label, such as ``segments`` and ``notes``.
    """

    file: Path
    about: Mapping[str, Any] = field(default_factory=dict)


class LabelRule(Protocol):
    """Decides whether a label fits its image."""

    def __call__(self, label: Path, image: Path, info: Mapping[str, Any], folder: Path) -> Accepted:
        """Look at a label.

        Args:
            label: file that was sent.
            image: its image.
            info: what was sent with it.
            folder: for a file that the rule makes; the rule makes the folder, too, if it needs it.

        Raises:
            LabelError: it does not fit; the message says why.
        """


def any_image(image: Path) -> None:
    """Take an image as it is."""


def any_label(label: Path, image: Path, info: Mapping[str, Any], folder: Path) -> Accepted:
    """Take a label as it is."""
    return Accepted(label)
