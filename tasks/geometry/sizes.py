"""How large an image or label claims to be, from its header alone: what is too large is never read.

Voxels take up to a thousand times the bytes of their compressed file, and a header costs its sender nothing. So every
reader asks here first. The limits are those of the process: an app sets them once, from its options.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import SimpleITK
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from tasks.common.files import ImageError, reading

MAX_VOXELS = 1 << 30
"""Voxels of a volume, or values of a picture, unless the app says otherwise."""
MAX_PIXELS = 1 << 28
"""Pixels of a picture unless the app says otherwise."""

_INFLATION = 1032
"""What deflate makes of one byte at most (RFC 1951: 258 bytes for two bits)."""
_BLOCK = 64 << 10
"""Bytes in which the header of a compressed file must be found."""
_LONGEST_NRRD_HEADER = 1 << 20
_LARGEST_EXTENSIONS = 64 << 20
"""Bytes between the header of a NIfTI file and its voxels, which nibabel reads with the header."""
_NRRD_INFLATION = {"raw": 1, "gzip": _INFLATION, "gz": _INFLATION, "ascii": 1, "text": 1, "txt": 1, "hex": 1}
"""Encoding of NRRD data that we read -> voxels that one byte of the file may hold."""


@dataclass
class Limits:
    """What is read at most.

    Attributes:
        max_voxels: values of a file: voxels or pixels times channels.
        max_pixels: pixels of a picture.
    """

    max_voxels: int = MAX_VOXELS
    max_pixels: int = MAX_PIXELS


LIMITS = Limits()
"""The limits of this process."""


@dataclass(frozen=True)
class Claim:
    """What the header of a volume claims.

    Attributes:
        shape: values per axis, channels or layers included.
        fewest_bytes: of the data, uncompressed.
        most_bytes: that the file's size allows.
    """

    shape: tuple[int, ...]
    fewest_bytes: int
    most_bytes: int


def is_nifti(file: Path) -> bool:
    """Whether a file is a NIfTI by its name."""
    return file.name.lower().endswith((".nii", ".nii.gz"))


def is_nrrd(file: Path) -> bool:
    """Whether a file is an NRRD by its name."""
    return file.name.lower().endswith(".nrrd")


def sides(shape: Sequence[int]) -> str:
    """A shape in words, such as ``7x6x5``."""
    return "x".join(map(str, shape))


def check_volume(file: Path) -> tuple[int, ...]:
    """Look at the header of a NIfTI or NRRD file.

    Returns:
        Values per axis, channels or layers included.

    Raises:
        ImageError: missing, unreadable or of another kind, larger than the limit, or it claims more than its bytes can
            hold or than itself.
    """
    read = next((read for fits, read in _READERS if fits(file)), None)
    with reading(file):
        if read is None:
            raise ImageError(f"{file} is no NIfTI or NRRD file")
        claim = read(file)
        if min(claim.shape, default=0) < 1:
            raise ImageError(f"{file} has no voxels: its header says {sides(claim.shape)}")
        check_voxels(str(file), claim.shape)
        if claim.fewest_bytes > claim.most_bytes:
            raise ImageError(f"{file} claims {sides(claim.shape)} voxels, more than its bytes can hold")
    return claim.shape


def check_voxels(name: str, shape: Sequence[int]) -> None:
    """Raise :class:`ImageError` if these are more values than are read."""
    if prod(shape) > LIMITS.max_voxels:
        raise ImageError(f"{name} claims {sides(shape)} voxels; the option max_voxels allows {LIMITS.max_voxels}")


def check_pixels(name: str, size: Sequence[int]) -> None:
    """Raise :class:`ImageError` if a picture has more pixels than are read."""
    if prod(size) > LIMITS.max_pixels:
        raise ImageError(f"{name} claims {sides(size)} pixels; the option max_pixels allows {LIMITS.max_pixels}")


def check_label(file: Path, image: Sequence[int], classes: int) -> None:
    """Look at the header of a label map.

    Args:
        file: NIfTI or NRRD.
        image: voxels per axis of its image.
        classes: number of classes, background included: each label may have a layer of its own.

    Raises:
        ImageError: as :func:`check_volume`, or more voxels than fit on the image.
    """
    check_layers(str(file), check_volume(file), image, max(1, classes - 1))


def check_layers(name: str, shape: Sequence[int], image: Sequence[int], layers: int) -> None:
    """Raise :class:`ImageError` if a label claims more voxels than its image times the layers."""
    if prod(shape) > prod(image) * layers:
        raise ImageError(
            f"{name} claims {sides(shape)} voxels: its image has {sides(image)}, and the declared labels allow "
            f"{layers} layer{'s'[: layers > 1]} of them"
        )


def _nifti(file: Path) -> Claim:
    size = file.stat().st_size
    with file.open("rb") as opened:
        block = opened.read(_BLOCK)
    compressed = file.name.lower().endswith(".gz")
    if compressed:
        # Not gzip's own reader: it would look for the end of a file name of any length.
        block = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(block, 544)
    kinds = {int(kind.sizeof_hdr): kind for kind in (Nifti1Header, Nifti2Header)}
    length = next((n for order in ("little", "big") if (n := int.from_bytes(block[:4], order)) in kinds), 0)
    if not length or len(block) < length:
        raise ImageError(f"{file} cannot be read: it has no NIfTI header")
    header = kinds[length](block[:length], check=False)
    offset, extended = int(header["vox_offset"]), block[length : length + 1] > b"\0"
    if offset > _LARGEST_EXTENSIONS or (extended and offset < length + 4):
        raise ImageError(f"{file} cannot be read: its voxels do not follow its header")
    shape = tuple(map(int, header.get_data_shape()))
    data = prod(shape) * header.get_data_dtype().itemsize
    return Claim(shape, data, size * (_INFLATION if compressed else 1))


def _nrrd(file: Path) -> Claim:
    with file.open("rb") as opened:
        text = opened.read(_LONGEST_NRRD_HEADER).decode("latin-1")
    head, blank, _ = re.sub("\r\n?", "\n", text).partition("\n\n")
    if not text.startswith("NRRD000") or not blank:
        raise ImageError(f"{file} cannot be read: it has no NRRD header with data behind it")
    pairs = (line.partition(":") for line in head.split("\n") if not line.startswith("#"))
    fields = {re.sub(r"\s", "", name).lower(): value.strip().lower() for name, _, value in pairs}
    if "datafile" in fields:
        raise ImageError(f"{file} refers to another file; it must hold its data itself")
    if any(fields.get(name, "0") not in ("0", "-1") for name in ("lineskip", "byteskip")):
        raise ImageError(f"{file} cannot be read: its voxels do not follow its header")
    encoding = fields.get("encoding", "")
    if encoding not in _NRRD_INFLATION:
        raise ImageError(f"{file} cannot be read: its encoding is none of {', '.join(_NRRD_INFLATION)}")
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    channels = reader.GetNumberOfComponents()
    shape = (*reader.GetSize(), *([channels] if channels > 1 else []))
    return Claim(shape, prod(shape), file.stat().st_size * _NRRD_INFLATION[encoding])


_READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Claim]], ...] = ((is_nifti, _nifti), (is_nrrd, _nrrd))
"""Whether a file is of a kind -> what its header claims."""
