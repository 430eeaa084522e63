"""Files are written whole: a reader sees the old or the new one, and what is not noted after a kill is put back."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from tasks.common.files import NotPutBackError

PART = "part-"
"""Names of files that are being written; a kill leaves them, the next start removes them."""
_BEFORE, _BEGUN = "-before", "-begun"
_LONGEST_SECONDS = 60.0
"""What has been stored for longer was left by a process that is gone."""


class Writes:
    """Writes and removes files of a folder.

    Args:
        ours: called with every file before it changes.
    """

    def __init__(self, ours: Callable[[Path], None]) -> None:
        self._ours = ours

    @contextlib.contextmanager
    def prepared(self, source: Path, target: Path, ref: str = "", durable: bool = True) -> Iterator[Path]:
        """A copy of a file beside where it will be, for :meth:`put`; what is not put is removed.

        Args:
            source: the file.
            target: where it will be.
            ref: name of a label; a kill between its file and its row is undone at the next start.
            durable: whether it must survive a loss of power.
        """
        part = _part(target, ref)
        try:
            with source.open("rb") as reader, part.open("wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                if durable:
                    writer.flush()
                    os.fsync(writer.fileno())
            yield part
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def put(self, part: Path, target: Path, named: bool = False, durable: bool = True) -> Iterator[None]:
        """Make a prepared file what readers see; what fails inside undoes it.

        Args:
            part: of :meth:`prepared`.
            target: where it will be.
            named: whether it was prepared with a label's name.
            durable: whether it must survive a loss of power.
        """
        before = part.with_name(f"{part.name}{_BEFORE}")
        begun = part.with_name(f"{part.name}{_BEGUN}")
        if target.exists():
            link(target, before)
        if named:
            with contextlib.suppress(OSError):  # some file systems have no such links
                begun.symlink_to(target.name)
        self._ours(target)
        part.replace(target)
        try:
            if durable:
                sync_folder(target.parent)
            yield
        except BaseException as error:
            _put_back(before, target, error)
            begun.unlink(missing_ok=True)
            raise
        begun.unlink(missing_ok=True)
        before.unlink(missing_ok=True)

    @contextlib.contextmanager
    def written(self, source: Path, target: Path, durable: bool = True) -> Iterator[None]:
        """Both in one: copy a file so that a reader sees the old or the new one; what fails inside undoes it."""
        with self.prepared(source, target, durable=durable) as part, self.put(part, target, durable=durable):
            yield

    @contextlib.contextmanager
    def removed(self, file: Path) -> Iterator[None]:
        """Remove a file; what fails inside puts it back."""
        part = _part(file)
        self._ours(file)
        with contextlib.suppress(FileNotFoundError):
            file.replace(part)
        try:
            yield
        except BaseException as error:
            _put_back(part, file, error)
            raise
        part.unlink(missing_ok=True)

    def remove(self, file: Path) -> None:
        """Remove a file, if it is there."""
        self._ours(file)
        file.unlink(missing_ok=True)


def undo_unfinished(folder: Path, noted: Collection[str]) -> Iterator[Path]:
    """Put back files that a kill has kept from being noted: nobody was told of them. Yields what is put back.

    Args:
        folder: of the files.
        noted: names of the labels that are noted.
    """
    for begun in folder.glob(f"{PART}*{_BEGUN}"):
        part = begun.with_name(begun.name[: -len(_BEGUN)])
        if part.name[len(PART) :] not in noted:
            file = folder / begun.readlink()
            yield file
            _put_back(part.with_name(f"{part.name}{_BEFORE}"), file, InterruptedError("killed"))


def being_stored(folder: Path) -> set[str]:
    """Names of files that another process is storing at this moment: it has not noted them yet.

    Args:
        folder: of the files.
    """
    found, now = set(), time.time()
    for begun in folder.glob(f"{PART}*{_BEGUN}"):
        with contextlib.suppress(OSError):  # it is done
            if now - begun.lstat().st_mtime < _LONGEST_SECONDS:
                found.add(begun.readlink().name)
    return found


def clear_parts(folders: Iterable[Path]) -> None:
    """Remove what a kill has left half-written."""
    for folder in folders:
        for part in folder.glob(f"{PART}*"):
            part.unlink(missing_ok=True)


def link(file: Path, name: Path) -> None:
    """Give a file a second name; a copy where the file system knows no links."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copy2(file, name)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _part(file: Path, key: str = "") -> Path:
    """Another name in the same folder, for what is not to be seen."""
    return file.with_name(f"{PART}{key or uuid.uuid4().hex}")


def _put_back(kept: Path, file: Path, error: BaseException) -> None:
    """Make a file what it was before, under its other name if it was there.

    Raises:
        NotPutBackError: it cannot be.
    """
    try:
        if kept.exists():
            kept.replace(file)
        else:
            file.unlink(missing_ok=True)
    except OSError as failure:
        raise NotPutBackError(f"{file} could not be made what it was ({failure}), after: {error}") from error
