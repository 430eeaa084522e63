"""Kill -9, again and again, in the middle of labels, leases, undos, scores and publishing.

``python -m tests.e2e.crashes FOLDER RUNS SEED UNDOS``; there are more kills until there were as many undos. Everything
is imported once; each life is a fork that runs MONAI Label's server as ``monailabel start_server`` does, with threads
that write scores into the store and publish models as jobs do. Annotators work over HTTP until the server is killed at
a random moment, one time in five while it starts. After every start all that was ever acknowledged must be there, and
what had no answer is sent again, as the grading page does. Prints what happened as JSON.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import monailabel.app
import nibabel
import numpy as np
import requests
import torch
import uvicorn
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from apps.volume_segmentation import main as app_module
from tasks.learning.checkpoints import Checkpoint
from tasks.segmentation.networks import Architecture, SplitUNet
from tasks.store.store import ImageRecord, Store
from tests.server import APP, free_port

SHAPE = (5, 4, 3)
IMAGES = 40
LABELLED = 12
"""Images that are labelled again and again; the others are leased."""
READERS = 2
FEW, MANY = 2, 8
"""A reader who takes answers back has so many at least and at most; they go up and down between."""
STRATEGIES = ("random", "first")
VERSION = "0123456789ab"
START_SECONDS = 30.0
LONGEST_LIFE = 1.6
LONGEST_LIFE_OF_UNDOS = 7.0
MODEL = "spare"
"""A model that no scoring pass uses."""


def make_studies(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(IMAGES):
        nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, number, np.float32), np.eye(4)), folder / f"i{number}.nii.gz")
    for number in range(LABELLED):  # so that nobody else is given them
        file = folder / "labels" / "final" / f"i{number}.nii"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(label(number))
    store = Store(folder / "active_learning" / "store.sqlite")
    store.complete_scoring(VERSION)  # records of a version that does not serve would be tidied away
    store.close()
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


@dataclass
class Undoer:
    """A reader who answers and takes answers back, last one first; what had no answer is sent again.

    Attributes:
        name: of the reader.
        answers: images that were answered and not taken back, the last one last.
        holding: the image that is promised to the reader, empty if that may have changed.
        pending: ``(what, image, id)`` of the request that has no answer yet.
        labelled: ids of all answers that were acknowledged.
        undone: ids of all undos that were acknowledged.
        touched: images that the reader was ever given.
        downwards: whether the reader takes answers back now.
    """

    name: str
    answers: list[str] = field(default_factory=list)
    holding: str = ""
    pending: tuple[str, str, str] | None = None
    labelled: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    downwards: bool = False

    def work(self, url: str, others: list[Undoer], lock: threading.Lock, refused: list[str]) -> None:
        """Answer and undo until the server is gone."""
        http = requests.Session()
        try:
            while True:
                if self.pending is None:
                    self.pending = self._next(http, url, others, lock)
                self._send(http, url, *self.pending)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            pass
        except Exception as error:
            refused.append(f"{self.name}: {error!r}")

    def _next(
        self, http: requests.Session, url: str, others: list[Undoer], lock: threading.Lock
    ) -> tuple[str, str, str]:
        self.downwards = len(self.answers) > (FEW if self.downwards else MANY)
        if self.downwards:
            return "undo", self.answers[-1], uuid.uuid4().hex
        self.holding = ""
        given = http.post(f"{url}/activelearning/first", json={"client_id": self.name}, timeout=30)
        given.raise_for_status()
        with lock:
            self.holding = str(given.json().get("id", ""))
            self.touched.add(self.holding)
            assert self.holding, f"{self.name} is given nothing"
            taken = [other.name for other in others if self.holding in (other.holding, *other.answers)]
            assert not taken, f"{self.holding} is given to {self.name} and {taken}"
        return "label", self.holding, uuid.uuid4().hex

    def _send(self, http: requests.Session, url: str, what: str, image: str, key: str) -> None:
        self.holding = ""
        if what == "undo":
            answer = http.post(f"{url}/al/undo", json={"client_id": self.name, "undo_id": key}, timeout=30)
            assert answer.status_code == 200, answer.text
            assert answer.json()["id"] == image, f"{self.name} took back {answer.json()} instead of {image}"
            assert answer.json()["undone"] == "labelled", answer.json()
            assert self.answers.pop() == image
            self.undone.append(key)
            self.holding = image
        else:
            answer = http.put(
                f"{url}/datastore/label",
                params={"image": image},
                files={"label": ("label.nii", label(len(self.labelled)))},
                data={"params": json.dumps({"client_id": self.name, "answer_id": key})},
                timeout=30,
            )
            assert answer.status_code == 200, answer.text
            self.answers.append(image)
            self.labelled.append(key)
        self.pending = None


def prepare(studies: Path | str) -> None:
    """Build the app as ``monailabel start_server`` does."""
    settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_STUDIES = str(APP), str(studies)
    settings.MONAI_LABEL_APP_CONF = {"labels": "tumor", "preset": "small", "auto_train": "false"}
    sys.argv[1:] = ["--host", "127.0.0.1"]
    app_instance()  # once: threads that ask for it at the same time would build several


def listen(port: int) -> None:
    """Answer requests until the end."""
    uvicorn.run(monailabel.app.app, host="127.0.0.1", port=port, log_level="error")


def forked(life: Callable[[], None]) -> int:
    """A child that lives a life and nothing after it; its process id."""
    child = os.fork()
    if child == 0:
        try:
            life()
        finally:
            os._exit(1)
    return child


def killed(child: int) -> None:
    """kill -9; the child must not have ended before."""
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the server had ended by itself"


def serve(studies: Path, port: int, scores: Path) -> None:
    """One life of the server."""
    prepare(studies)
    threading.Thread(target=score, args=(scores,), daemon=True).start()
    threading.Thread(target=publish, args=(scores.with_name("published"),), daemon=True).start()
    listen(port)


def score(file: Path) -> None:
    """Scores until the end; every line of the file is one that the store has acknowledged."""
    store: Store = app_instance().store
    notes = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(acknowledged(file), 10**9):
        store.add_record(ImageRecord(f"s{number}", VERSION, "f", {"bald": 0.5}, {}, None))
        os.write(notes, b"\n")
        time.sleep(0.05)


def publish(file: Path) -> None:
    """Models until the end; every line of the file is one that was published."""
    registry = app_instance().registry
    notes = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    architecture = Architecture(1, 2, levels=2, first_features=4, norm="instance")
    state = SplitUNet(architecture).state_dict()
    for number in range(acknowledged(file), 10**9):
        weights = {name: torch.full_like(value, number) for name, value in state.items()}
        registry.publish(MODEL, Checkpoint(architecture, [weights], {"spacing": 0.0}, ["tumor"]), 2, {})
        os.write(notes, b"\n")
        time.sleep(0.3)


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


def check(url: str, known: Known, undoers: list[Undoer], studies: Path, scores: Path) -> None:
    """Everything acknowledged is there: the label itself, or one that was sent after it."""
    scored = acknowledged(scores)  # the next ones are on their way already
    history = requests.get(f"{url}/al/history", timeout=30).text
    check_undoers(url, undoers, history)
    for image, number in known.labelled.items():
        answer = requests.get(f"{url}/datastore/label", params={"label": image, "tag": "final"}, timeout=30)
        assert answer.status_code == 200, f"the label of {image} is gone"
        later = known.sent[image][known.sent[image].index(number) :]
        assert answer.content in {label(each) for each in later}, f"the label of {image} is an older one"
        assert f"labelled,{image}," in history, f"the history does not tell of {image}"
    status = requests.get(f"{url}/info/", timeout=30).json()["datastore"]
    assert status["total"] == IMAGES, status
    answered = {image for undoer in undoers for image in undoer.answers}
    open_end = {undoer.pending[1] for undoer in undoers if undoer.pending}
    certain, possible = LABELLED + len(answered - open_end), LABELLED + len(answered | open_end)
    assert certain <= status["completed"] <= possible, (status, undoers)
    for reader, (image, strategy) in known.leased.items():
        if image not in known.sent and not any(image in undoer.touched for undoer in undoers):
            # else it may have been labelled by somebody else
            again = requests.post(f"{url}/activelearning/{strategy}", json={"client_id": reader}, timeout=30).json()
            assert again["id"] == image, f"{reader} held {image} and is given {again}"
    assert not list(studies.rglob("part-*")), "half-written files are left"
    store = Store(studies / "active_learning" / "store.sqlite")
    assert len(store.fingerprints(VERSION)) >= scored, "a score is gone"
    check_models(store, studies / "active_learning" / "models", acknowledged(scores.with_name("published")))
    store.close()


def check_undoers(url: str, undoers: list[Undoer], history: str) -> None:
    """What is answered is labelled, and what was taken back is not, on the disk as in the history."""
    rows = list(csv.DictReader(io.StringIO(history)))
    events = Counter((row["event"], json.loads(row["details"] or "{}").get("answer_id")) for row in rows)
    events += Counter((row["event"], json.loads(row["details"] or "{}").get("undo_id")) for row in rows)
    assert not [row for row in rows if row["event"] in ("label_removed", "image_removed")]
    for undoer in undoers:
        for image in undoer.answers:
            if undoer.pending is None or undoer.pending[1] != image:
                answer = requests.get(f"{url}/datastore/label", params={"label": image, "tag": "final"}, timeout=30)
                assert answer.status_code == 200, f"the label of {image} by {undoer.name} is gone"
        twice = [key for key in undoer.labelled if events["labelled", key] != 1]
        twice += [key for key in undoer.undone if events["undone", key] != 1]
        assert not twice, f"{undoer.name} has no line, or several: {twice}"


def check_models(store: Store, folder: Path, published: int) -> None:
    """The newest model is the one whose publishing was acknowledged last, or a later one, and its file is whole."""
    rows = store.models(MODEL)
    assert len(rows) >= published, "a model is gone"
    while rows:
        path, newest = folder / rows[0].path, rows[0]
        content = path.read_bytes() if path.exists() else b""
        rows = store.models(MODEL)
        if rows[0].id == newest.id:  # else others were published meanwhile, and its file may have gone
            assert hashlib.sha256(content).hexdigest().startswith(newest.version), "a model is gone or damaged"
            break


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


def live(
    life: int, studies: Path, scores: Path, known: Known, undoers: list[Undoer], rng: random.Random, seconds: float
) -> bool:
    """One start, a check, work, and a kill; whether the server was up before it."""
    port = free_port()
    child = forked(lambda: serve(studies, port, scores))
    url, readers = f"http://127.0.0.1:{port}", []
    early = life % 5 == 4
    try:
        if not early:
            wait_for_server(url, child)
            check(url, known, undoers, studies, scores)
            lock = threading.Lock()
            for undoer in undoers:
                others = [other for other in undoers if other is not undoer]
                readers.append(threading.Thread(target=undoer.work, args=(url, others, lock, known.refused)))
                readers[-1].start()
            for place in range(READERS if life % 2 else 0):  # in every other life those who undo are by themselves
                numbers = [1000 * (READERS * life + place) + step for step in range(1000)]
                mine = [f"i{number}" for number in range(place, LABELLED, READERS)]
                readers.append(threading.Thread(target=annotate, args=(url, known, f"ann{place}", numbers, mine)))
                readers[-1].start()
        time.sleep(seconds)
    finally:
        killed(child)
        for reader in readers:
            reader.join()
    assert not known.refused, known.refused
    return not early


def undone(undoers: list[Undoer]) -> int:
    """Undos that were acknowledged."""
    return sum(len(undoer.undone) for undoer in undoers)


def main(folder: Path, runs: int, seed: int, undos: int) -> None:
    assert app_module.VolumeSegmentation  # imported here, so that the forks need not
    rng, known = random.Random(seed), Known()
    studies, scores = make_studies(folder / "studies"), folder / "scores"
    undoers = [Undoer(f"undoer{number}") for number in range(READERS)]
    life = started = 0
    while life < runs or (life < 2 * runs and undone(undoers) < undos):
        longest = LONGEST_LIFE if life % 2 else LONGEST_LIFE_OF_UNDOS
        started += live(life, studies, scores, known, undoers, rng, rng.uniform(0.0, longest))
        life += 1
    live(5, studies, scores, known, undoers, rng, 0.0)  # looks at what the last kill has left
    counts = {"labels": known.labels, "leases": known.leases, "scores": acknowledged(scores)}
    counts["undos"] = undone(undoers)
    counts["models"] = acknowledged(scores.with_name("published"))
    print(json.dumps({"kills": life, "started": started, **counts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
