"""The whole loop against a real server, driven by MONAI Label's own client."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monailabel.client.client import MONAILabelClientException

from tasks.store.store import Store
from tests.server import ROOT, Server, wait_for

pytestmark = pytest.mark.slow

QUICK = {"max_epochs": 2, "iterations_per_epoch": 4, "first_features": 8}
JOB_SECONDS = 240


@pytest.fixture
def make_server(studies, tmp_path, volumes):
    servers = []

    def make(**conf: str) -> Server:
        conf = {"labels": ",".join(volumes.names), "preset": "small", "batch_size": "4"} | conf
        servers.append(Server(studies, tmp_path, **conf))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


def label_next(server: Server, volumes, strategy: str = "dropout_variance", client: str = "reader") -> dict:
    sample = server.client(client).next_sample(strategy, {"client_id": client})
    if sample:
        save(server, volumes, sample["id"], client)
    return sample


def save(server: Server, volumes, image_id: str, client: str = "reader") -> None:
    server.client(client).save_label(image_id, str(volumes.labels / f"{image_id}.nii.gz"), params={"client_id": client})


def store(studies: Path) -> Store:
    return Store(studies / "active_learning" / "store.sqlite")


def test_the_whole_loop_by_the_viewers_buttons(make_server, volumes, studies):
    with make_server(auto_train="false") as server:
        info = server.client().info()
        assert info["labels"] == list(volumes.names)
        assert next(iter(info["strategies"])) == "dropout_variance"
        assert {"random", "core_set", "bald", "flip_consistency", "entropy_kl"} <= set(info["strategies"])
        assert set(info["trainers"]) == {"segmentation", "segmentation_bootstrap"}
        assert info["trainers"]["segmentation"]["config"]["learning_rate"] == 0.01
        assert info["models"] == {}

        sample = label_next(server, volumes)
        assert sample["reason"] == "cold_start"
        assert Path(sample["path"]).name == f"{sample['id']}.nii.gz"
        assert {
            "strategy",
            "score",
            "rank",
            "round",
            "round_size",
            "remaining",
            "model_version",
            "lease_expires",
        } <= set(sample)
        for _ in range(4):
            label_next(server, volumes)
        assert server.run("train", "segmentation", QUICK)["status"] == "DONE"
        stats = server.client().info()["train_stats"]["segmentation"]
        assert stats["epoch"] == stats["total_epochs"] == 2
        assert set(stats["dice"]) == set(volumes.names)

        job = server.finished("scoring")  # follows by itself
        assert job["status"] == "DONE", server.text()[-3000:]
        assert any("scored 12 of 12" in line and "images/s" in line for line in job["details"])

        records = store(studies)
        version = records.serving_version()
        scores = {r.image_id: r.scores["dropout_variance"] for r in records.records(version)}
        expected = sorted(records.image_ids(labelled=False), key=lambda i: (-scores[i], i))
        served = []
        while sample := label_next(server, volumes):
            assert (sample["reason"], sample["model_version"]) == ("scored", version)
            assert sample["score"] == pytest.approx(scores[sample["id"]])
            served.append(sample["id"])
        assert served == expected
        assert server.client().next_sample("random", {}) == {}
        assert server.get("/datastore/").json()["completed"] == 12
        check_inference(server, volumes)


def check_inference(server: Server, volumes) -> None:
    """The result has the image's own geometry, in the formats that Slicer and OHIF ask for."""
    image_id = next(iter(volumes.images)).removesuffix(".nii.gz")
    image = nibabel.load(next(iter(volumes.images.values())))
    models = server.client().info()["models"]
    assert models["segmentation"]["labels"] == {name: i for i, name in enumerate(volumes.names, start=1)}
    file, params = server.client().infer("segmentation", image_id, {"result_extension": ".nii.gz"})
    result = nibabel.load(file)
    assert result.shape == image.shape
    np.testing.assert_allclose(result.affine, image.affine, atol=1e-4)
    assert set(np.unique(result.dataobj)) <= set(range(len(volumes.names) + 1))
    assert params["label_names"] == models["segmentation"]["labels"]
    ohif = {
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
    }
    response = server.post(f"/infer/segmentation?image={image_id}&output=image", data={"params": json.dumps(ohif)})
    assert response.status_code == 200
    header = response.content[:1000].decode(errors="replace")
    assert header.startswith("NRRD")
    assert f"sizes: {' '.join(map(str, image.shape))}" in header
    assert "unsigned char" in header or "uint8" in header


@pytest.mark.e2e  # trains a whole preset twice: minutes
def test_killed_in_training_and_in_scoring_it_goes_on_and_loses_nothing(make_server, volumes, studies):
    server = make_server(batch_size="5").start()
    for _ in range(5):
        label_next(server, volumes)
    held = server.client("ann").next_sample("random", {"client_id": "ann"})
    wait_for(lambda: (server.job("train") or {}).get("status") == "RUNNING", 60, server.text)
    wait_for(lambda: "epoch 1 of" in server.text(), JOB_SECONDS, lambda: server.text()[-3000:])
    server.kill()
    assert store(studies).labelled_count() == 5
    server.start()
    assert server.client("ann").next_sample("random", {"client_id": "ann"})["id"] == held["id"]
    wait_for(lambda: "scored 3 of 12" in server.text(), JOB_SECONDS * 2, lambda: server.text()[-3000:])
    server.kill()
    records = store(studies)
    version = records.current_model("segmentation").version
    done = len(records.records(version))
    assert 3 <= done < 12
    server.start()
    wait_for(records.serving_version, JOB_SECONDS, lambda: server.text()[-3000:])
    assert f"scoring {12 - done} of 12 images" in server.text()
    assert len(records.records(version)) == 12
    assert records.labelled_count() == 5
    assert server.get("/datastore/").json()["completed"] == 5
    assert label_next(server, volumes)["reason"] == "scored"
    assert server.client().info()["train_stats"]["segmentation"]["labelled"] == 5


def test_labels_saved_while_a_job_runs_keep_their_tag_and_info(make_server, volumes, studies):
    with make_server(auto_train="false") as server:
        for _ in range(5):
            label_next(server, volumes)
        assert server.post("/train/segmentation", json={**QUICK, "max_epochs": 20}).status_code == 200
        wait_for(lambda: "epoch 1 of" in server.text(), JOB_SECONDS, lambda: server.text()[-3000:])
        names = [label_next(server, volumes, client=f"reader{i}")["id"] for i in range(3)]
        assert server.finished("train")["status"] == "DONE"
        objects = server.get("/datastore/?output=all").json()["objects"]
        for i, name in enumerate(names):
            assert objects[name]["labels"]["final"]["info"]["client_id"] == f"reader{i}"


def test_a_label_with_undeclared_values_stops_training_with_the_name_of_the_file(make_server, volumes, tmp_path):
    with make_server(auto_train="false") as server:
        for _ in range(3):
            label_next(server, volumes)
        bad = server.client().next_sample("first", {"client_id": "reader"})
        image = nibabel.load(bad["path"])
        file = tmp_path / "bad.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.full(image.shape, 7, np.uint8), image.affine), file)
        with pytest.raises(MONAILabelClientException, match=f"values 7; declared are 0 to {len(volumes.names)}"):
            server.client().save_label(bad["id"], str(file))
        # Put there by hand it is not looked at before a training.
        shutil.copy(file, Path(server.studies) / "labels" / "final" / f"{bad['id']}.nii.gz")
        assert server.post("/al/refresh").json()["completed"] == 4
        job = server.run("train", "segmentation", QUICK)
        assert job["status"] == "ERROR"
        assert f"{bad['id']}.nii.gz contains the values 7; declared are 0 to {len(volumes.names)}" in job["details"][-1]
        assert label_next(server, volumes)


def test_requests_without_client_id_share_one_name_per_address_and_unknown_strategies_are_refused(make_server):
    with make_server(auto_train="false") as server:
        first = server.post("/activelearning/random").json()
        assert server.post("/activelearning/random", json={}).json()["id"] == first["id"]
        assert server.post("/activelearning/random", json={"client_id": "ann"}).json()["id"] != first["id"]
        response = server.post("/activelearning/nonsense")
        assert response.status_code == 404
        assert "nonsense" in response.json()["detail"]
        assert "dropout_variance" in response.json()["detail"]


@pytest.mark.parametrize(
    ("conf", "line"),
    [
        (["nonsense", "1"], "error: unknown option 'nonsense'; known are strategy, batch_size"),
        (["preset", "huge"], "error: option preset must be one of paper, small, pcdal; got 'huge'"),
        (["lease_minutes", "inf"], "error: option lease_minutes must be a number, got 'inf'"),
        (["store", "/proc/nosuch/store.sqlite"], "error: store '/proc/nosuch/store.sqlite' cannot be opened"),
    ],
)
def test_a_wrong_option_stops_the_start_with_one_clear_line(tmp_path, conf, line):
    server = Server(tmp_path, tmp_path, **{conf[0]: conf[1]})
    result = subprocess.run(
        server.command(), cwd=ROOT, env=server.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode != 0
    assert line in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_a_studies_folder_that_was_not_there_is_refused_and_an_empty_one_is_served(tmp_path):
    server = Server(tmp_path / "studis", tmp_path, labels="tumor", preset="small")
    result = subprocess.run(
        server.command(), cwd=ROOT, env=server.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode != 0
    assert "there is no such folder" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not (tmp_path / "studis").exists()
    (tmp_path / "studies").mkdir()
    with Server(tmp_path / "studies", tmp_path, labels="tumor", preset="small") as server:
        assert server.get("/info/").json()["datastore"]["total"] == 0
