"""Segmenting images against a real server, driven by MONAI Label's own client; masks read and written by SimpleITK."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
from monailabel.client.client import MONAILabelClientException
from PIL import Image

from tests.server import ROOT, Server, wait_for
from tests.tasks.image_segmentation.conftest import QUICK

pytestmark = [pytest.mark.slow, pytest.mark.e2e]  # two starts and five jobs: minutes

APP = ROOT / "apps" / "image_segmentation"


@pytest.fixture
def server(picture_studies, pictures, tmp_path):
    conf = {"labels": pictures.label, "preset": "small", "batch_size": "10", "auto_train": "false"}
    with Server(picture_studies, tmp_path, app=APP, **conf) as server:
        yield server


def segment_next(server: Server, pictures, folder: Path, client: str = "ann") -> dict:
    """Ask for the next image and send its true mask, by turns as a picture and as 3D Slicer would: a volume."""
    sample = server.client(client).next_sample("ceal", {"client_id": client})
    if sample:
        send(server, pictures, folder, sample["id"], client, as_volume=sum(map(ord, sample["id"])) % 2 == 0)
    return sample


def send(server: Server, pictures, folder: Path, name: str, client: str, as_volume: bool) -> None:
    file = pictures.masks[name]
    if as_volume:
        mask = sitk.ReadImage(str(file))
        mask.CopyInformation(sitk.ReadImage(str(pictures.images[name])))
        file = folder / "label.nii.gz"
        sitk.WriteImage(sitk.JoinSeries(mask), str(file))
    server.client(client).save_label(name, str(file), params={"client_id": client})


def pseudo_labels(server: Server) -> dict[str, dict]:
    """Image id -> what the datastore tells of its pseudo-label."""
    objects = server.get("/datastore/?output=all").json()["objects"]
    return {name: item["labels"]["pseudo"]["info"] for name, item in objects.items() if "pseudo" in item["labels"]}


def test_ceal_with_pseudo_labels_over_a_kill_and_masks_in_slicer_s_geometry(server, pictures, tmp_path):
    assert next(iter(server.client().info()["strategies"])) == "ceal"
    cold = [segment_next(server, pictures, tmp_path) for _ in range(10)]
    assert {(s["reason"], s["group"]) for s in cold} == {("cold_start", None)}

    Image.new("L", (5, 5)).save(tmp_path / "bad.png")
    unlabelled = next(name for name in pictures.images if name not in {s["id"] for s in cold})
    with pytest.raises(MONAILabelClientException, match="the label has 5x5 pixels, its image"):
        server.client().save_label(unlabelled, str(tmp_path / "bad.png"))
    with pytest.raises(MONAILabelClientException, match="for what the model labels itself"):
        server.client().save_label(unlabelled, str(pictures.masks[unlabelled]), tag="pseudo")

    assert server.run("train", "segmentation", QUICK)["status"] == "DONE", server.text()[-3000:]
    assert server.finished("scoring")["status"] == "DONE", server.text()[-3000:]  # follows by itself
    made = wait_for(lambda: pseudo_labels(server), 60, lambda: server.text()[-3000:])
    assert len(made) == 5
    version = server.client("ann").next_sample("ceal", {})["model_version"]
    assert {info["model_version"] for info in made.values()} == {version}
    status = server.client().info()["datastore"]
    assert (status["completed"], status["label_tags"]) == (10, {"final": 10, "pseudo": 5})

    first = [segment_next(server, pictures, tmp_path) for _ in range(4)]
    held = server.client("eve").next_sample("ceal", {"client_id": "eve"})
    assert [s["group"] for s in (*first, held)] == ["lowest"] * 2 + ["highest"] * 2 + ["confident"]
    server.kill()
    server.start()
    assert server.client("eve").next_sample("ceal", {"client_id": "eve"})["id"] == held["id"]
    assert pseudo_labels(server) == made
    assert server.client().info()["datastore"]["completed"] == 14

    chosen = sorted(made)[0]
    send(server, pictures, tmp_path, chosen, "ann", as_volume=True)
    assert set(pseudo_labels(server)) == set(made) - {chosen}
    (row,) = server.get("/al/pseudo_labels").json()["rounds"]
    assert (row["made"], row["compared"]) == (5, 1)
    assert 0 <= row["dice"] <= 1

    image = sitk.ReadImage(str(pictures.images[chosen]))
    for ending in (".nrrd", ".nii.gz", ".png"):
        file, _ = server.client().infer("segmentation", chosen, {"result_extension": ending})
        result = tmp_path / f"result{ending}"
        shutil.copy(file, result)
        mask = sitk.ReadImage(str(result))
        assert (mask.GetSize()[:2], mask.GetSpacing()[:2]) == (image.GetSize(), image.GetSpacing())
        assert mask.GetOrigin()[:2] == image.GetOrigin()
        server.client().save_label(chosen, str(result), params={"client_id": "ann"})  # corrected and sent back
    answer = server.post(
        f"/infer/segmentation?image={chosen}", data={"params": json.dumps({"result_extension": ".jpg"})}
    )
    assert answer.status_code == 400
    assert "result_extension must be one of" in answer.text

    assert server.run("train", "segmentation", QUICK)["status"] == "DONE", server.text()[-3000:]
    stats = server.client().info()["train_stats"]["segmentation"]
    assert (stats["labelled"], stats["start"], stats["pseudo_labels"]["used"]) == (15, "the current model", 4)

    def replaced() -> bool:
        now = pseudo_labels(server)
        return len(now) == 10 and {info["round"] for info in now.values()} == {3}

    wait_for(replaced, 240, lambda: server.text()[-3000:])
