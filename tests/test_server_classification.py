"""Grading images against a real server, driven by MONAI Label's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from monailabel.client.client import MONAILabelClientException

from tasks.store.store import Store
from tests.server import ROOT, Server, wait_for

pytestmark = pytest.mark.slow

APP = ROOT / "apps" / "image_classification"
QUICK = {"image_size": 64, "max_epochs": 3, "iterations_per_epoch": 5, "val_interval": 1, "first_features": 4}
LABELS = 40


def make_server(studies: Path, slices, folder: Path, **conf: str) -> Server:
    conf = {"labels": ",".join(slices.classes), "preset": "small", "group_by": "patient", "batch_size": "8"} | conf
    return Server(studies, folder, app=APP, **conf)


@pytest.fixture
def server(graded_studies, slices, tmp_path):
    with make_server(graded_studies, slices, tmp_path, auto_train="false") as server:
        yield server


def grade_next(server: Server, slices, folder: Path, client: str = "reader", strategy: str = "entropy_kl") -> dict:
    """Ask for the next image and give its true class, by turns as a JSON file and as a parameter."""
    sample = server.client(client).next_sample(strategy, {"client_id": client})
    if sample:
        label = slices.truth[sample["id"]]
        file = folder / "label.json"
        by_file = sum(map(ord, sample["id"])) % 2
        file.write_text(json.dumps({"label": label}) if by_file else "")
        params = {"client_id": client} if by_file else {"client_id": client, "label": label}
        server.client(client).save_label(sample["id"], str(file), params=params)
    return sample


def test_cold_start_forty_labels_committee_scores_and_the_trimmed_range(server, slices, graded_studies, tmp_path):
    first = grade_next(server, slices, tmp_path)
    assert (first["reason"], first["strategy"], first["score"]) == ("cold_start", "entropy_kl", None)
    for _ in range(LABELS - 1):
        grade_next(server, slices, tmp_path)
    (tmp_path / "label.json").write_text('{"label": "elephant"}')
    with pytest.raises(MONAILabelClientException, match="the classes are"):
        server.client().save_label(first["id"], str(tmp_path / "label.json"))

    assert server.run("train", "classifier_committee", QUICK)["status"] == "DONE", server.text()[-3000:]
    stats = server.client().info()["train_stats"]["classifier_committee"]
    assert (stats["labelled"], stats["members"], stats["failed_members"]) == (LABELS, 3, {})
    assert {"auc", "accuracy", "precision"} <= set(stats)
    job = server.finished("scoring")  # follows by itself
    assert job["status"] == "DONE", server.text()[-3000:]

    store = Store(graded_studies / "active_learning" / "store.sqlite")
    version = store.serving_version()
    records = {record.image_id: record for record in store.records(version)}
    assert set(records) == set(slices.images)
    assert {"entropy_kl", "predictive_entropy", "bald", "flip_consistency", "least_confidence", "margin"} == set(
        records[first["id"]].scores
    )
    assert records[first["id"]].embedding.ndim == 1
    pool = store.image_ids(labelled=False)
    ranked = sorted(pool, key=lambda name: (-records[name].scores["entropy_kl"], name))
    cut = len(pool) // 10
    middle = set(ranked[cut : len(ranked) - cut])
    assert len(pool) == len(slices.images) - LABELS
    served = [server.client(f"reader{i}").next_sample("entropy_kl", {"client_id": f"reader{i}"}) for i in range(8)]
    assert len({sample["id"] for sample in served}) == 8
    for sample in served:
        assert (sample["reason"], sample["model_version"]) == ("scored", version)
        assert sample["score"] == pytest.approx(records[sample["id"]].scores["entropy_kl"])
        assert sample["id"] in middle
    band = server.client("eve").next_sample("entropy_kl_band", {"client_id": "eve"})
    assert band["id"] in ranked[cut : len(ranked) * 4 // 10]
    top = server.client("joe").next_sample("entropy_kl_top", {"client_id": "joe"})
    assert top["id"] == next(name for name in ranked if name not in {s["id"] for s in (*served, band)})

    _, answer = server.client().infer("classifier_committee", first["id"], {})
    result = json.loads(answer)
    assert list(result["probabilities"]) == list(slices.classes)
    assert result["label"] in slices.classes
    store.close()


@pytest.mark.e2e  # three starts and four jobs: minutes
def test_killed_in_training_and_in_scoring_it_goes_on_and_loses_nothing(slices, graded_studies, tmp_path):
    server = make_server(graded_studies, slices, tmp_path, strategy="flip_consistency").start()
    try:
        for _ in range(8):
            grade_next(server, slices, tmp_path, strategy="flip_consistency")
        held = server.client("ann").next_sample("random", {"client_id": "ann"})["id"]
        wait_for(lambda: "epoch 1 of" in server.text(), 240, lambda: server.text()[-3000:])
        server.kill()
        store = Store(graded_studies / "active_learning" / "store.sqlite")
        assert store.labelled_count() == 8
        assert store.current_model("classifier") is None
        server.start()
        assert server.client("ann").next_sample("random", {"client_id": "ann"})["id"] == held
        wait_for(lambda: "scored 3 of" in server.text(), 240, lambda: server.text()[-3000:])
        server.kill()
        version = store.current_model("classifier").version
        done = len(store.records(version))
        assert 3 <= done < len(slices.images)
        assert store.serving_version() == ""
        server.start()
        wait_for(store.serving_version, 240, lambda: server.text()[-3000:])
        assert f"scoring {len(slices.images) - done} of {len(slices.images)} images" in server.text()
        assert len(store.records(version)) == len(slices.images)
        assert store.labelled_count() == 8
        assert grade_next(server, slices, tmp_path, strategy="flip_consistency")["reason"] == "scored"
        store.close()
    finally:
        server.kill()


def test_labels_of_a_table_are_imported_into_a_running_server(server, slices, graded_studies):
    line = [sys.executable, "-m", "tasks.classification.labels", str(graded_studies)]
    line += ["--labels", ",".join(slices.classes)]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{len(slices.images)} imported" in result.stdout
    wait_for(
        lambda: server.get("/al/progress").json()["labelled"] == len(slices.images), 30, lambda: server.text()[-2000:]
    )
    assert server.client().next_sample("random", {}) == {}
