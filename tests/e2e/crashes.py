"""Kill -9, again and again, in the middle of labels, leases and scores.

``python -m tests.e2e.crashes FOLDER RUNS SEED``. Everything is imported once; each run is a fork that opens the app as
a server does, checks that all that was ever acknowledged is there, and then works in several threads until it is
killed at a random moment. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from apps.volume_segmentation import main as app_module
from strategies.store import ImageRecord
from tests.server import APP

SHAPE = (5, 4, 3)
IMAGES = 12
LOST = 3
VERSION = "0123456789ab"


def make_studies(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(IMAGES):
        nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, number, np.float32), np.eye(4)), folder / f"i{number}.nii.gz")
    return folder


def label(number: int) -> bytes:
    """A label that no other number gives."""
    values = np.zeros(np.prod(SHAPE), np.uint8)
    values[:40] = [int(bit) for bit in f"{number:040b}"]
    values[59] = 1
    return nibabel.Nifti1Image(values.reshape(SHAPE), np.eye(4)).to_bytes()


class Notes:
    """Acknowledgements, each one line that is written at once."""

    def __init__(self, file: Path) -> None:
        self._handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, *line: Any) -> None:
        os.write(self._handle, (json.dumps(line) + "\n").encode())


def acknowledged(file: Path) -> dict[str, Any]:
    """The last label sent and acknowledged of each image, and all scores and leases."""
    sent: dict[str, list[int]] = {}
    done: dict[str, int] = {}
    scores, leases = 0, 0
    for line in file.read_text().splitlines() if file.exists() else []:
        kind, *values = json.loads(line)
        if kind == "sent":
            sent.setdefault(values[0], []).append(values[1])
        elif kind == "labelled":
            done[values[0]] = values[1]
        elif kind == "scored":
            scores = max(scores, values[0] + 1)
        else:
            leases += 1
    return {"sent": sent, "done": done, "scores": scores, "leases": leases}


def check(app: Any, notes: Path) -> None:
    """Everything acknowledged is there: the label itself or one that was sent after it."""
    known = acknowledged(notes)
    for image, number in known["done"].items():
        file = Path(app.datastore().get_label_uri(image, "final") or "gone")
        later = known["sent"][image][known["sent"][image].index(number) :]
        assert file.is_file(), f"the label of {image} is gone"
        assert file.read_bytes() in {label(each) for each in later}, f"the label of {image} is an older one"
        assert image in app.store.image_ids(labelled=True), f"the store does not know that {image} is labelled"
    assert len(app.store.records(VERSION)) >= known["scores"], "a score is gone"
    status = app.datastore().status()
    assert status["total"] == IMAGES, status
    assert not list(Path(app.studies).rglob("part-*")), "half-written files are left"


def work(app: Any, notes: Notes, seed: int, ready: int) -> None:
    """Labels, leases and scores until the end."""
    counter = iter(range(seed * 100_000, (seed + 1) * 100_000))
    lock = threading.Lock()
    strategy = app.query_strategies[0].name

    def annotate(name: str, images: list[str], folder: Path) -> None:
        rng = random.Random(f"{seed}{name}")
        file = folder / f"{name}.nii"
        while True:
            app.next_sample({"strategy": strategy, "client_id": name})
            notes("leased", name)
            image = rng.choice(images)
            with lock:
                number = next(counter)
            file.write_bytes(label(number))
            notes("sent", image, number)
            app.on_save_label(image, app.datastore().save_label(image, str(file), "final", {"client_id": name}))
            notes("labelled", image, number)

    def score(first: int) -> None:
        for number in range(first, 10**9):
            app.store.add_record(ImageRecord(f"s{number}", VERSION, "f", {"bald": 0.5}, {}, None))
            notes("scored", number)

    folder = Path(app.studies).parent
    names = [f"i{number}" for number in range(IMAGES)]
    jobs = [(annotate, (f"ann{n}", names[n::2], folder)) for n in range(2)]
    threads = [threading.Thread(target=call, args=values, daemon=True) for call, values in jobs]
    threads.append(threading.Thread(target=score, args=(len(app.store.records(VERSION)),), daemon=True))
    for thread in threads:
        thread.start()
    os.write(ready, b"r")
    for thread in threads:
        thread.join()


def run(studies: Path, notes: Path, seed: int, ready: int) -> None:
    """One life: start, check, work."""
    try:
        app = app_instance(str(APP), str(studies), {"labels": "tumor", "preset": "small", "auto_train": "false"})
        check(app, notes)
        work(app, Notes(notes), seed, ready)
    except BaseException:
        traceback.print_exc()
        os._exit(LOST)


def main(folder: Path, runs: int, seed: int) -> None:
    settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False
    assert app_module.VolumeSegmentation  # imported here, so that the forks need not
    rng = random.Random(seed)
    studies, notes = make_studies(folder / "studies"), folder / "notes.jsonl"
    kills, failures = 0, []
    for number in range(runs + 1):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            run(studies, notes, number, writer)
        os.close(writer)
        if os.read(reader, 1):  # it has started, and found everything
            time.sleep(rng.uniform(0.0, 0.25))
            os.kill(child, signal.SIGKILL)
            kills += 1
        os.close(reader)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            failures.append(number)
            break
    known = acknowledged(notes)
    print(
        json.dumps(
            {
                "kills": kills,
                "failures": failures,
                "labels": sum(map(len, known["sent"].values())),
                "scores": known["scores"],
                "leases": known["leases"],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
