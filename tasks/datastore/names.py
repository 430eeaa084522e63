"""The name of a label: it differs for every label that was ever stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REF = "ref"
"""Key in a label's info."""
FOUND = "file:"
"""What the name of a label begins with that was put there by hand."""


def label_ref(info: Mapping[str, Any]) -> str:
    """The name of a label by its info; one that an earlier version stored has its time instead."""
    return str(info.get(REF) or info.get("ts") or "")


def is_found(info: Mapping[str, Any]) -> bool:
    """Whether a label was put there by hand, so that nothing is known of it."""
    return label_ref(info).startswith(FOUND)
