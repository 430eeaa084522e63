"""Tags of TIFF files and of EXIF data, before Pillow reads them: it keeps a copy of what each of them points to."""

from __future__ import annotations

import struct
from typing import BinaryIO

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Type of a tag's values -> bytes of one."""
_DIRECTORIES = {34665, 34853, 40965}
"""Tags that point to more tags: EXIF, GPS, interoperability."""
_MOST_TAGS = 4096
_MOST_VALUES = 1 << 20
"""Values of a tag, such as the places of an image's strips: each becomes an object."""
_TEXT = {1, 2, 6, 7}
"""Types whose values stay bytes."""


class TagsError(ValueError):
    """Tags that cannot be read, or that claim more than there is; the message says what."""


def check_tags(file: BinaryIO, size: int) -> bool:
    """Look at the tags of a TIFF file's first page.

    Args:
        file: the file, or EXIF data, which have the same structure.
        size: its bytes.

    Returns:
        Whether there is another page.

    Raises:
        TagsError: no TIFF, or tags whose values are more than the file holds.
    """
    try:
        order = {b"II": "<", b"MM": ">"}[_read(file, 0, 2)]
        big = _unpack(file, 2, order + "H") == (43,)
        (first,) = _unpack(file, 8 if big else 4, order + ("Q" if big else "L"))
        due, seen, claimed, following = [first], set(), 0, 0
        while due:
            place = due.pop()
            if place in seen:
                continue
            seen.add(place)
            bytes_of_tags, directories, behind = _directory(file, place, order, big)
            claimed += bytes_of_tags
            due += directories
            following = behind if place == first else following
    except (KeyError, struct.error, OverflowError, OSError) as error:
        raise TagsError("its tags cannot be read") from error
    if claimed > size:
        raise TagsError(f"its tags claim {claimed} bytes, the file has {size}")
    return following != 0


def _directory(file: BinaryIO, place: int, order: str, big: bool) -> tuple[int, list[int], int]:
    """Bytes of the values of a directory's tags, where directories of more tags are, and where the next page is."""
    entry, word = (order + "HHQ8s", "Q") if big else (order + "HHL4s", "L")
    length = struct.calcsize(entry)
    (count,) = _unpack(file, place, order + ("Q" if big else "H"))
    if count > _MOST_TAGS:
        raise TagsError(f"it has {count} tags")
    start = place + (8 if big else 2)
    block = _read(file, start, count * length)
    claimed, directories = 0, []
    for tag, kind, values, content in struct.iter_unpack(entry, block):
        if values > _MOST_VALUES and kind not in _TEXT:
            raise TagsError(f"its tag {tag} has {values} values")
        claimed += values * _BYTES.get(kind, 0)
        if tag in _DIRECTORIES:
            directories.append(struct.unpack(order + word, content)[0])
    (following,) = _unpack(file, start + count * length, order + word)
    return claimed, directories, following


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _unpack(file: BinaryIO, place: int, form: str) -> tuple[int, ...]:
    return struct.unpack(form, _read(file, place, struct.calcsize(form)))
