"""Many annotators at once: how long each request takes, ours and stock MONAI Label in turn in one run.

    python -m benchmarks.load
    python -m benchmarks.load --annotators 8 --thinking 0 --images 300

Each annotator asks for the next image, labels it, thinks, and goes on, until most of the pool is labelled or the time
is over. Every row starts both servers anew on a folder of their own.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import nibabel
import numpy as np
import requests
import typer
from rich.console import Console

from benchmarks.scale import STOCK, make_records, make_studies
from tests.server import Server

KINDS = ("next", "label")
SHARE = 0.8
"""Of the pool that is labelled: the last images of a pool are another matter."""


@dataclass(frozen=True)
class Row:
    """One load.

    Attributes:
        annotators: at once.
        thinking: seconds between a label and the next image.
        images: in the pool.
    """

    annotators: int
    thinking: float
    images: int


@dataclass
class Result:
    """What a server answered.

    Attributes:
        times: milliseconds of the requests that were answered, by kind.
        errors: what else came, by status.
        seconds: from the first request to the last.
    """

    times: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def columns(self) -> list[str]:
        """As a table shows it."""
        found = []
        for kind in KINDS:
            found.append(" / ".join(f"{value:.0f}" for value in np.percentile(self.times[kind] or [0], [50, 95, 99])))
        answered = sum(len(times) for times in self.times.values())
        errors = ", ".join(f"{self.errors.count(one)} x {one}" for one in sorted(set(self.errors)))
        return [*found, f"{answered / max(self.seconds, 1e-9):.0f}", errors or "none"]


ROWS = (
    *(Row(annotators, thinking, images) for images in (300, 1000) for thinking in (0, 1) for annotators in (1, 8, 20)),
    Row(50, 1, 1000),
)


def load(server: Server, row: Row, label: bytes, seconds: float) -> Result:
    """Let the annotators work.

    Args:
        server: is up.
        row: how many of them.
        label: fits every image.
        seconds: at most.
    """
    result, lock = Result(), threading.Lock()
    left = [int(SHARE * row.images)]
    end = time.monotonic() + seconds

    def note(kind: str, began: float, response: requests.Response | None) -> bool:
        spent = 1000 * (time.perf_counter() - began)
        with lock:
            if response is not None and response.status_code == 200:
                result.times[kind].append(spent)
                return True
            result.errors.append(f"{kind} {'lost' if response is None else response.status_code}")
            return False

    def ask(http: requests.Session, kind: str, method: str, path: str, **options: object) -> requests.Response | None:
        began, response = time.perf_counter(), None
        with suppress(requests.RequestException):
            response = http.request(method, server.url + path, timeout=120, **options)  # type: ignore[arg-type]
        return response if note(kind, began, response) else None

    def annotate(name: str) -> None:
        http = requests.Session()
        while time.monotonic() < end:
            with lock:
                if not left[0]:
                    return
                left[0] -= 1
            given = ask(http, "next", "POST", "/activelearning/random", json={"client_id": name})
            image = given.json().get("id") if given is not None else None
            if image:
                files = {"label": ("label.nii.gz", label)}
                ask(http, "label", "PUT", f"/datastore/label?image={image}", files=files, data={"params": "{}"})
            time.sleep(row.thinking)

    threads = [threading.Thread(target=annotate, args=(f"ann{number}",)) for number in range(row.annotators)]
    began = time.monotonic()
    for number, thread in enumerate(threads):
        thread.start()
        time.sleep(row.thinking / row.annotators if number + 1 < len(threads) else 0)  # they do not think in step
    for thread in threads:
        thread.join()
    result.seconds = time.monotonic() - began
    return result


def measure(row: Row, root: Path, label: bytes, seconds: float) -> dict[str, Result]:
    """Both servers, one after the other."""
    ours = make_studies(root / "ours", row.images)
    make_records(ours, row.images)
    stock = make_studies(root / "stock", row.images)
    app = root / "stock_app"
    app.mkdir()
    (app / "main.py").write_text(STOCK)
    results = {}
    with Server(ours, root, labels="tumor", preset="small", auto_train="false") as server:
        results["ours"] = load(server, row, label, seconds)
    with Server(stock, root, app=app) as server:
        results["stock"] = load(server, row, label, seconds)
    return results


def rows_of(annotators: Sequence[int], thinking: Sequence[float], images: Sequence[int]) -> list[Row]:
    """The rows that have one of these numbers each; no numbers mean all."""
    return [
        row
        for row in ROWS
        if (not annotators or row.annotators in annotators)
        and (not thinking or row.thinking in thinking)
        and (not images or row.images in images)
    ]


def main(
    annotators: Annotated[list[int] | None, typer.Option(help="only rows with so many annotators; repeatable")] = None,
    thinking: Annotated[list[float] | None, typer.Option(help="only rows with so many seconds; repeatable")] = None,
    images: Annotated[list[int] | None, typer.Option(help="only rows with so many images; repeatable")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="longest time of a server in a row")] = 60.0,
) -> None:
    """Print a Markdown table: milliseconds at the 50th, 95th and 99th percentile."""
    console = Console(width=200)
    values = np.zeros((8, 8, 8), np.uint8)
    values[2:5, 2:5, 2:5] = 1
    console.print("| annotators | thinking | images | server | next, ms | label, ms | requests a second | errors |")
    console.print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "label.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)
        for number, row in enumerate(rows_of(annotators or (), thinking or (), images or ())):
            root = Path(place) / str(number)
            root.mkdir()
            for name, result in measure(row, root, file.read_bytes(), seconds).items():
                columns = (str(row.annotators), f"{row.thinking:g} s", str(row.images), name, *result.columns())
                console.print(f"| {' | '.join(columns)} |", highlight=False)


if __name__ == "__main__":
    typer.run(main)
