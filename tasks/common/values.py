"""Values that requests and command lines give: what they mean, and a clear error for what they cannot mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def whole(value: Any) -> int:
    """A whole number, also as text or as a float without fraction.

    Raises:
        ValueError: anything else.
    """
    number = int(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(value)
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(value)
    return int(number)


def number(value: Any) -> float:
    """A finite number, also as text.

    Raises:
        ValueError: anything else.
    """
    found = float(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(value)
    try:
        found = float(found)
    except OverflowError as error:
        raise ValueError(value) from error
    if not math.isfinite(found):
        raise ValueError(value)
    return found


def boolean(value: Any) -> bool:
    """True or false, also as text or as 1 and 0.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool):
        return value
    meaning = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())
    if meaning is None:
        raise ValueError(value)
    return meaning


def text(value: Any) -> str:
    """Text.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, str):
        raise ValueError(value)
    return value


_KINDS: dict[type, tuple[Callable[[Any], Any], str]] = {
    int: (whole, "a whole number"),
    float: (number, "a number"),
    bool: (boolean, "true or false"),
    str: (text, "text"),
}


def of_kind(name: str, value: Any, kind: type) -> Any:
    """A value of a kind.

    Args:
        name: what the value is of, for the error.
        value: as it was given.
        kind: ``int``, ``float``, ``bool`` or ``str``.

    Raises:
        ValueError: it cannot be one; the message names it.
    """
    parse, words = _KINDS[kind]
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{name} must be {words}, got {shown(value)}") from error


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise ``ValueError`` for a number out of range; the message names it."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {shown(value)}")


def one_of(name: str, value: str, allowed: tuple[str, ...] | list[str]) -> None:
    """Raise ``ValueError`` for a text that is none of those allowed; the message names it and them."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {shown(value)}")


_SHOWN = 100
"""Characters of a value that an error repeats."""


def shown(value: Any) -> str:
    """A value as an error repeats it."""
    try:
        words = repr(value)
    except ValueError:  # an integer of thousands of digits
        words = f"a {type(value).__name__}"
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"
