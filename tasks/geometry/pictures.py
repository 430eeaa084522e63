"""Open PNG, JPEG and TIFF files so that nothing in them takes more memory than their pixels may."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from tasks.common.files import ImageError, reading
from tasks.geometry import sizes
from tasks.geometry.pieces import MOST_SEGMENTS, check_chunks, check_scans
from tasks.geometry.tags import check_tags

# We know the size from the header and have limits of our own; Pillow's would refuse with words of its own.
Image.MAX_IMAGE_PIXELS = None

_FORMATS = ("PNG", "JPEG", "TIFF")
_LARGEST_PIXEL = 32
"""Bytes of one: four channels of 64 bits."""
_LARGEST_REST = 64 << 20
"""Bytes of a file beside its pixels: profiles, thumbnails, comments."""
_EXIF, _MPF = b"Exif\0\0", b"MPF\0"
_APP1, _APP2, _SCAN = 0xE1, 0xE2, 0xDA
_RAW_EXIF = "Raw profile type exif"


@contextmanager
def open_picture(file: Path) -> Iterator[Image.Image]:
    """Open a picture without reading its pixels.

    Yields:
        The picture, of a size that may be read.

    Raises:
        ImageError: missing, unreadable, another format, several pages, or larger than the limits; the same for whatever
            goes wrong while it is open.
    """
    with reading(file):
        if _look(file):
            raise ImageError(f"{file} has several pages; an image has one")
        with Image.open(file, formats=_FORMATS) as picture:
            sizes.check_pixels(str(file), picture.size)
            sizes.check_voxels(str(file), (*picture.size, len(picture.getbands())))
            columns, rows = picture.size
            if file.stat().st_size > columns * rows * _LARGEST_PIXEL + _LARGEST_REST:
                raise ImageError(f"{file} claims {columns}x{rows} pixels, which its bytes are too many for")
            if picture.format != "TIFF" and (pages := getattr(picture, "n_frames", 1)) != 1:
                raise ImageError(f"{file} has {pages} pages; an image has one")
            yield picture


def turn_upright(picture: Image.Image) -> None:
    """Turn a photograph as its EXIF data say."""
    picture.load()
    picture.info.pop(_RAW_EXIF, None)  # as text it may be as large as it likes
    if (exif := picture.info.get("exif")) is not None:
        _check_exif(exif)
    ImageOps.exif_transpose(picture, in_place=True)


def _look(file: Path) -> bool:
    """Look at what Pillow would read at once; whether a TIFF has several pages."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(2)
        if start in (b"II", b"MM"):
            return check_tags(opened, size)
        if start == b"\x89P":
            check_chunks(opened)
        if start == b"\xff\xd8":
            check_scans(opened)
            opened.seek(len(start))
            exif = b""
            for marker, content in _segments(opened):
                if marker == _APP1 and content.startswith(_EXIF):
                    exif += content[len(_EXIF) :]
                elif marker == _APP2 and content.startswith(_MPF):
                    _check_exif(content[len(_MPF) :])
            if exif:
                _check_exif(exif)
    return False


def _segments(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Markers and contents of the segments of a JPEG file before its pixels, as far as it is one."""
    for _ in range(MOST_SEGMENTS):
        mark, marker = file.read(1), file.read(1)
        if mark != b"\xff" or marker in (b"", bytes([_SCAN])):
            return
        if marker == b"\xff":  # a fill byte
            file.seek(-1, io.SEEK_CUR)
        elif marker[0] > 1 and not 0xD0 <= marker[0] <= 0xD9:  # others stand alone
            yield marker[0], file.read(max(0, int.from_bytes(file.read(2), "big") - 2))
    raise ValueError(f"it has more than {MOST_SEGMENTS} segments before its pixels")


def _check_exif(exif: bytes) -> None:
    content = exif.removeprefix(_EXIF)
    check_tags(io.BytesIO(content), len(content))
