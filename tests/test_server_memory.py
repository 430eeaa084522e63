"""Each bomb is sent to a real server that may not have much more memory than it needs idle."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
from PIL import Image

from tests import bombs
from tests.bombs import GIGABYTE, written
from tests.server import ROOT, Server, wait_for
from tests.tiny import write_volume

MORE = 2 * GIGABYTE
"""Memory that a server may map beyond what it has mapped idle."""
NEAR = 300 << 20
"""Memory that may stay after all bombs."""
AT_ONCE = 8
IMAGE = (12, 12, 8)

Send = Callable[[str], requests.Response]


@dataclass(frozen=True)
class Bomb:
    """A request: who is sent what, and what the answer may be when it is alone."""

    name: str
    send: Send
    answers: tuple[int, ...]

    def __str__(self) -> str:
        return self.name


def label(name: str, content: bytes, image: str = "image0") -> Bomb:
    def send(url: str) -> requests.Response:
        return requests.put(
            f"{url}/datastore/label", params={"image": image}, files={"label": (name, content)}, timeout=120
        )

    return Bomb(f"label {name}", send, (400,))


def image(name: str, content: bytes) -> Bomb:
    def send(url: str) -> requests.Response:
        return requests.put(
            f"{url}/datastore/image", params={"image": "bomb"}, files={"file": (name, content)}, timeout=120
        )

    return Bomb(f"image {name}", send, (400,))


def pixels(name: str, *answers: int) -> Bomb:
    def send(url: str) -> requests.Response:
        return requests.get(f"{url}/al/pixels", params={"image": name}, timeout=120)

    return Bomb(f"pixels {name}", send, answers)


def body(name: str, method: str, path: str, *answers: int, in_pieces: bool = False, **request: Any) -> Bomb:
    """Any request; a server that hangs up before all was sent has answered, too."""

    def send(url: str) -> requests.Response:
        options = dict(request)
        if in_pieces:
            content = options["data"]
            options["data"] = iter([content[start : start + (1 << 16)] for start in range(0, len(content), 1 << 16)])
        try:
            return requests.request(method, url + path, timeout=120, **options)
        except requests.ConnectionError:
            hung_up = requests.Response()
            hung_up.status_code = answers[0]
            return hung_up

    return Bomb(f"body {name}", send, answers)


def temporary_files(server: Server) -> list[Path]:
    folder = Path(server.studies) / "active_learning" / "tmp"
    return [file for process in folder.iterdir() if process.is_dir() for file in process.rglob("*")]


def explode(server: Server, table: list[Bomb]) -> None:
    """Send each bomb alone and eight times at once; the next request is answered, and the memory comes back."""
    ordinary = requests.get(f"{server.url}/datastore/", timeout=60).json()
    server.limit_memory(MORE)
    idle = server.memory()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for bomb in table:
            alone = bomb.send(server.url)
            assert alone.status_code in bomb.answers, (bomb, alone.text[:500])
            together = list(threads.map(bomb.send, [server.url] * AT_ONCE))
            assert {answer.status_code for answer in together} <= {*bomb.answers, 503}, bomb
            assert requests.get(f"{server.url}/datastore/", timeout=60).json() == ordinary, bomb
    wait_for(lambda: server.memory() < idle + NEAR, 30, lambda: f"{(server.memory() - idle) >> 20} MB stay")
    wait_for(lambda: not temporary_files(server), 30, lambda: f"{temporary_files(server)} stay")


def volumes_folder(folder: Path) -> Path:
    for number in range(2):
        write_volume(folder / f"image{number}.nii.gz", np.ones(IMAGE, np.float32))
    return folder


def small_label() -> bytes:
    mask = np.zeros(IMAGE, np.uint8)
    mask[2:5] = 1
    return nibabel.Nifti1Image(mask, np.eye(4)).to_bytes()


@pytest.mark.slow
def test_a_label_of_64_bytes_that_claims_gigabytes_changes_nothing(tmp_path):
    with Server(volumes_folder(tmp_path / "studies"), tmp_path, auto_train="false") as server:
        explode(server, [label("label.nii.gz", bombs.nifti((2000, 2000, 2000)))])
        assert label("label.nii", small_label()).send(server.url).status_code == 200


@pytest.mark.e2e
def test_no_volume_takes_the_server_s_memory(tmp_path):
    holds = bombs.nifti((1300, 1300, 1300), zeros=1300**3)
    table = [
        label("claims.nii.gz", bombs.nifti((2000, 2000, 2000))),
        label("holds.nii.gz", holds),
        label("behind.nii.gz", bombs.nifti(IMAGE, zeros=3 * GIGABYTE)),
        label("extension.nii.gz", bombs.nifti(IMAGE, extension=GIGABYTE)),
        label("wide.nii.gz", bombs.nifti(IMAGE, np.complex128, zeros=3 * GIGABYTE)),
        label("claims.nrrd", bombs.nrrd((2000, 2000, 2000))),
        label("holds.nrrd", bombs.nrrd((1300, 1300, 1300), zeros=1300**3)),
        label("layers.seg.nrrd", bombs.nrrd((30_000, *IMAGE), zeros=GIGABYTE)),
        label("behind.nrrd", bombs.nrrd(IMAGE, zeros=3 * GIGABYTE)),
        label("raw.bin", bytes(200 << 20)),
        image("claims.nii.gz", bombs.nifti((2000, 2000, 2000))),
        image("holds.nii.gz", holds),
        image("empty.nii.gz", bombs.nifti((1000, 1000, 1000), np.float64)),
        image("channels.nii.gz", bombs.nifti((64, 64, 64, 30_000), zeros=GIGABYTE)),
    ]
    with Server(volumes_folder(tmp_path / "studies"), tmp_path, auto_train="false") as server:
        explode(server, table)
        assert label("label.nii", small_label()).send(server.url).status_code == 200


@pytest.mark.e2e
def test_no_body_and_no_archive_takes_the_server_s_memory(tmp_path):
    """JSON, forms and ZIP files that are large, deep, or many in one."""
    brackets = b"[" * (60 << 20)
    deep = b"[" * (1 << 19) + b"]" * ((1 << 19) - 1)
    digits = b'{"client_id": ' + b"1" * 1_000_000 + b"}"
    text = json.dumps({"client_id": "x" * 1_000_000}).encode()
    as_json = {"Content-Type": "application/json"}
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    fields = b"".join(b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n1\r\n' % n for n in range(300_000))
    named = b'--x\r\nContent-Disposition: form-data; name="' + b"n" * (60 << 20) + b'"\r\n\r\n1\r\n--x--\r\n'
    file = {"label": ("label.nii", small_label())}
    sessions = "/session/?uncompress=true"
    table = [
        body("brackets", "POST", "/activelearning/random", 413, data=brackets, headers=as_json),
        body("brackets in pieces", "POST", "/al/skip", 413, in_pieces=True, data=brackets, headers=as_json),
        body("brackets of no kind", "POST", "/train/segmentation", 413, data=brackets),
        body("nesting", "POST", "/activelearning/random", 400, data=deep, headers=as_json),
        body("digits", "POST", "/activelearning/random", 400, data=digits, headers=as_json),
        body("name", "POST", "/activelearning/random", 400, data=text, headers=as_json),
        body("form", "PUT", "/datastore/label/info?label=image0&tag=final", 413, data={"info": brackets}),
        body("field", "PUT", "/datastore/label?image=image0", 400, data={"params": brackets}, files=file),
        body("fields", "PUT", "/datastore/label?image=image0", 400, data=fields + b"--x--\r\n", headers=boundary),
        body("name of a field", "PUT", "/datastore/label?image=image0", 400, data=named, headers=boundary),
        body("zeros", "PUT", sessions, 400, files={"files": ("a.zip", bombs.zip_of(("a.nii", 3 * GIGABYTE)))}),
        body(
            "members",
            "PUT",
            sessions,
            400,
            files={"files": ("a.zip", bombs.zip_of(*((f"{n}", 0) for n in range(100_000))))},
        ),
        body("large file", "PUT", "/session/", 413, files={"files": ("a.nii", bytes(200 << 20))}),
    ]
    with Server(volumes_folder(tmp_path / "studies"), tmp_path, auto_train="false", max_upload_mb="100") as server:
        explode(server, table)
        assert label("label.nii", small_label()).send(server.url).status_code == 200


PICTURES: dict[str, Callable[[], bytes]] = {
    "bits.png": lambda: bombs.png(12_600, 12_600),
    "claims.png": lambda: bombs.png(60_000, 60_000, whole=False),
    "within.png": lambda: bombs.png(16_000, 16_000, whole=False),
    "text.png": lambda: bombs.png(30, 20, extra=bombs.text_chunks(GIGABYTE)),
    "exif.png": lambda: bombs.png(30, 20, extra=bombs.exif_chunk(20 << 20)),
    "large.jpg": lambda: bombs.jpeg(65_500, 65_500),
    "photo.jpg": lambda: bombs.jpeg(16, 16, bombs.tags_that_point_to_all(10 << 20)),
    "tags.tif": lambda: bombs.tags_that_point_to_all(20 << 20),
    "strips.tif": lambda: bombs.tiff_with_strips(20_000_000),
    "slice.nii.gz": lambda: bombs.nifti((30_000, 30_000, 1), np.float64, zeros=GIGABYTE),
}
"""Pictures by name. Two of them are within the limits: ``bits.png`` is shown, ``within.png`` has no pixels."""


def pictures_folder(folder: Path) -> Path:
    for name, make in PICTURES.items():
        written(folder / name, make())
    for number in range(2):
        Image.new("L", (36, 24), 100).save(folder / f"image{number}.png")
    return folder


def rows(make: Callable[..., Any]) -> list[Bomb]:
    return [make(name, content()) for name, content in PICTURES.items()]


@pytest.mark.e2e
def test_no_picture_takes_the_memory_of_the_server_with_the_grading_page(tmp_path):
    studies = pictures_folder(tmp_path / "studies")
    shown = [pixels(name.partition(".")[0], 200 if name == "bits.png" else 422) for name in PICTURES]
    sent = [row for row in rows(image) if not any(part in row.name for part in ("bits", "within", "text", "exif.png"))]
    app = ROOT / "apps" / "image_classification"
    with Server(studies, tmp_path, app, labels="low,high", auto_train="false") as server:
        explode(server, shown + sent)
        assert pixels("image0").send(server.url).status_code == 200


@pytest.mark.e2e
def test_no_mask_takes_the_server_s_memory(tmp_path):
    studies = pictures_folder(tmp_path / "studies")
    table = [*rows(label), label("mask.nrrd", bombs.nrrd((2000, 2000, 2000)))]
    app = ROOT / "apps" / "image_segmentation"
    with Server(studies, tmp_path, app, labels="lesion", auto_train="false") as server:
        explode(server, table)
