"""Each bomb is sent to a real server that may not have much more memory than it needs idle."""

from __future__ import annotations

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
