"""JSON from outside, as RFC 8259 has it: what Python's parser takes beyond that could be stored, but never sent again.

Python reads ``NaN``, ``1e999`` (as infinity), halves of surrogate pairs and integers of any length. An answer that
repeats one of them cannot be encoded, so one such value would break a list for everybody.
"""

from __future__ import annotations

import collections
import json
import math
import re
from typing import Any

LARGEST = 1 << 20
"""Bytes of a JSON text from outside."""
DEEPEST = 64
"""Levels of lists and objects in each other."""
_WHOLE = range(-(1 << 63), 1 << 64)
_LONGEST_WHOLE = 20
"""Digits of the largest whole number of 64 bits."""
_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")
_UNFIT = re.compile("[\x00\ud800-\udfff]")
"""Characters that no text may hold: NUL, which databases refuse, and halves of surrogate pairs."""


class JSONError(ValueError):
    """A text that is not the JSON it should be; the message says why, beginning with what the text is."""


def parse_json(content: str | bytes, name: str) -> Any:
    """Parse JSON from outside.

    Args:
        content: text, or bytes in UTF-8.
        name: what it is, for the error.

    Raises:
        JSONError: not JSON, too long, too deep, NaN, a number out of range, the same key twice in an object, or text
            that is not valid Unicode.
    """
    if len(content) > LARGEST:
        raise JSONError(f"{name} is longer than {LARGEST >> 10} KiB")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        if _is_too_deep(text):
            raise JSONError(f"more than {DEEPEST} levels of lists and objects")
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except JSONError as error:
        raise JSONError(f"{name}: {error}") from error
    except ValueError as error:
        raise JSONError(f"{name} is not valid JSON: {error}") from error
    if _UNFIT.search(text) or "\\u" in text:
        _check_texts(value, name)
    return value


def parse_object(content: str | bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object from outside; empty text is an empty object.

    Raises:
        JSONError: see :func:`parse_json`, or another kind of value.
    """
    value = parse_json(content, name) if content.strip() else {}
    if not isinstance(value, dict):
        raise JSONError(f"{name} must be a JSON object")
    return value


def sendable(value: Any) -> Any:
    """A value that an older version has stored, without what JSON cannot say.

    NaN and infinity become null, as there is nothing nearer; unfit characters become U+FFFD.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _UNFIT.sub("\ufffd", value)
    if isinstance(value, dict):
        return {sendable(key): sendable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [sendable(item) for item in value]
    return value


def _is_too_deep(text: str) -> bool:
    """Whether brackets outside of strings are too deep in each other; costs time in proportion to the text."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    depth = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > DEEPEST:
            return True
    return False


def _check_texts(value: Any, name: str) -> None:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, str) and _UNFIT.search(each):
            raise JSONError(f"{name} holds text with a NUL character or half a surrogate pair")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise JSONError(f"the key {twice[:50]!a} is given twice")
    return found


def _constant(word: str) -> Any:
    raise JSONError(f"{word} is not a JSON value")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JSONError(f"the number {digits[:20]} is out of range")
    return value


def _int(digits: str) -> int:
    if len(digits) > _LONGEST_WHOLE or int(digits) not in _WHOLE:
        raise JSONError(f"the number {digits[:20]} is out of range")
    return int(digits)
