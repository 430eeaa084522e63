"""Pieces of PNG and JPEG files, before Pillow reads them: each takes time, however small it is.

A progressive JPEG draws all of its pixels once for every scan, and a scan that draws nothing takes a few bytes.
"""

from __future__ import annotations

import io
import re
from typing import BinaryIO

MOST_SCANS = 100
"""Scans of a JPEG file; cameras and viewers write up to a dozen, libtiff takes no more than 100 either."""
MOST_SEGMENTS = 4096
"""Segments of a JPEG file besides."""
MOST_CHUNKS = 1 << 17
"""Chunks of a PNG file: 1 GiB of pixels in those of 8 KiB that libpng writes."""

_BLOCK = 1 << 16
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
"""What a segment begins with: none of those that stand alone."""
_SCAN, _END = 0xDA, 0xD9
_SIGNATURE = 8
"""Bytes before the first chunk of a PNG file."""


class PiecesError(ValueError):
    """A file that consists of too many pieces; the message says how many are read."""


def check_scans(file: BinaryIO) -> None:
    """Look at the segments of a JPEG file up to its end, not at what is behind it.

    Args:
        file: the file.

    Raises:
        PiecesError: too many.
    """
    scans = others = 0
    file.seek(0)
    while (marker := _next_marker(file)) not in (None, _END):
        scans += marker == _SCAN
        others += marker != _SCAN
        if scans > MOST_SCANS:
            raise PiecesError(f"it has more than {MOST_SCANS} scans")
        if others > MOST_SEGMENTS:
            raise PiecesError(f"it has more than {MOST_SEGMENTS} segments")
        file.seek(max(0, int.from_bytes(file.read(2), "big") - 2), io.SEEK_CUR)


def check_chunks(file: BinaryIO) -> None:
    """Look at the chunks of a PNG file.

    Args:
        file: the file.

    Raises:
        PiecesError: too many.
    """
    file.seek(_SIGNATURE)
    count = 0
    while len(start := file.read(8)) == 8 and start[4:] != b"IEND":
        count += 1
        if count > MOST_CHUNKS:
            raise PiecesError(f"it has more than {MOST_CHUNKS} chunks")
        file.seek(int.from_bytes(start[:4], "big") + 4, io.SEEK_CUR)


def _next_marker(file: BinaryIO) -> int | None:
    """The next marker of a segment, None at the end of the file; the file is left behind it."""
    place = file.tell()
    while block := file.read(_BLOCK):
        found = _MARKER.search(block)
        if found is not None:
            file.seek(place + found.end())
            return block[found.end() - 1]
        if len(block) < _BLOCK:
            break
        place += len(block) - 1  # its last byte may begin a marker
        file.seek(place)
    return None
