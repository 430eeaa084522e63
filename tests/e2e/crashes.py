"""Kill -9, again and again, in the middle of labels, leases and scores.

``python -m tests.e2e.crashes FOLDER RUNS SEED``. Everything is imported once; each life is a fork that runs MONAI
Label's server as ``monailabel start_server`` does, with a thread that writes scores into the store as a scoring job
does. Annotators work over HTTP until the server is killed at a random moment, one time in five while it starts. After
every start all that was ever acknowledged must be there. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import monailabel.app
import nibabel
import numpy as np
import requests
import uvicorn
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from apps.volume_segmentation import main as app_module
from strategies.store import ImageRecord, Store
from tests.server import APP, free_port

SHAPE = (5, 4, 3)
IMAGES = 40
LABELLED = 12
"""Images that are labelled again and again; the others are leased."""
READERS = 2
STRATEGIES = ("random", "first")
VERSION = "0123456789ab"
START_SECONDS = 30.0
LONGEST_LIFE = 0.4


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


@dataclass
class Known:
    """What readers sent and what the server has acknowledged.

    ``leased`` has a reader's image and the strategy, unless the last request for one has got no answer.
    """

    sent: dict[str, list[int]] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    leased: dict[str, tuple[str, str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    labels: int = 0
    leases: int = 0


def serve(studies: Path, port: int, scores: Path) -> None:
    """One life of the server."""
    settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_STUDIES = str(APP), str(studies)
    settings.MONAI_LABEL_APP_CONF = {"labels": "tumor", "preset": "small", "auto_train": "false"}
    sys.argv[1:] = ["--host", "127.0.0.1"]
    threading.Thread(target=score, args=(scores,), daemon=True).start()
    uvicorn.run(monailabel.app.app, host="127.0.0.1", port=port, log_level="error")


def score(file: Path) -> None:
    """Scores until the end; every line of the file is one that the store has acknowledged."""
    store: Store = app_instance().store
    notes = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(acknowledged(file), 10**9):
        store.add_record(ImageRecord(f"s{number}", VERSION, "f", {"bald": 0.5}, {}, None))
        os.write(notes, b"\n")
        time.sleep(0.002)


def acknowledged(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def wait_for_server(url: str, child: int) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            if requests.get(f"{url}/info/", timeout=START_SECONDS).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, "the server did not start again"
        assert time.monotonic() < end, "the server did not start in time"
        time.sleep(0.02)


def check(url: str, known: Known, studies: Path, scores: Path) -> None:
    """Everything acknowledged is there: the label itself, or one that was sent after it."""
    scored = acknowledged(scores)  # the next ones are on their way already
    history = requests.get(f"{url}/al/history", timeout=30).text
    for image, number in known.labelled.items():
        answer = requests.get(f"{url}/datastore/label", params={"label": image, "tag": "final"}, timeout=30)
        assert answer.status_code == 200, f"the label of {image} is gone"
        later = known.sent[image][known.sent[image].index(number) :]
        assert answer.content in {label(each) for each in later}, f"the label of {image} is an older one"
        assert f"labelled,{image}," in history, f"the history does not tell of {image}"
    status = requests.get(f"{url}/info/", timeout=30).json()["datastore"]
    assert status["total"] == IMAGES, status
    assert status["completed"] >= len(known.labelled), status
    for reader, (image, strategy) in known.leased.items():
        if image not in known.sent:  # else it may have been labelled by the other one
            again = requests.post(f"{url}/activelearning/{strategy}", json={"client_id": reader}, timeout=30).json()
            assert again["id"] == image, f"{reader} held {image} and is given {again}"
    assert not list(studies.rglob("part-*")), "half-written files are left"
    store = Store(studies / "active_learning" / "store.sqlite")
    assert len(store.fingerprints(VERSION)) >= scored, "a score is gone"
    store.close()


def annotate(url: str, known: Known, reader: str, numbers: list[int], images: list[str]) -> None:
    """Ask and label until the server is gone."""
    http, rng = requests.Session(), random.Random(f"{numbers[0]}")
    try:
        for number in numbers:
            known.leased.pop(reader, None)
            strategy = STRATEGIES[number % len(STRATEGIES)]  # another one gives up the lease of the last
            given = http.post(f"{url}/activelearning/{strategy}", json={"client_id": reader}, timeout=30)
            given.raise_for_status()
            known.leased[reader] = (given.json()["id"], strategy)
            known.leases += 1
            # Its own images only, so that the order of what was sent is known.
            image = rng.choice(images)
            known.sent.setdefault(image, []).append(number)
            stored = http.put(
                f"{url}/datastore/label",
                params={"image": image},
                files={"label": ("label.nii", label(number))},
                data={"params": json.dumps({"client_id": reader})},
                timeout=30,
            )
            stored.raise_for_status()
            known.labelled[image] = number
            known.labels += 1
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        pass
    except Exception as error:
        known.refused.append(f"{reader}: {error!r}")


def live(life: int, studies: Path, scores: Path, known: Known, rng: random.Random) -> bool:
    """One start, a check, work, and a kill; whether the server was up before it."""
    port = free_port()
    child = os.fork()
    if child == 0:
        try:
            serve(studies, port, scores)
        finally:
            os._exit(1)
    url, readers = f"http://127.0.0.1:{port}", []
    early = life % 5 == 4
    try:
        if not early:
            wait_for_server(url, child)
            check(url, known, studies, scores)
            for place in range(READERS):
                numbers = [1000 * (READERS * life + place) + step for step in range(1000)]
                mine = [f"i{number}" for number in range(place, LABELLED, READERS)]
                readers.append(threading.Thread(target=annotate, args=(url, known, f"ann{place}", numbers, mine)))
                readers[-1].start()
        time.sleep(rng.uniform(0.0, LONGEST_LIFE))
    finally:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        for reader in readers:
            reader.join()
    assert os.WIFSIGNALED(status), "the server had ended by itself"
    assert not known.refused, known.refused
    return not early


def main(folder: Path, runs: int, seed: int) -> None:
    assert app_module.VolumeSegmentation  # imported here, so that the forks need not
    rng, known = random.Random(seed), Known()
    studies, scores = make_studies(folder / "studies"), folder / "scores"
    started = sum(live(life, studies, scores, known, rng) for life in range(runs))
    started += live(runs, studies, scores, known, rng) if runs % 5 != 4 else 0  # looks at what the last kill has left
    counts = {"labels": known.labels, "leases": known.leases, "scores": acknowledged(scores)}
    print(json.dumps({"kills": runs, "started": started, **counts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
