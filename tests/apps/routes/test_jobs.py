"""Jobs over HTTP: what is refused before it is queued, what is queued, stopped and told; without the processes."""

import sys
import time

import numpy as np
import pytest
from monailabel.interfaces.utils.app import app_instance

from tasks.jobs.queue import LONGEST_QUEUE, JobQueue
from tasks.store.claims import TRAIN
from tests.apps.server.test_protection import SHAPE, label, put
from tests.server import APP
from tests.tasks.jobs.test_options import WRONG
from tests.tiny import write_volume

SECONDS = 60


@pytest.fixture
def app(tmp_path, monkeypatch):
    for number in range(4):
        write_volume(tmp_path / "studies" / f"image{number}.nii.gz", np.random.default_rng(number).random(SHAPE))
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    app = app_instance(str(APP), str(tmp_path / "studies"), {"labels": "tumor", "preset": "small"})
    # A process that says where it is and waits, instead of a training.
    code = (
        "import sys, time; print(sys.argv[1:]); print('/tmp/secret/image0.nii.gz is odd', flush=True); time.sleep(60)"
    )
    app.jobs = JobQueue(lambda kind, request: [sys.executable, "-c", code, kind, str(request)])
    yield app
    for kind in ("train", "scoring", "batch_infer"):
        app.jobs.stop(kind)
    app.store.close()


@pytest.fixture
def labelled(http):
    for number in range(2):
        assert http.request(**put(image=f"image{number}", content=label())).status_code == 200


def until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.usefixtures("labelled")
def test_a_wrong_option_is_refused_with_its_name_before_anything_is_queued(http, app):
    for options, words in WRONG:
        try:
            answer = http.post("/train/segmentation", json=options)
        except ValueError:  # infinite and not a number: no client can send them as JSON
            continue
        assert answer.status_code == 400, (options, answer.text)
        if not answer.json()["detail"].endswith("is out of range"):  # no number of 64 bits: it does not get that far
            assert answer.json()["detail"].startswith(words), answer.text
    assert app.jobs.jobs(TRAIN) == []


@pytest.mark.usefixtures("labelled")
@pytest.mark.parametrize(
    ("url", "body", "words"),
    [
        ("/train/nothing", {}, "unknown trainer 'nothing'; known are segmentation, segmentation_bootstrap"),
        ("/train/", {"segmentation": {"max_epochs": 0.5}}, "max_epochs must be a whole number"),
        ("/train/", {"bundle_path": "/tmp"}, "unknown option 'bundle_path'"),
        ("/scoring/records", {}, "there is no trained model to score with yet"),
        ("/scoring/nothing", {}, "unknown method 'nothing'; known are records"),
    ],
)
def test_what_cannot_be_done_is_a_400_with_the_reason(http, app, url, body, words):
    answer = http.post(url, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"].startswith(words)
    assert http.get("/train/").status_code == 404


def test_too_few_labels_are_said_at_once(http, app):
    answer = http.post("/train/segmentation", json={})
    assert (answer.status_code, answer.json()["detail"]) == (
        400,
        "training needs at least 2 labelled images, there are 0",
    )
    assert http.post("/batch/infer/segmentation", json={}).status_code == 404


@pytest.mark.usefixtures("labelled")
def test_what_clients_add_by_themselves_is_taken_and_ignored(http, app):
    added = {"client_id": "ann", "model": "x", "gpus": "0,1", "multi_gpu": True, "segmentation": {}, "max_epochs": 3}
    answer = http.post("/train/segmentation", json=added)
    assert answer.status_code == 200, answer.text
    assert answer.json()["request"] == {"model": "segmentation", "max_epochs": 3}
    until(lambda: app.jobs.running(TRAIN) and app.jobs.running(TRAIN).lines)
    (job,) = app.jobs.jobs(TRAIN)
    assert job.asked_by == "ann"
    assert job.lines[0] == "['train', \"{'model': 'segmentation', 'max_epochs': 3}\"]"


@pytest.mark.usefixtures("labelled")
def test_the_queue_is_watched_bounded_and_emptied(http, app):
    assert http.post("/train/segmentation", json={"client_id": "ann"}).status_code == 200
    until(lambda: app.jobs.running(TRAIN) and len(app.jobs.running(TRAIN).lines) == 2)
    shown = http.get("/train/", params={"check_if_running": True}).json()
    assert (shown["status"], shown["details"][-1]) == ("RUNNING", "image0.nii.gz is odd")
    assert http.get("/al/progress").json()["job"] == "train"
    refused = http.post("/train/segmentation", json={"client_id": "bob"})
    assert (refused.status_code, refused.json()["detail"]) == (429, "a job that ann has started is running already")
    for _ in range(LONGEST_QUEUE):
        assert http.post("/train/segmentation", json={}, params={"enqueue": True}).status_code == 200
    full = http.post("/train/segmentation", json={}, params={"enqueue": True})
    assert (full.status_code, "wait already" in full.text) == (429, True)
    assert len(http.get("/train/", params={"all": True}).json()) == LONGEST_QUEUE + 1
    stopped = http.delete("/train/").json()
    assert (stopped["status"], stopped["id"]) == ("STOPPED", shown["id"])
    assert {job["status"] for job in http.get("/train/", params={"all": True}).json()} == {"STOPPED"}
    until(lambda: app.jobs.running(TRAIN) is None)
    assert http.get("/train/", params={"check_if_running": True}).status_code == 404
    assert http.delete("/train/").json() is None


@pytest.mark.usefixtures("labelled")
def test_what_the_loop_has_started_does_not_keep_a_person_from_training(http, app):
    app.jobs.submit(TRAIN, {"model": "segmentation"})
    answer = http.post("/train/segmentation", json={"client_id": "ann"})
    assert (answer.status_code, answer.json()["status"]) == (200, "SUBMITTED")


@pytest.mark.usefixtures("labelled")
def test_update_model_trains_what_the_loop_trains_with_the_options_of_ohif(http, app):
    sent = {
        "segmentation": {"max_epochs": "4", "device": ["cpu"]},
        "segmentation_bootstrap": {"anything": 1},
        "seed": 5,
    }
    answer = http.post("/train/", json=sent)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["segmentation"]
    assert [job.request for job in app.jobs.jobs(TRAIN)] == [
        {"model": "segmentation", "max_epochs": 4, "device": "cpu", "seed": 5}
    ]


@pytest.mark.usefixtures("labelled")
def test_a_stop_holds_the_loop_until_somebody_trains(http, app):
    app.loop.hold("someone")
    assert app.loop.held_by == "someone"
    assert http.post("/train/segmentation", json={"client_id": "ann"}).status_code == 200
    assert not app.loop.held_by
    assert http.delete("/train/").status_code == 200
    assert app.loop.held_by.startswith("anonymous@")
