"""Files that come with requests and go with answers: none of them outlives its request, however that ends."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fastapi import UploadFile
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tasks.common.files import ENDINGS

_KNOWN = (".seg.nrrd", *ENDINGS, ".json", ".bin")
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,16}")
_CHUNK = 1 << 20


def ending_of(name: str | None) -> str:
    """The ending of an uploaded file's name, all of it that is used; empty if it has none that is plain.

    A known one may have two dots; of any other only the last part counts.
    """
    text = name or ""
    known = next((ending for ending in _KNOWN if text.lower().endswith(ending)), "")
    last = known or os.path.splitext(text)[1]
    ending = text[len(text) - len(last) :]
    return ending if known or _ENDING.fullmatch(ending) else ""


def save(upload: UploadFile, folder: Path, stem: str) -> Path:
    """Write an uploaded file to a folder, under our own name with its ending."""
    file = folder / f"{stem}{ending_of(upload.filename)}"
    with file.open("xb") as target:
        shutil.copyfileobj(upload.file, target, _CHUNK)
    return file


@contextmanager
def saved(upload: UploadFile) -> Iterator[Path]:
    """An uploaded file on the disk, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="upload-") as folder:
        yield save(upload, Path(folder), "upload")


class Readable(Protocol):
    """What an answer reads from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; none at the end."""

    def close(self) -> None:
        """Let go of it."""


class Download(StreamingResponse):
    """The content of an open file, which is closed whatever becomes of the client.

    Args:
        file: whose name may be gone already, so that nothing is left after a kill.
        size: bytes.
        media_type: of the content.
        headers: of the answer.
    """

    def __init__(self, file: Readable, size: int, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        self._file = file
        super().__init__(_chunks(file), media_type=media_type, headers={**(headers or {}), "Content-Length": str(size)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


def _chunks(file: Readable) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
