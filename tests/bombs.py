"""Files that are small and claim, or hold, far more than any image here."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, TiffImagePlugin

GIGABYTE = 1 << 30


def nifti(shape: tuple[int, ...], kind: type = np.uint8, zeros: int = 64, extension: int = 0) -> bytes:
    """A compressed NIfTI file whose header claims a shape, with some zeros behind."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape(shape)
    header["magic"], header["vox_offset"] = b"n+1", 352 + extension
    start = header.binaryblock
    if extension:
        start += b"\1\0\0\0" + struct.pack("<ii", extension, 0) + bytes(extension - 8)
    return deflated(start + bytes(4), zeros)


def deflated(start: bytes, zeros: int) -> bytes:
    """Something with zeros behind it, compressed without ever being in memory as a whole."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    parts = [packer.compress(start)]
    block = bytes(1 << 20)
    for length in [len(block)] * (zeros // len(block)) + [zeros % len(block)]:
        parts.append(packer.compress(block[:length]))
    return b"".join([*parts, packer.flush()])


def nrrd(sizes: tuple[int, ...], zeros: int = 64, encoding: str = "gzip", more: str = "") -> bytes:
    """An NRRD file whose header claims sizes."""
    header = (
        f"NRRD0004\ntype: uchar\ndimension: {len(sizes)}\nsizes: {' '.join(map(str, sizes))}\n"
        f"encoding: {encoding}\nendian: little\n{more}\n"
    )
    return header.encode() + (deflated(b"", zeros) if encoding == "gzip" else bytes(zeros))


def zip_of(*members: tuple[str, int]) -> bytes:
    """A ZIP file of members that are zeros.

    Args:
        *members: name and bytes.
    """
    buffer = io.BytesIO()
    block = bytes(1 << 20)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, size in members:
            with packed.open(name, "w", force_zip64=True) as member:
                for length in [len(block)] * (size // len(block)) + [size % len(block)]:
                    member.write(block[:length])
    return buffer.getvalue()


def png(columns: int, rows: int, whole: bool = True, extra: bytes = b"") -> bytes:
    """A picture with one bit per pixel: all of them, or a header and nothing behind it."""
    lines = (1 + (columns + 7) // 8) * rows if whole else 8
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(1 << 20, lines - done))) for done in range(0, lines, 1 << 20)]
    data = b"".join([*parts, packer.flush()])
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def text_chunks(size: int) -> bytes:
    """Compressed text and a compressed colour profile, each of a size."""
    packed = zlib.compress(bytes(size), 9)
    return _chunk(b"zTXt", b"Comment\0\0" + packed) + _chunk(b"iCCP", b"profile\0\0" + packed)


def exif_chunk(size: int) -> bytes:
    """EXIF data in which thousands of tags point to all of it."""
    return _chunk(b"eXIf", tags_that_point_to_all(size))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tags_that_point_to_all(size: int, count: int = 2000) -> bytes:
    """TIFF data whose tags each claim to hold all of its bytes."""
    entries = b"".join(struct.pack("<HHLL", 40000 + n, 7, size - 8, 8) for n in range(count))
    start = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", count) + entries + struct.pack("<L", 0)
    return start + bytes(size - len(start))


def jpeg(columns: int, rows: int, exif: bytes = b"") -> bytes:
    """A JPEG file whose header claims a size, with the pixels of a small one."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "JPEG")
    content = buffer.getvalue()
    place = content.index(b"\xff\xc0") + 5
    content = content[:place] + struct.pack(">HH", rows, columns) + content[place + 4 :]
    segments = b""
    for start in range(0, len(exif), 65000):
        part = b"Exif\0\0" + exif[start : start + 65000]
        segments += b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part
    return content[:2] + segments + content[2:]


def jpeg_with_scans(columns: int, rows: int, count: int) -> bytes:
    """A progressive JPEG file of a claimed size whose scans are the same few again and again."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    place = content.index(b"\xff\xc2") + 5
    content = content[:place] + struct.pack(">HH", rows, columns) + content[place + 4 :]
    last = content.rindex(b"\xff\xda")
    own = content.count(b"\xff\xda")
    return content[:-2] + content[last:-2] * (count - own) + content[-2:]


def png_with_chunks(count: int, name: bytes = b"tEXt") -> bytes:
    """A PNG file of 30x20 pixels with very many chunks."""
    content = png(30, 20)
    place = content.index(b"IDAT") - 4
    return content[:place] + _chunk(name, b"a\0b" if name == b"tEXt" else b"") * count + content[place:]


def tiff_with_strips(count: int) -> bytes:
    """A TIFF file that says its one row lies in very many strips."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[273] = tuple([8] * count)
    buffer = io.BytesIO()
    picture = Image.new("L", (4, 4))
    picture.save(buffer, "TIFF", tiffinfo=info)
    plain = buffer.getvalue()
    place = plain.index(struct.pack("<HH", 273, 4))
    return plain[: place + 4] + struct.pack("<LL", count, len(plain)) + plain[place + 12 :] + bytes(4 * count)


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
