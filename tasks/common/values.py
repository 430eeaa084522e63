"""Values that requests and command lines give: what they mean, and a clear error for what they cannot mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator, TypeAdapter, ValidationError, ValidationInfo


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


def _kind(kind: type) -> PlainValidator:
    def parse(value: Any, info: ValidationInfo) -> Any:
        return of_kind(str(info.field_name), value, kind)

    return PlainValidator(parse)


LARGEST_SEED = 2**31 - 1
"""Of those that NumPy, PyTorch and MONAI all take."""
Whole = Annotated[int, _kind(int)]
Number = Annotated[float, _kind(float)]
Flag = Annotated[bool, _kind(bool)]
Text = Annotated[str, _kind(str)]
"""Fields of models: pydantic's own parsers take true for 1, and no half of a surrogate pair."""


def checked_by(check: Callable[[str, Any], None]) -> AfterValidator:
    """What a field must fulfil: ``check`` gets its name and value, and raises ``ValueError`` with a line for people."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        check(str(info.field_name), value)
        return value

    return AfterValidator(validate)


def between(low: float, high: float) -> AfterValidator:
    """A field's range."""
    return checked_by(lambda name, value: within(name, value, low, high))


def choice(*allowed: str) -> AfterValidator:
    """The texts that a field may have."""
    return checked_by(lambda name, value: one_of(name, value, allowed))


def first_error(error: ValidationError) -> ValueError:
    """The first reason of a model's validators for a refusal: a line that names the field."""
    found: ValueError = error.errors(include_url=False)[0]["ctx"]["error"]
    return found


def known(model: TypeAdapter[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a model knows, checked; others are dropped.

    Args:
        model: of a ``TypedDict`` of fields.
        options: as they were given.

    Raises:
        ValueError: a value that does not fit; the message names the option.
    """
    try:
        checked: dict[str, Any] = model.validate_python(options)
    except ValidationError as error:
        raise first_error(error) from error
    return checked


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
