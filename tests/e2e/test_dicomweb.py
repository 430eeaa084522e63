"""The volumetric app on a DICOMweb archive: a real Orthanc, a real server, MONAI Label's client."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from strategies.store import Store
from tests.dicom import mr_series
from tests.e2e.orthanc import Orthanc
from tests.server import Server
from tests.tiny import QUICK

pytestmark = pytest.mark.e2e


@pytest.fixture
def orthanc(tmp_path):
    orthanc = Orthanc(tmp_path)
    rng = np.random.default_rng(0)
    for patient in range(4):
        voxels = rng.normal(100, 10, (12, 40, 36))
        voxels[3:9, 10:20, 12 + patient : 22 + patient] += 150
        orthanc.upload(mr_series(f"patient{patient}", voxels.clip(0)))
    yield orthanc
    orthanc.stop()


@pytest.fixture
def server(orthanc, tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", '{"Modality": "MR"}')
    monkeypatch.setenv("MONAI_LABEL_DATASTORE_CACHE_PATH", str(tmp_path / "cache"))
    store = f"sqlite:///{tmp_path / 'store.sqlite'}"
    with Server(f"{orthanc.url}/dicom-web", tmp_path, preset="small", auto_train="false", store=store) as server:
        yield server


def test_a_series_is_served_labelled_trained_scored_and_segmented(orthanc, server, tmp_path):
    client = server.client()
    series = {row["SeriesInstanceUID"] for row in orthanc.series("MR")}
    assert len(series) == 4
    for number in range(3):
        sample = client.next_sample("random", {})
        assert sample["id"] in series
        assert sample["reason"] == "cold_start"
        assert {"StudyInstanceUID", "SeriesInstanceUID", "PatientID", "RetrieveURL", "Modality"} <= set(sample)
        image = nibabel.load(sample["path"])
        label = (np.asarray(image.dataobj) > 180).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(label, image.affine), tmp_path / "label.nii.gz")
        client.save_label(
            sample["id"], str(tmp_path / "label.nii.gz"), params={"label_info": [{"name": "tumor", "idx": 1}]}
        )
        assert len(orthanc.series("SEG")) == number + 1
    assert server.run("train", "segmentation", QUICK)["status"] == "DONE", server.text()[-3000:]
    assert server.finished("scoring")["status"] == "DONE", server.text()[-3000:]
    last = client.next_sample("dropout_variance", {})
    assert last["reason"] == "scored"
    assert last["id"] in series
    assert Store(f"sqlite:///{tmp_path / 'store.sqlite'}").labelled_count() == 3
    options = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    response = server.post(f"/infer/segmentation?image={last['id']}&output=image", data={"params": json.dumps(options)})
    assert response.status_code == 200
    assert b"sizes: 36 40 12" in response.content[:1000]


def test_the_viewer_is_served_by_the_same_address(server):
    page = server.get("/ohif/")
    assert page.status_code == 200
    assert "OHIF" in page.text
