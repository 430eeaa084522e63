"""ZIP files from outside: what they claim is checked first, what they really hold is counted while it is written."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tasks.common.files import is_safe_name

LARGEST = 8 << 30
"""Bytes after unpacking."""
MOST = 10_000
"""Files and folders."""
HIGHEST_RATIO = 200
"""Bytes after unpacking for each packed one, once there are more than :data:`_HARMLESS`: images shrink far less."""
_HARMLESS = 64 << 20
_DEEPEST = 16
_LONGEST_READ = 4 << 20
"""Bytes that ``zipfile`` may ask for at once: it reads the list of files as a whole."""
_CHUNK = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


class ZipError(ValueError):
    """A ZIP file that is not unpacked; the message says why."""


def unpack(file: BinaryIO, folder: Path, take: Callable[[int], None]) -> None:
    """Unpack a ZIP file; what was written before an error stays in the folder.

    Args:
        file: open, can be searched.
        folder: empty.
        take: called with the number of bytes before they are written.

    Raises:
        ZipError: damaged, too large, or with names, kinds of files or methods that are not taken.
    """
    try:
        with zipfile.ZipFile(_Reader(file)) as archive:
            members = archive.infolist()
            _check(members)
            for member in members:
                _write(archive, member, folder, take)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise ZipError(f"the ZIP file is damaged: {error}") from error


def _check(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MOST:
        raise ZipError(f"the ZIP file has {len(members)} files; at most {MOST} are unpacked")
    size, packed = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if size > LARGEST:
        raise ZipError(f"the ZIP file unpacks to {size >> 20} MB; at most {LARGEST >> 20} are taken")
    if size > max(_HARMLESS, HIGHEST_RATIO * packed):
        raise ZipError(f"the ZIP file unpacks to more than {HIGHEST_RATIO} times its size")
    names = [member.filename.rstrip("/").lower() for member in members]
    if len(set(names)) < len(names):
        raise ZipError("the ZIP file has the same name twice")
    for member in members:
        _check_member(member)


def _check_member(member: zipfile.ZipInfo) -> None:
    parts = member.filename.rstrip("/").split("/")
    if len(parts) > _DEEPEST or not all(is_safe_name(part) and ":" not in part for part in parts):
        raise ZipError(f"the ZIP file has the name {member.filename[:100]!a}, which cannot be taken")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ZipError(f"{member.filename[:100]!a} in the ZIP file is not a regular file")
    if member.flag_bits & _ENCRYPTED:
        raise ZipError("the ZIP file is encrypted")
    if member.compress_type not in _METHODS:
        raise ZipError("the ZIP file is packed by a method other than deflate")


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, take: Callable[[int], None]) -> None:
    target = folder / member.filename
    try:
        if member.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("xb") as writer:
            while chunk := source.read(_CHUNK):
                take(len(chunk))
                writer.write(chunk)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ZipError(f"{member.filename[:100]!a} in the ZIP file is both a file and a folder") from error


class _Reader:
    """A file of which ``zipfile`` can read no more than some bytes at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size if 0 <= size <= _LONGEST_READ else _LONGEST_READ + 1)
        if len(content) > _LONGEST_READ:
            raise zipfile.BadZipFile("its list of files is too long")
        return content
