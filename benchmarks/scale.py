"""A hundred thousand images: the server's answers over HTTP, with stock MONAI Label beside it.

    python -m benchmarks.scale --images 100000 --stock-images 100000

Makes a studies folder of that many small volumes, and for ours a store with a record of every image, then drives both
servers as an annotator does: next image, label, next image. Every strategy is asked for in turn.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import nibabel
import numpy as np
import requests
import sqlalchemy as sa
import typer
from rich.console import Console
from rich.table import Table

from strategies.catalogue import CATALOGUE
from tasks.segmentation.records import COMMITTEE_SCORES, SCORES
from tasks.store.store import Store
from tasks.store.tables import Image, Record
from tests.server import Server

VERSION = "0123456789ab"
STOCK = '''
from monailabel.interfaces.app import MONAILabelApp


class StockApp(MONAILabelApp):
    """MONAI Label as it is: its datastore and its random strategy."""

    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="stock", labels=["tumor"])
'''


def make_studies(folder: Path, images: int) -> Path:
    """A folder with many names of a few small volumes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(images):
        if number % 10_000 == 0:  # a file system allows only so many names of a file
            volume = folder / f"image{number:06d}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(rng.random((8, 8, 8), dtype=np.float32), np.eye(4)), volume)
        else:
            os.link(volume, folder / f"image{number:06d}.nii.gz")
    return folder


def make_records(studies: Path, images: int, features: int = 128) -> None:
    """A store that knows all images and has a record of each."""
    store = Store(studies / "active_learning" / "store.sqlite")
    rng = np.random.default_rng(1)
    names = [f"image{number:06d}" for number in range(images)]
    with store.transaction() as session:
        session.execute(sa.insert(Image), [{"image_id": name, "labelled": False, "present": True} for name in names])
        for start in range(0, images, 5000):
            rows = [
                {
                    "model_version": VERSION,
                    "image_id": name,
                    "fingerprint": "f",
                    "scores": dict(
                        zip(SCORES + COMMITTEE_SCORES, rng.random(len(SCORES + COMMITTEE_SCORES)), strict=True)
                    ),
                    "class_entropies": {"tumor": float(rng.random())},
                    "embedding": rng.random(features, dtype=np.float32).tobytes(),
                }
                for name in names[start : start + 5000]
            ]
            session.execute(sa.insert(Record), rows)
    store.add_model("segmentation", VERSION, "gone.pt", 0)
    store.complete_scoring(VERSION)
    store.close()


def timed(call: Callable[[], requests.Response]) -> tuple[float, requests.Response]:
    """Milliseconds of a request, and its response."""
    start = time.perf_counter()
    response = call()
    spent = 1000 * (time.perf_counter() - start)
    response.raise_for_status()
    return spent, response


class Annotator:
    """Asks for images, labels them, and keeps the times."""

    def __init__(self, server: Server, label: Path) -> None:
        self.server = server
        self.label = label.read_bytes()
        self.http = requests.Session()
        self.times: dict[str, list[float]] = {"next": [], "label": [], "info": []}

    def cycle(self, strategy: str, client: str) -> bool:
        """One image; False if the server has none left."""
        url = self.server.url
        spent, response = timed(
            lambda: self.http.post(f"{url}/activelearning/{strategy}", json={"client_id": client}, timeout=600)
        )
        self.times["next"].append(spent)
        sample = response.json()
        if not sample:
            return False
        send = {"label": ("label.nii.gz", self.label)}
        put = f"{url}/datastore/label?image={sample['id']}"
        spent, _ = timed(lambda: self.http.put(put, files=send, data={"params": "{}"}, timeout=600))
        self.times["label"].append(spent)
        spent, _ = timed(lambda: self.http.get(f"{url}/info/", timeout=600))
        self.times["info"].append(spent)
        return True


def percentiles(times: list[float]) -> list[str]:
    """Median, 99th percentile and the longest, in ms."""
    return [f"{value:.1f}" for value in (*np.percentile(times, [50, 99]), max(times))]


def main(
    images: Annotated[int, typer.Option(help="Images for our server.", min=100)] = 100_000,
    stock_images: Annotated[int, typer.Option(help="Images for the stock server; 0 leaves it out.", min=0)] = 100_000,
    requests_each: Annotated[int, typer.Option(help="Images labelled per strategy.", min=1)] = 200,
    stock_requests: Annotated[int, typer.Option(help="Images labelled with the stock server.", min=1)] = 10,
    pause: Annotated[float, typer.Option(help="Seconds between two images, all annotators together.", min=0)] = 0.25,
    strategies: Annotated[str, typer.Option(help="Comma-separated; all that the app offers if empty.")] = "",
) -> None:
    """Measure both servers."""
    console = Console(width=120)
    table = Table("server", "images", "what", "median ms", "99 % ms", "longest ms", "times")

    def report(name: str, size: int, annotator: Annotator, strategy: str) -> None:
        for what, times in annotator.times.items():
            table.add_row(name, str(size), f"{what} {strategy}", *percentiles(times), str(len(times)))
            console.print(name, what, strategy, percentiles(times))

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        label = root / "label.nii.gz"
        values = np.zeros((8, 8, 8), np.uint8)
        values[2:5, 2:5, 2:5] = 1
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), label)
        studies = make_studies(root / "ours", images)
        make_records(studies, images)
        server = Server(studies, root, labels="tumor", preset="small", auto_train="false")
        for start in ("first start", "second start"):
            began = time.perf_counter()
            server.start()
            table.add_row("ours", str(images), start, f"{1000 * (time.perf_counter() - began):.0f}", "", "", "1")
            console.print("ours", start, f"{time.perf_counter() - began:.1f} s")
            if start == "first start":
                server.kill()
        offered = [name for name in CATALOGUE if name in server.get("/info/").json()["strategies"]]
        for strategy in [name for name in strategies.split(",") if name] or offered:
            annotator = Annotator(server, label)
            for number in range(requests_each):
                annotator.cycle(strategy, f"reader{number % 20}")
                time.sleep(pause)
            report("ours", images, annotator, strategy)
        server.kill()
        if stock_images:
            app = root / "stock_app"
            app.mkdir()
            (app / "main.py").write_text(STOCK)
            server = Server(make_studies(root / "stock", stock_images), root, app=app)
            began = time.perf_counter()
            server.start(seconds=1200)
            table.add_row(
                "stock", str(stock_images), "first start", f"{1000 * (time.perf_counter() - began):.0f}", "", "", "1"
            )
            annotator = Annotator(server, label)
            for _ in range(stock_requests):
                annotator.cycle("random", "reader")
            report("stock", stock_images, annotator, "random")
            server.kill()
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
