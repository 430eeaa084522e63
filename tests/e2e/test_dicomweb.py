"""The volumetric app on a DICOMweb archive: a real Orthanc, a real server, MONAI Label's client."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests

from tasks.store.store import Store
from tests.conftest import REAL
from tests.dicom import datasets, dcmqi_seg, enhanced, mr_series
from tests.e2e.orthanc import Orthanc
from tests.server import Server, wait_for
from tests.tiny import QUICK

pytestmark = pytest.mark.e2e


def phantom(patient: int, **options) -> list[bytes]:
    rng = np.random.default_rng(patient)
    voxels = rng.normal(100, 10, (12, 40, 36))
    voxels[3:9, 10:20, 12 + patient : 22 + patient] += 150
    return mr_series(f"patient{patient}", voxels.clip(0), **options)


@pytest.fixture
def orthanc(tmp_path):
    orthanc = Orthanc(tmp_path)
    for patient in range(4):
        orthanc.upload(phantom(patient))
    yield orthanc
    orthanc.stop()


@pytest.fixture
def server(orthanc, tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_DATASTORE_CACHE_PATH", str(tmp_path / "kept"))
    conf = {"labels": "tumor", "series": "MR:t1.*post", "preset": "small", "auto_train": "false"}
    with Server(f"{orthanc.url}/dicom-web", tmp_path, **conf) as server:
        yield server


def draw(server: Server, image_id: str, folder: Path) -> Path:
    """Download an image as Slicer does and draw its bright block."""
    (folder / "image.nii.gz").write_bytes(server.get(f"/datastore/image?image={image_id}").content)
    image = nibabel.load(folder / "image.nii.gz")
    label = (np.asarray(image.dataobj) > 180).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(label, image.affine), folder / "label.nii.gz")
    return folder / "label.nii.gz"


def submit(server: Server, image_id: str, file: Path, **params) -> dict:
    params.setdefault("label_info", [{"name": "tumor", "idx": 1}])
    with file.open("rb") as content:
        answer = requests.put(
            f"{server.url}/datastore/label?image={image_id}",
            files={"label": (file.name, content)},
            data={"params": json.dumps(params)},
            timeout=60,
        )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_series_is_served_labelled_trained_scored_and_segmented(orthanc, server, tmp_path):
    client = server.client()
    series = {row["SeriesInstanceUID"] for row in orthanc.series("MR")}
    assert len(series) == 4
    for number in range(3):
        sample = client.next_sample("random", {})
        assert sample["id"] in series
        assert sample["reason"] == "cold_start"
        assert {"StudyInstanceUID", "SeriesInstanceUID", "PatientID", "RetrieveURL", "Modality"} <= set(sample)
        stored = submit(server, sample["id"], draw(server, sample["id"], tmp_path), client_id="reader")
        assert stored["archive"]["state"] == "stored"
        assert stored["segments"]["tumor"] > 100
        assert len(orthanc.series("SEG")) == number + 1
    assert server.get("/info/").json()["datastore"]["completed"] == 3
    assert server.run("train", "segmentation", QUICK)["status"] == "DONE", server.text()[-3000:]
    assert server.finished("scoring")["status"] == "DONE", server.text()[-3000:]
    last = client.next_sample("dropout_variance", {})
    assert last["reason"] == "scored"
    assert last["id"] in series
    (store,) = (tmp_path / "kept").glob("*/store.sqlite")
    assert Store(store).labelled_count() == 3
    options = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    response = server.post(f"/infer/segmentation?image={last['id']}&output=image", data={"params": json.dumps(options)})
    assert response.status_code == 200
    assert b"sizes: 36 40 12" in response.content[:1000]


def test_the_archive_stops_and_starts_in_the_middle_of_everything(orthanc, server, tmp_path):
    first, second = (server.client(name).next_sample("random", {}) for name in ("ann", "ben"))
    files = {}
    for sample in (first, second):
        (tmp_path / sample["id"]).mkdir()
        files[sample["id"]] = draw(server, sample["id"], tmp_path / sample["id"])
    orthanc.stop()

    def next_for(name: str) -> tuple[float, requests.Response]:
        started = time.monotonic()
        answer = requests.post(f"{server.url}/activelearning/random", json={"client_id": name}, timeout=60)
        return time.monotonic() - started, answer

    spent, answer = next_for("eve")
    assert (answer.status_code, spent < 2) == (200, True)
    unseen = answer.json()["id"]
    for path in (f"/datastore/image?image={unseen}", "/proxy/dicom/qido/studies"):
        answer = server.get(path)
        assert answer.status_code == 503, answer.text
        assert "the archive" in answer.json()["detail"]
    for sample in (first, second):
        assert submit(server, sample["id"], files[sample["id"]])["archive"]["state"] == "waiting"
    assert server.get("/info/").json()["datastore"]["completed"] == 2
    # The server is killed and starts while the archive is away.
    server.kill()
    server.start()
    assert server.get("/info/").json()["datastore"] == {"total": 4, "completed": 2, "label_tags": {"final": 2}}
    again = next_for("eve")[1].json()
    assert again["id"] == unseen
    orthanc.start()
    wait_for(lambda: len(orthanc.series("SEG")) == 2, 60, lambda: server.text()[-3000:])
    assert server.get(f"/datastore/image?image={unseen}").status_code == 200


def test_an_archive_that_hangs_holds_up_nobody(orthanc, server):
    series = [row["SeriesInstanceUID"] for row in orthanc.series("MR")]
    orthanc.process.send_signal(signal.SIGSTOP)
    try:
        for name in ("ann", "ben", "eve"):
            started = time.monotonic()
            answer = requests.post(f"{server.url}/activelearning/random", json={"client_id": name}, timeout=60)
            assert answer.status_code == 200
            assert server.get("/info/").status_code == 200
            assert time.monotonic() - started < 3
        started = time.monotonic()
        answers = [server.get(f"/datastore/image?image={uid}").status_code for uid in series[:1]]
        assert answers == [503]
        assert time.monotonic() - started < 15
    finally:
        orthanc.process.send_signal(signal.SIGCONT)


def test_labels_and_series_of_others_are_seen_after_a_refresh(orthanc, server, tmp_path):
    image_id = orthanc.series("MR")[0]["SeriesInstanceUID"]
    image = nibabel.load(draw(server, image_id, tmp_path))
    slices = [slice for slice in orthanc.instances("MR") if image_id == slice.SeriesInstanceUID]
    label = np.asarray(image.dataobj).astype(np.uint8)
    seg = dcmqi_seg(tmp_path / "label.nii.gz", slices, ("Tumor",), "Slicer user", tmp_path)
    orthanc.upload([seg.read_bytes(), *phantom(7)])
    assert server.post("/al/refresh").json() == {"total": 5, "completed": 1}
    stored = tmp_path / "stored.nii.gz"
    stored.write_bytes(server.get(f"/datastore/label?label={image_id}&tag=final").content)
    np.testing.assert_array_equal(np.asarray(nibabel.load(stored).dataobj), label)
    history = server.get("/al/history").text
    assert f"labelled,{image_id},Slicer user" in history
    held = {server.client(f"reader{i}").next_sample("random", {})["id"] for i in range(4)}
    assert image_id not in held


def test_a_multi_frame_series_is_labelled_like_any_other(orthanc, server, tmp_path):
    whole = enhanced(phantom(7))
    orthanc.upload([whole])
    assert server.post("/al/refresh").json() == {"total": 5, "completed": 0}
    (image,) = datasets([whole])
    image_id = str(image.SeriesInstanceUID)
    file = draw(server, image_id, tmp_path)
    stored = submit(server, image_id, file, client_id="reader")
    assert stored["archive"]["state"] == "stored"
    (seg,) = orthanc.instances("SEG")
    drawn = set()
    for frame, own in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = own.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
        number = int(source.ReferencedFrameNumber) - 1
        np.testing.assert_array_equal(frame > 0, image.pixel_array[number] > 180)
        drawn.add(number)
    assert len(drawn) == 6


def test_nothing_outside_of_the_archive_can_be_reached_through_the_server(orthanc, server):
    inside = requests.get(f"{server.url}/proxy/dicom/qido/studies", timeout=30)
    assert inside.status_code == 200
    assert len(inside.json()) == 4
    for path in (
        "..%2fsystem",
        "studies/..%2f..%2fsystem",
        "%252e%252e/system",
        "..%5csystem",
        "studies%3f/../../system",
    ):
        session = requests.Session()
        request = requests.Request("GET", f"{server.url}/proxy/dicom/qido/{path}").prepare()
        request.url = f"{server.url}/proxy/dicom/qido/{path}"
        answer = session.send(request, timeout=30)
        assert answer.status_code in (400, 404), (path, answer.text)
        assert "ApiVersion" not in answer.text


@pytest.mark.skipif(not (REAL / "brain_tumor_dicom").is_dir(), reason="real series are not at hand")
def test_channels_of_a_real_study_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_DATASTORE_CACHE_PATH", str(tmp_path / "kept"))
    orthanc = Orthanc(tmp_path)
    try:
        orthanc.upload([file.read_bytes() for file in sorted((REAL / "brain_tumor_dicom").rglob("*.dcm"))])
        conf = {"channels": "T1post,T2", "labels": "tumor", "preset": "small", "auto_train": "false"}
        with Server(f"{orthanc.url}/dicom-web", tmp_path, **conf) as server:
            both = {row["SeriesInstanceUID"] for row in orthanc.series("MR") if row["SeriesDescription"] == "T1post"}
            served = {server.client(name).next_sample("random", {})["id"] for name in ("ann", "ben")}
            assert served == both
            codes = {name: server.get(f"/datastore/image?image={name}") for name in both}
            (whole,) = [name for name, answer in codes.items() if answer.status_code == 200]
            (lacking,) = both - {whole}
            assert "no series like T2" in codes[lacking].json()["detail"]
            assert codes[lacking].status_code == 400
    finally:
        orthanc.stop()


def test_the_viewer_is_served_by_the_same_address(server):
    page = server.get("/ohif/")
    assert page.status_code == 200
    assert "OHIF" in page.text


def test_uploading_instances_through_the_viewer_s_way_works(orthanc, server):
    content = phantom(9)[0]
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--x--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=x'
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    answer = requests.post(f"{server.url}/proxy/dicom/stow/studies", data=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert str(datasets([content])[0].SeriesInstanceUID) in {row["SeriesInstanceUID"] for row in orthanc.series("MR")}
