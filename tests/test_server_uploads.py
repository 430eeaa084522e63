"""A real server keeps no temporary file: not after requests that fail or break off, and not after a kill."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import requests

from tests.apps.server.test_protection import BAD
from tests.server import Server, wait_for
from tests.tiny import write_volume

pytestmark = pytest.mark.slow

HEAD = "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a.nii.gz"\r\n\r\n'
UPLOADS = [
    ("PUT", "/datastore/label?image=image0", b"label"),
    ("PUT", "/datastore/image?image=new", b"file"),
    ("PUT", "/session/", b"files"),
    ("POST", "/infer/segmentation", b"file"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("uploads")
    for number in range(4):
        image = np.random.default_rng(number).random((6, 5, 4)).astype(np.float32)
        write_volume(folder / "studies" / f"image{number}.nii.gz", image)
    conf = {"labels": "tumor", "preset": "small", "auto_train": "false", "max_upload_mb": "32"}
    with Server(folder / "studies", folder, **conf) as server:
        yield server


def temporary(server: Server) -> list[Path]:
    """Folders of living and dead processes among the temporary files."""
    return [path for path in (Path(server.studies) / "active_learning" / "tmp").iterdir() if path.is_dir()]


def left(server: Server) -> list[Path]:
    return [file for folder in temporary(server) for file in folder.rglob("*")]


def begin(server: Server, method: str, path: str, field: bytes, size: int) -> socket.socket:
    """An upload of which only a part is sent."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = HEAD.format(method=method, path=path, kind="multipart/form-data; boundary=x", length=16 << 20)
    connection.sendall(head.encode() + PART % field + b"x" * size)
    return connection


def test_requests_that_fail_or_break_off_leave_no_file(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _, request in BAD:
            client.request(**request)
    for method, path, field in UPLOADS:
        for size in (0, 1000, 8 << 20):
            begin(server, method, path, field, size).close()
    with requests.get(f"{server.url}/datastore/image?image=image0", stream=True, timeout=60):
        pass  # a download that nobody reads
    assert server.get("/info/").status_code == 200
    wait_for(lambda: not left(server), 30, lambda: str(left(server)))
    assert len(temporary(server)) == 1
    assert "Exception in ASGI application" not in server.text(), server.text()[-3000:]


@pytest.mark.parametrize("chunked", [False, True])
def test_sixty_megabytes_of_brackets_are_refused_and_others_are_answered(server, chunked):
    content = b"[" * (60 << 20)
    pieces = iter([content[start : start + (1 << 16)] for start in range(0, len(content), 1 << 16)])
    for path in ("/activelearning/random", "/train/segmentation", "/al/skip"):
        try:
            answer = requests.post(
                server.url + path,
                data=pieces if chunked else content,
                headers={"Content-Type": "application/json"},
                timeout=60,
            )
            assert answer.status_code == 413
        except requests.ConnectionError:
            pass  # the server has hung up before all was sent, as it may
        assert server.get("/al/progress").status_code == 200


def test_a_kill_in_the_middle_of_uploads_leaves_nothing_after_the_next_start(server):
    open_ones = [begin(server, *upload, 8 << 20) for upload in UPLOADS]
    (before,) = temporary(server)
    (before / "upload-killed").mkdir()
    (before / "upload-killed" / "upload.nii.gz").write_bytes(b"as a kill between two steps leaves it")
    time.sleep(0.5)
    server.kill()
    for connection in open_ones:
        connection.close()
    assert before.is_dir()
    server.start()
    assert not before.exists()
    (now,) = temporary(server)
    assert not list(now.iterdir())
    label = {"label": ("label.nii.gz", b"nonsense")}
    assert requests.put(f"{server.url}/datastore/label?image=image0", files=label, timeout=60).status_code == 400
    assert not left(server)
