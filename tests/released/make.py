"""Make a studies folder of a released version, with that version's own code, and write down what it holds.

    python tests/released/make.py CHECKOUT KIND OUT

CHECKOUT is a folder with the code of the release, KIND one of ``volume_segmentation``, ``image_classification``,
``image_segmentation`` and ``archive``. The archive ``OUT/<version>-<kind>.tar.xz`` holds ``kept`` (the folder as the
version left it), ``expected.json`` (what the version itself says about it) and, for segmentations, ``prediction``
(what its model finds in one image). See README.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

ARCHIVE_URL = "http://127.0.0.1:1/dicom-web"
"""Nothing answers there: an archive that is away. A stand-in answers while the folder is made."""
NINETEEN_YEARS = 10_000_000
"""The longest lease in minutes that all versions take; the folders up to 0.4.0 were made with a century."""
CONF = {"preset": "small", "auto_train": "false", "lease_minutes": str(NINETEEN_YEARS)}
LABELS = {"volume_segmentation": "tumor", "image_classification": "clear,disc", "image_segmentation": "lesion"}
QUICK: dict[str, Any] = {"iterations_per_epoch": 5, "max_epochs": 20, "val_interval": 10, "first_features": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "volume_segmentation": {"levels": 2, "patch_size": "8x8x8", "roi_size": "16x16x16"},
    "image_classification": {"network": "small", "imagenet": False, "image_size": 32, "first_features": 2},
    "image_segmentation": {"levels": 2, "image_size": 32, "epochs_per_round": 4},
}
TRAININGS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "volume_segmentation": [("segmentation", {}), ("segmentation_bootstrap", {"members": 2})],
    "image_classification": [("classifier_committee", {})],
    "image_segmentation": [("segmentation", {}), ("segmentation", {"seed": 1})],
}
REPLY = ("id", "strategy", "score", "rank", "round", "round_size", "remaining", "model_version", "reason", "group")


class Kind:
    """Images of a kind of work, and the labels that people give them.

    Args:
        name: of the kind.
        folder: for the images.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.app = "volume_segmentation" if name == "archive" else name
        self.folder = folder
        # A round leaves the model half as many images as people, so that one of them can be labelled by hand.
        self.count, self.batch = (24, 6) if name == "image_segmentation" else (16, 3)
        self.affine = np.eye(4)
        self.rng = np.random.default_rng(0)
        self.masks: dict[str, np.ndarray] = {}
        self.files = f"image{{:02d}}.{'nii.gz' if self.app == 'volume_segmentation' else 'png'}"

    def write(self) -> None:
        """Write the images of a local folder."""
        self.folder.mkdir(parents=True)
        for number in range(self.count):
            shape = (12, 12, 8) if self.app == "volume_segmentation" else (24, 30)
            file = self.folder / self.files.format(number)
            pixels = self.draw(file.name.split(".")[0], shape)
            if file.suffix == ".png":
                Image.fromarray(pixels).save(file)
            else:
                nibabel.save(nibabel.Nifti1Image(pixels, self.affine), file)

    def draw(self, image_id: str, shape: tuple[int, ...]) -> np.ndarray:
        """Pixels with a bright block that is the label; every other image has none where images are graded."""
        mask = np.zeros(shape, np.uint8)
        corner = [int(self.rng.integers(1, side // 2)) for side in shape]
        if self.app != "image_classification" or len(self.masks) % 2:
            mask[tuple(slice(low, low + max(3, side // 3)) for low, side in zip(corner, shape, strict=True))] = 1
        self.masks[image_id] = mask
        noise = self.rng.integers(0, 12, shape) * 4
        return np.asarray(120 * mask + noise, np.uint8)

    def label(self, image_id: str, corrected: bool) -> tuple[str, bytes, dict[str, Any]]:
        """File name, content and parameters of a label; a corrected one differs."""
        mask = self.masks[image_id].copy()
        if self.app == "image_classification":
            return "label.json", b"", {"label": ("clear", "disc")[int(mask.any() != corrected)]}
        if corrected:
            mask[tuple(slice(0, 2) for _ in mask.shape)] = 1
        name = "label.png" if self.app == "image_segmentation" else "label.nii.gz"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            if name.endswith(".png"):
                Image.fromarray(mask).save(file)
            else:
                nibabel.save(nibabel.Nifti1Image(mask, self.affine), file)
            return name, file.read_bytes(), {"label_info": [{"name": LABELS[self.app], "idx": 1}]}


class Readers:
    """What people do, over HTTP.

    Args:
        http: client of the version's server.
        kind: says what they label.
        strategy: that they ask for.
    """

    def __init__(self, http: Any, kind: Kind, strategy: str) -> None:
        self.http, self.kind, self.strategy = http, kind, strategy

    def next(self, reader: str, strategy: str = "") -> dict[str, Any]:
        answer = self.http.post(f"/activelearning/{strategy or self.strategy}", json={"client_id": reader})
        assert answer.status_code == 200, answer.text
        return {name: value for name, value in answer.json().items() if name in REPLY}

    def label(self, image_id: str, reader: str, corrected: bool = False) -> None:
        name, content, params = self.kind.label(image_id, corrected)
        answer = self.http.put(
            "/datastore/label",
            params={"image": image_id},
            data={"params": json.dumps({**params, "client_id": reader})},
            files={"label": (name, content)},
        )
        assert answer.status_code == 200, answer.text

    def label_next(self, reader: str) -> str:
        image_id = str(self.next(reader)["id"])
        self.label(image_id, reader)
        return image_id

    def offers(self, path: str) -> bool:
        """Whether the version has a route."""
        return path in {getattr(route, "path", "") for route in self.http.app.routes}


def set_up(checkout: Path, kind: Kind, conf: dict[str, str]) -> None:
    """Make this process one of the version; MONAI Label reads its settings when it is imported."""
    sys.path.insert(0, str(checkout))
    os.chdir(checkout)
    archive = kind.name == "archive"
    os.environ |= {
        "MONAI_LABEL_APP_DIR": str(checkout / "apps" / kind.app),
        "MONAI_LABEL_STUDIES": ARCHIVE_URL if archive else str(kind.folder),
        "MONAI_LABEL_APP_CONF": json.dumps(conf),
        "MONAI_LABEL_DATASTORE_CACHE_PATH": str(kind.folder) if archive else "",
        "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false",
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }


def stand_in(kind: Kind) -> Any:
    """An archive in memory with small series; the version's own tests have it."""
    from tasks.dicom import client
    from tests.tasks.volume_segmentation.test_archive import FakeArchive

    archive = FakeArchive()
    archive.url = ARCHIVE_URL
    for number in range(kind.count):
        add_series(archive, kind, f"p{number:02d}")
    client.Archive = lambda *_: archive
    kind.affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    return archive


def add_series(archive: Any, kind: Kind, patient: str) -> None:
    """A series of a patient comes into the archive."""
    from tests.dicom import mr_series

    voxels = kind.draw(patient, (12, 12, 8))
    uid = archive.add(*mr_series(patient, voxels.transpose(2, 1, 0).astype(np.uint16)))
    kind.masks[uid] = kind.masks.pop(patient)


def work(app: Any, readers: Readers, archive: Any) -> None:
    """A cold start, a replaced label, a skip, an undo, a training, a scoring, and a round that is not finished."""
    kind, http = readers.kind, readers.http
    first = [readers.label_next("ann") for _ in range(kind.batch)]
    readers.label(first[0], "bob", corrected=True)
    unlabelled = [image_id for image_id in sorted(kind.masks) if image_id not in first]
    if readers.offers("/al/skip"):
        body = {"image": readers.next("cho")["id"], "reason": "blurred", "client_id": "cho"}
        assert http.post("/al/skip", json=body).status_code == 200
        unlabelled.remove(body["image"])
    held = readers.next("dan")["id"]
    unlabelled.remove(held)
    if readers.offers("/al/undo"):
        readers.label(held, "dan")
        assert http.post("/al/undo", json={"client_id": "dan"}).status_code == 200
    readers.label(unlabelled[-1], "eve")  # whom nobody gave it
    for name, options in TRAININGS[kind.app]:
        app.train({"model": name, **QUICK, **OPTIONS[kind.app], **options})
    app.scoring({"method": "records"})
    getattr(app, "settle", lambda: None)()
    readers.label_next("ann")
    readers.next("ann")
    if kind.app == "image_segmentation":
        readers.label(pseudo_labelled(http)[0], "eve")
    if archive is not None:
        add_series(archive, kind, "late")
        assert http.post("/al/refresh").status_code == 200
        archive.away = True
        readers.label(first[1], "eve", corrected=True)  # waits for the archive


def pseudo_labelled(http: Any) -> list[str]:
    """Ids of the images that the model has labelled itself."""
    objects = http.get("/datastore/?output=all").json()["objects"]
    return sorted(name for name, content in objects.items() if "pseudo" in content["labels"])


def images(http: Any, kind: Kind) -> dict[str, str]:
    """Image id -> SHA-256 of its file; empty where it is in an archive that is away."""
    found = {}
    for image_id in sorted(kind.masks):
        file = http.get("/datastore/image", params={"image": image_id})
        found[image_id] = hashlib.sha256(file.content).hexdigest() if file.status_code == 200 else ""
    return found


def labels(http: Any) -> dict[str, dict[str, Any]]:
    """Tag -> image id -> who gave the label, the SHA-256 of its file, and the state of it in the archive."""
    found: dict[str, dict[str, Any]] = {}
    for name, content in http.get("/datastore/?output=all").json()["objects"].items():
        for tag, label in content["labels"].items():
            file = http.get("/datastore/label", params={"label": name, "tag": tag})
            assert file.status_code == 200, file.text
            found.setdefault(tag, {})[name] = {
                "client_id": label["info"].get("client_id"),
                "sha256": hashlib.sha256(file.content).hexdigest(),
                **({"archive": label["info"]["archive"]["state"]} if "archive" in label["info"] else {}),
            }
    return found


def told_by_the_database(file: Path) -> dict[str, Any]:
    """History, models and numbers of records, read by SQL."""
    with sqlite3.connect(file) as database:
        database.row_factory = sqlite3.Row
        history = database.execute(
            "SELECT history.at, event, image_id, client_id, strategy, number, model_version, details FROM history"
            " LEFT JOIN rounds ON rounds.id = history.round_id ORDER BY history.id"
        )
        models = database.execute("SELECT name, version, path, labelled_count FROM models ORDER BY id").fetchall()
        records = database.execute("SELECT model_version, count(*) FROM records GROUP BY model_version").fetchall()
        serving = database.execute("SELECT model_version FROM scorings ORDER BY id DESC").fetchone()
        return {
            "history": [_event(dict(row)) for row in history],
            "models": [dict(row) for row in models],
            "records": {row[0]: row[1] for row in records},
            "serving": serving[0],
        }


def _event(row: dict[str, Any]) -> dict[str, Any]:
    number = row.pop("number")
    return {
        **{name: row[name] or "" for name in ("event", "image_id", "client_id", "strategy", "model_version")},
        "at": f"{datetime.fromisoformat(row['at']).isoformat()}Z",
        "round": number or "",
        "details": json.loads(row["details"] or "{}"),
    }


def goes_on(readers: Readers, strategies: list[str]) -> dict[str, Any]:
    """What the readers are given next: what they hold, then the rest of the round, and what each strategy says."""
    held = {reader: readers.next(reader) for reader in ("ann", "dan")}
    rest = [readers.next(f"reader{number}") for number in range(readers.kind.batch - 2)]
    asked = {name: readers.next("asking", name) for name in strategies}
    return {"held": held, "rest": rest, "reasons": {name: sample["reason"] for name, sample in asked.items()}}


def infer(readers: Readers, image_id: str) -> tuple[dict[str, Any], bytes]:
    """What the current model makes of an image: its answer without a file, or the file."""
    name = TRAININGS[readers.kind.app][0][0]
    ending = {"image_segmentation": ".png", "volume_segmentation": ".nii.gz"}.get(readers.kind.app, "")
    output = "image" if ending else "json"
    data = {"params": json.dumps({"result_extension": ending, "device": "cpu"} if ending else {"device": "cpu"})}
    answer = readers.http.post(f"/infer/{name}", params={"image": image_id, "output": output}, data=data)
    assert answer.status_code == 200, answer.text
    request = {"model": name, "image": image_id, "ending": ending}
    if ending:
        return request, answer.content
    return {**request, "probabilities": answer.json()["probabilities"]}, b""


def pack(out: Path, kept: Path, expected: dict[str, Any], prediction: tuple[str, bytes]) -> None:
    """Write the archive, the same bytes for the same content."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(out, "w:xz", preset=9) as tar:
        tar.add(kept, "kept", filter=plain)
        for name, content in (("expected.json", json.dumps(expected, indent=1).encode()), prediction):
            if content:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def checksums(folder: Path) -> dict[str, str]:
    """Path in a folder -> SHA-256 of the file; empty for the databases, which change when they are opened."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        # SQLite's own and temporary files are gone with the last connection, or the process.
        if not path.suffix.startswith(".sqlite-") and "tmp" not in path.parts:
            content = b"" if path.suffix == ".sqlite" else path.read_bytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest() if content else ""
    return found


def make(checkout: Path, name: str, out: Path, temporary: Path) -> None:
    """Make the folder of one kind in a temporary one."""
    kind = Kind(name, temporary / "kept")
    conf = {
        **CONF,
        "batch_size": str(kind.batch),
        "labels": LABELS[kind.app],
        **({"series": "MR"} if name == "archive" else {}),
    }
    set_up(checkout, kind, conf)
    archive = stand_in(kind) if name == "archive" else kind.write()
    from fastapi.testclient import TestClient
    from monailabel.app import app as server
    from monailabel.interfaces.utils.app import app_instance

    app = app_instance()
    app.loop.start = lambda: None  # trainings and scorings are those below, in this process
    with TestClient(server, base_url="http://127.0.0.1") as http:
        strategies = list(http.get("/info/").json()["strategies"])
        readers = Readers(http, kind, strategies[0])
        work(app, readers, archive)
        app.store.close()
        kept = Path(shutil.copytree(kind.folder, temporary / "copy"))
        version = re.findall('^version = "(.*)"', (checkout / "pyproject.toml").read_text(), re.M)[0]
        (store,) = kept.rglob("store.sqlite")
        expected = {
            "version": version,
            "app": kind.app,
            "studies": ARCHIVE_URL if archive else "",
            "conf": conf,
            "files": checksums(kept),
            "labels": labels(http),
            "skipped": http.get("/al/skipped").json() if readers.offers("/al/skipped") else [],
            "pseudo_labels": http.get("/al/pseudo_labels").json() if readers.offers("/al/pseudo_labels") else {},
            "images": images(http, kind),
            **told_by_the_database(store),
        }
        inference, prediction = infer(readers, str(expected["history"][-1]["image_id"]))
        expected |= {"inference": inference, **goes_on(readers, strategies)}
    out.mkdir(parents=True, exist_ok=True)
    pack(out / f"{version}-{name}.tar.xz", kept, expected, (f"prediction{inference['ending']}", prediction))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make(Path(sys.argv[1]).resolve(), sys.argv[2], Path(sys.argv[3]).resolve(), Path(folder).resolve())
