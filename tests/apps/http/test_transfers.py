"""Files that come with requests: inferences wait in their own lane, sessions are bounded, nothing is left behind."""

import asyncio
import gzip
import io
import json
import tempfile
import threading
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.utils.app import app_instance

from apps.http.lanes import INFERENCES, LONGEST_QUEUE
from apps.http.transfers import ending_of
from tests.apps.conftest import over_http
from tests.apps.server.test_protection import add, app, folder, infer, label, put, volume  # noqa: F401
from tests.server import APP


def left() -> list[Path]:
    """Temporary files of the server."""
    return list(Path(tempfile.gettempdir()).iterdir())


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_forty_inferences_hold_up_nobody_else_and_too_many_are_told_to_wait(http, app, monkeypatch):  # noqa: F811
    free = threading.Event()
    monkeypatch.setattr(MONAILabelApp, "infer", lambda *_: {"params": {"done": free.wait(120)}})
    transport = httpx.ASGITransport(app=http.app)

    async def play() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=100) as client:
            asked = [asyncio.create_task(client.request(**infer(output="json"))) for _ in range(40)]
            refused = 40 - LONGEST_QUEUE - INFERENCES.threads
            await until(lambda: sum(task.done() for task in asked) == refused)
            assert (INFERENCES.running, INFERENCES.waiting) == (INFERENCES.threads, LONGEST_QUEUE)
            for other in (
                {"method": "GET", "url": "/al/progress"},
                {"method": "POST", "url": "/activelearning/random", "json": {"client_id": "ann"}},
                put(),
            ):
                answer = await client.request(**other)
                assert answer.status_code == 200, answer.text
            assert not free.is_set()
            for task in asked:
                if task.done():
                    answer = task.result()
                    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
                    assert answer.json()["detail"] == "16 inferences wait already; try again later"
            free.set()
            statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
            assert (statuses.count(200), statuses.count(503)) == (40 - refused, refused)

    asyncio.run(play())
    assert not left()


@pytest.mark.parametrize("output", ["json", "image", None])
def test_a_result_is_answered_without_paths_and_its_file_goes(http, app, monkeypatch, output):  # noqa: F811
    made: list[Path] = []

    def written(_, request, datastore=None):
        brought = Path(request["image"])
        assert brought.read_bytes() == b"an image"
        made.append(Path(request["result_folder"]) / "result.nrrd")
        made[0].write_bytes(b"x" * 3_000_000)
        return {"file": str(made[0]), "params": {"from": f"see {brought}", "score": float("nan"), "n": [1, "\ud800"]}}

    monkeypatch.setattr(MONAILabelApp, "infer", written)
    request = {**infer(image=None), "files": {"file": ("../../../home/me/scan.nii.gz", b"an image")}}
    request["params"] = {} if output is None else {"output": output}
    answer = http.request(**request)
    assert answer.status_code == 200, answer.text[:300]
    if output != "json":
        assert answer.content.count(b"x" * 3_000_000) == 1
        assert b"result.nrrd" in answer.content + answer.headers.get("content-disposition", "").encode()
    if output != "image":
        assert b'{"from":' in answer.content
        assert b"see image.nii.gz" in answer.content
        assert b"NaN" not in answer.content
        assert tempfile.gettempdir().encode() not in answer.content
    assert not made[0].exists()
    assert not left()


def test_nothing_is_left_when_an_inference_fails_in_the_middle(http, app, monkeypatch):  # noqa: F811
    def fails(_, request, datastore=None):
        (Path(request["result_folder"]) / "half").write_bytes(b"x")
        raise ValueError("the model does not like it")

    monkeypatch.setattr(MONAILabelApp, "infer", fails)
    request = {**infer(), "files": {"file": ("a.nii.gz", b"x"), "label": ("b.nii.gz", b"y")}}
    assert http.request(**request).status_code == 400
    assert not left()


def test_an_inference_reads_no_temporary_file_but_its_own(http, app, monkeypatch):  # noqa: F811
    other = Path(tempfile.gettempdir(), f"{tempfile.gettempprefix()}other.nii.gz")
    other.write_bytes(b"x")
    monkeypatch.setattr(MONAILabelApp, "infer", lambda *_: pytest.fail("it was read"))
    session = http.put("/session/", files={"files": ("a.nii.gz", b"x")}).json()["session_id"]
    (file,) = Path(app.folder, "sessions", session).rglob("image.nii.gz")
    for image in (other, file, file.parent):
        for answer in (
            http.request(**infer(image=str(image))),
            http.request(**infer(params=json.dumps({"image": str(image)}))),
            http.request(**infer(image=str(image), params=json.dumps({"brought": str(image)}))),
        ):
            assert answer.status_code == 404, answer.text
    other.unlink()


def test_a_session_s_image_is_read_by_inference(http, app, monkeypatch):  # noqa: F811
    monkeypatch.setattr(MONAILabelApp, "infer", lambda _, request, __: {"params": {"n": len(read(request))}})

    def read(request) -> bytes:
        return Path(request["image"]).read_bytes()

    session = http.put("/session/", files={"files": ("a.nii.gz", b"four")}).json()["session_id"]
    assert http.request(**infer(image=None, session_id=session)).json() == {"n": 4}


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return buffer.getvalue()


def session(http, *contents: bytes, name: str = "a.nii.gz", **query):
    return http.put("/session/", params=query, files=[("files", (name, content)) for content in contents])


def test_a_session_is_kept_described_downloaded_and_removed(http, app):  # noqa: F811
    made = session(http, b"an image", expiry=60)
    assert made.status_code == 200, made.text
    address = f"/session/{made.json()['session_id']}"
    assert http.get(address).json() == made.json()["session_info"]
    assert http.get(address, params={"image": True}).content == b"an image"
    assert str(app.folder) not in made.text + http.get(address).text
    assert http.delete(address).status_code == 200
    assert http.get(address).status_code == 404
    assert http.delete(address).status_code == 404
    assert not list(Path(app.folder, "sessions").iterdir())
    assert not left()


def test_where_sessions_are_kept_and_for_how_long_are_settings(folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(settings, "MONAI_LABEL_SESSION_PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(settings, "MONAI_LABEL_SESSION_EXPIRY", 90)
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    own = app_instance(str(APP), str(folder), {"labels": "tumor", "auto_train": "false"})
    with over_http(own, monkeypatch) as client:
        made = session(client, b"an image").json()
        assert (tmp_path / "elsewhere" / made["session_id"]).is_dir()
        assert made["session_info"]["expiry"] == 90
        assert session(client, b"an image", expiry=91).status_code == 400
    own.store.close()


def test_several_files_and_a_zip_file_become_a_folder(http):
    for made in (
        session(http, b"1", b"2", name="a.dcm"),
        session(http, archive(a=b"1", b=b"2"), name="x.zip", uncompress=True),
    ):
        assert made.json()["session_info"]["image"] == ""
        answer = http.get(f"/session/{made.json()['session_id']}", params={"image": True})
        assert (answer.status_code, "several files" in answer.text) == (400, True)
    one = session(http, archive(**{"scan.nii.gz": b"image"}), name="x.zip", uncompress=True).json()["session_id"]
    assert http.get(f"/session/{one}", params={"image": True}).content == b"image"


@pytest.mark.parametrize("expiry", ["-1", "3601", "9" * 400, "1.5", "nan", "1e3", "soon", "٣x", ""])
def test_an_odd_expiry_is_refused(http, app, expiry):  # noqa: F811
    answer = session(http, b"x", expiry=expiry)
    assert answer.status_code == 400, answer.text
    assert "expiry" in answer.json()["detail"]
    assert not Path(app.folder, "sessions").exists()
    assert not left()


def test_a_session_that_is_refused_leaves_nothing(http, app):  # noqa: F811
    for content in (b"no zip", archive(**{"../evil": b"x"}), archive(zeros=bytes(80 << 20))):
        answer = session(http, content, name="x.zip", uncompress=True)
        assert answer.status_code == 400, answer.text
    app.sessions().quota = 100
    for request in ({"name": "a.nii"}, {"name": "x.zip", "uncompress": True}):
        answer = session(http, archive(a=bytes(1000)), **request)
        assert answer.status_code == 507, answer.text
        assert "all sessions together" in answer.json()["detail"]
    assert not Path(app.folder, "sessions").exists()
    assert not left()


@pytest.mark.parametrize("name", ["..%2f..", "...", "active_learning", "x" * 36])
def test_no_other_folder_is_a_session(http, name):
    for method in ("GET", "DELETE"):
        answer = http.request(method, f"/session/{name}")
        assert answer.status_code in (404, 405), answer.text


def test_every_label_and_its_image_come_in_the_dataset(http, folder):  # noqa: F811
    for number in (0, 1):
        assert http.request(**put(image=f"image{number}")).status_code == 200
    answer = http.get("/datastore/dataset")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as dataset:
        names = dataset.namelist()
        assert len(names) == 5
        assert dataset.read("image/image0.nii.gz") == (folder / "image0.nii.gz").read_bytes()
        assert str(folder) not in dataset.read("metadata.json").decode()
    with zipfile.ZipFile(io.BytesIO(http.get("/datastore/dataset?limit_cases=1").content)) as dataset:
        assert len(dataset.namelist()) == 3
    assert not left()


def image_file(name: str) -> bytes:
    content = volume(np.ones((3, 3, 3), np.float32))
    return gzip.compress(content) if name.endswith(".gz") else content


def test_an_image_without_an_id_gets_its_file_s_name(http, app):  # noqa: F811
    for name, expected in (("scan.1.nii.gz", "scan.1"), ("other.nii", "other")):
        answer = http.request(**add(image=None, content=image_file(name), name=name))
        assert answer.json() == {"image": expected}, answer.text
    assert not left()


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.nii.gz", ".nii.gz"),
        ("a.b.c.NII.GZ", ".NII.GZ"),
        ("Segmentation.seg.nrrd", ".seg.nrrd"),
        ("label.bin", ".bin"),
        ("a.nii.gz.html", ".html"),
        ("../../a.png", ".png"),
        ("a.png/../../evil", ""),
        ("a.p\ud800g", ""),
        ("a.\x00png", ""),
        ("a." + "x" * 100, ""),
        ("a", ""),
        (".nii", ".nii"),
        ("", ""),
        (None, ""),
    ],
)
def test_of_an_uploaded_file_s_name_only_a_plain_ending_is_used(name, ending):
    assert ending_of(name) == ending
