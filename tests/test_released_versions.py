"""Studies folders that released versions have left behind, opened with the code of today; see tests/released."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from PIL import Image

from tests.apps.conftest import over_http
from tests.server import ROOT

ARCHIVES = sorted((ROOT / "tests" / "released").glob("*.tar.xz"))


@dataclass
class Released:
    """A folder as a version left it, and what that version said about it.

    Attributes:
        folder: holds the unpacked archive.
        expected: what the version said; see tests/released/make.py.
    """

    folder: Path
    expected: dict[str, Any]

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    @contextmanager
    def opened(self) -> Iterator[TestClient]:
        """The server of today on the folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("monailabel.interfaces.utils.app.apps", {})
            studies = str(self.kept)
            if self.expected["studies"]:  # an archive, which is away
                studies = self.expected["studies"]
                patch.setattr(settings, "MONAI_LABEL_DATASTORE_CACHE_PATH", str(self.kept))
            # The leases keep their own end, far away; the option itself is limited today.
            conf = {name: value for name, value in self.expected["conf"].items() if name != "lease_minutes"}
            app = app_instance(str(ROOT / "apps" / self.expected["app"]), studies, conf)
            with closing(app.store), over_http(app, patch) as http:
                yield http

    def prediction(self) -> np.ndarray:
        return read_mask((self.folder / f"prediction{self.expected['inference']['ending']}").read_bytes(), self.folder)


def read_mask(content: bytes, folder: Path) -> np.ndarray:
    if content.startswith(b"\x89PNG"):
        return np.asarray(Image.open(io.BytesIO(content)))
    file = folder / "answer.nii.gz"
    file.write_bytes(content)
    return np.asarray(nibabel.load(file).dataobj)


def unpack(archive: Path, folder: Path) -> Released:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return Released(folder, json.loads((folder / "expected.json").read_text()))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def archive(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def read(archive, tmp_path_factory) -> Iterator[tuple[TestClient, Released]]:
    """The server on a folder of which the tests only read."""
    released = unpack(archive, tmp_path_factory.mktemp("released"))
    with released.opened() as http:
        yield http, released


@pytest.fixture
def released(archive, tmp_path) -> Released:
    return unpack(archive, tmp_path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def labels(http: TestClient) -> dict[str, dict[str, Any]]:
    """Tag -> image id -> who gave the label, its file, and its state in the archive, as the fixtures tell it."""
    found: dict[str, dict[str, Any]] = {}
    for name, content in http.get("/datastore/?output=all").json()["objects"].items():
        for tag, label in content["labels"].items():
            file = http.get("/datastore/label", params={"label": name, "tag": tag})
            found.setdefault(tag, {})[name] = {
                "client_id": label["info"].get("client_id"),
                "sha256": sha256(file.content),
                **({"archive": label["info"]["archive"]["state"]} if "archive" in label["info"] else {}),
            }
    return found


def history(http: TestClient) -> list[dict[str, Any]]:
    """Events as the fixtures tell them."""
    rows = csv.DictReader(io.StringIO(http.get("/al/history").text))
    names = ("event", "image_id", "client_id", "strategy", "model_version", "at")
    return [
        {
            **{name: row[name] for name in names},
            "round": int(row["round"]) if row["round"] else "",
            "details": json.loads(row["details"] or "{}"),
        }
        for row in rows
    ]


def next_image(http: TestClient, reader: str, strategy: str) -> dict[str, Any]:
    answer = http.post(f"/activelearning/{strategy}", json={"client_id": reader})
    assert answer.status_code == 200, answer.text
    return answer.json()


def state(http: TestClient) -> dict[str, Any]:
    """Everything that must be the same however often the folder is opened."""
    return {
        "labels": labels(http),
        "history": history(http),
        "skipped": http.get("/al/skipped").json(),
        "progress": http.get("/al/progress", params={"client_id": "ann"}).json(),
        "models": sorted(http.get("/info/").json()["models"]),
    }


def test_every_released_version_and_app_is_there():
    assert [path.name.removesuffix(".tar.xz") for path in ARCHIVES] == [
        "0.1.0-volume_segmentation",
        "0.2.0-image_classification",
        "0.2.0-volume_segmentation",
        "0.3.0-image_classification",
        "0.3.0-image_segmentation",
        "0.3.0-volume_segmentation",
        "0.4.0-archive",
        "0.4.0-image_classification",
        "0.4.0-image_segmentation",
        "0.4.0-volume_segmentation",
        "0.5.0-archive",
        "0.5.0-image_classification",
        "0.5.0-image_segmentation",
        "0.5.0-volume_segmentation",
    ]


def test_all_images_are_known_with_their_files(read):
    http, released = read
    assert set(http.get("/datastore/?output=all").json()["objects"]) == set(released.expected["images"])
    for image_id, checksum in released.expected["images"].items():
        answer = http.get("/datastore/image", params={"image": image_id})
        if checksum:
            assert sha256(answer.content) == checksum
        else:  # it was never fetched from the archive
            assert answer.status_code == 503


def test_all_labels_are_known_with_their_readers(read):
    http, released = read
    assert labels(http) == released.expected["labels"]


def test_the_history_is_complete_and_in_order(read):
    http, released = read
    assert len(released.expected["history"]) >= 12
    assert history(http) == released.expected["history"]


def test_skipped_images_stay_skipped(read):
    http, released = read
    assert http.get("/al/skipped").json() == released.expected["skipped"]


def test_the_model_is_there_and_still_orders_the_pool(read):
    http, released = read
    expected = released.expected
    trained = {model["name"] for model in expected["models"]}
    assert trained == set(http.get("/info/").json()["models"])
    progress = http.get("/al/progress").json()
    assert progress["model_version"] in {model["version"] for model in expected["models"]}
    assert progress["total"] == len(expected["images"])
    assert progress["labelled"] == len(expected["labels"]["final"])


def test_the_model_finds_what_it_found_then(read):
    http, released = read
    inference = released.expected["inference"]
    options = {"device": "cpu"}
    if inference["ending"]:
        options["result_extension"] = inference["ending"]
    answer = http.post(
        f"/infer/{inference['model']}",
        params={"image": inference["image"], "output": "image" if inference["ending"] else "json"},
        data={"params": json.dumps(options)},
    )
    assert answer.status_code == 200, answer.text
    if not inference["ending"]:
        assert answer.json()["probabilities"] == pytest.approx(inference["probabilities"], abs=0.01)
        return
    then, now = released.prediction(), read_mask(answer.content, released.folder)
    assert then.any()
    assert now.shape == then.shape
    assert np.mean(now == then) > 0.99  # another processor may round a few pixels the other way


def test_pseudo_labels_are_still_there_and_told(read):
    http, released = read
    then = released.expected["pseudo_labels"]
    if not then:
        pytest.skip("the app makes none, or the version knew none")
    assert then["current"] > 0
    assert http.get("/al/pseudo_labels").json() == then


def test_readers_get_the_image_back_that_they_held(released):
    with released.opened() as http:
        for reader, then in released.expected["held"].items():
            now = next_image(http, reader, then["strategy"])
            assert {name: now[name] for name in then} == then


def test_the_open_round_goes_on_with_its_next_image(released):
    with released.opened() as http:
        for number, then in enumerate(released.expected["rest"]):
            now = next_image(http, f"reader{number}", then["strategy"])
            assert {name: now[name] for name in then} == then


def test_every_strategy_serves_from_the_scores_of_then(released):
    expected = released.expected
    assert "scored" in expected["reasons"].values()
    with released.opened() as http:
        assert set(expected["reasons"]) <= set(http.get("/info/").json()["strategies"])
        for strategy, reason in expected["reasons"].items():
            sample = next_image(http, "asking", strategy)
            # Where the committee of a strategy was not trained, only that there was no score counts.
            assert (sample["reason"] == "scored") == (reason == "scored"), strategy
            assert sample["model_version"] == expected["serving"], strategy


def test_opening_it_again_changes_nothing(released):
    with released.opened() as http:
        first = state(http)
    with released.opened() as http:
        assert state(http) == first


def test_files_of_the_version_stay_as_they_were(released):
    with released.opened() as http:
        state(http)
    for name, checksum in released.expected["files"].items():
        file = released.kept / name
        assert file.is_file(), name
        assert not checksum or sha256(file.read_bytes()) == checksum, name
