"""Files: what is wrong with one, whether it has changed, and writes that a kill cannot tear."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class ImageError(ValueError):
    """An image or label that cannot be used; the message names the file."""


class LabelError(ValueError):
    """A label that cannot be accepted; the message says why."""


class ArchiveError(ConnectionError):
    """The image archive does not answer; the message says so."""


class NotPutBackError(OSError):
    """A write failed, and so did taking it back; the message names the file."""


def reason(error: BaseException) -> str:
    """What went wrong, in one line: the image error behind MONAI's "applying transform ..." where there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ImageError):
        cause = cause.__cause__
    lines = str(cause or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def described(error: BaseException) -> str:
    """An error of somebody else's code in one line: its kind, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into an :class:`ImageError` that names it."""
    if not file.is_file():
        raise ImageError(f"{file} is missing")
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{file} cannot be read: there is too little memory") from error
    except Exception as error:  # every reader library raises its own kinds
        raise ImageError(f"{file} cannot be read: {reason(error)}") from error


_SECOND = 1_000_000_000
_PRECISION = 1_000
"""Nanoseconds that a time may lose as a decimal number."""


def fingerprint(files: Iterable[Path]) -> str:
    """Changes whenever one of the files changes: size and modification time (ns) of each."""
    return ",".join(fingerprint_of(file) for file in files)


def fingerprint_of(file: Path | os.DirEntry[str]) -> str:
    """The same of one file; ``missing`` if there is none."""
    try:
        status = file.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def is_same(before: str, now: str) -> bool:
    """Whether two fingerprints are of the same file, perhaps copied by a program that keeps whole seconds only.

    Backups do that: what comes back from one must not look as if somebody had changed it.

    Args:
        before: of one file.
        now: of one file.
    """
    if before == now:
        return True
    try:
        (size, time), (size_now, time_now) = (map(int, each.split(":")) for each in (before, now))
    except ValueError:
        return False
    rounded = time_now % _SECOND == 0 and time - time % _SECOND == time_now
    return size == size_now and (rounded or abs(time - time_now) < _PRECISION)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2))
    temporary.replace(path)


def read_own_json(path: Path) -> dict[str, Any]:
    """A JSON object that a program of ours has written; empty, with a line in the log, if it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _say_unreadable(path, fingerprint([path]), reason(error))
        return {}
    return content


@lru_cache(maxsize=256)
def _say_unreadable(path: Path, state: str, why: str) -> None:
    """Say it once for each state of the file: viewers ask every few seconds."""
    logger.error("%s cannot be read and is left out: %s", path, why)


ENDINGS = (".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""Endings of all images that any app reads."""
RESULT_ENDINGS = (".nrrd", ".seg.nrrd", ".nii.gz", ".nii", ".png", ".tif", ".tiff")
"""Formats that a model's label map may be asked for; JPEG would change the values."""


def image_id(name: str | Path) -> str:
    """Id of an image in the datastore: its file name without the ending."""
    name = Path(name).name
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LONGEST_NAME = 200
"""Characters of an image id or a reader's name."""


def is_safe_name(name: str) -> bool:
    """Whether a name from outside may become a file name: no separators, no control characters, not too long."""
    return 0 < len(name) <= LONGEST_NAME and name not in (".", "..") and not _FORBIDDEN.search(name)


def is_safe_tag(tag: str) -> bool:
    """Whether a tag from outside may become a folder name: letters, digits, ``_`` and ``-``."""
    return _TAG.fullmatch(tag) is not None


def split_names(text: str) -> list[str]:
    """Names in a text with commas between them; empty ones are left out."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header line.

    Raises:
        ValueError: unreadable, or a column is missing; the message names the file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            missing = [name for name in columns if name not in header]
            if missing:
                raise ValueError(f"{path} has no column {missing[0]!r}; it has {', '.join(header) or 'none'}")
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file with a header line, so that a reader sees the old or the new content, never a part."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
