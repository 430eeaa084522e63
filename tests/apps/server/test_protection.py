"""What stands between the network and the routes."""

import errno
import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from sqlalchemy.exc import OperationalError

from apps.server.protection import warn_if_open
from tasks.common.files import ArchiveError
from tests.server import APP
from tests.tiny import write_volume

SHAPE = (6, 5, 4)


def volume(array: np.ndarray, affine=None) -> bytes:
    return nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine).to_bytes()


def label(value: int = 1, shape=SHAPE) -> bytes:
    array = np.zeros(shape, np.uint8)
    array[1:3, 1, 1] = value
    return volume(array)


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        write_volume(tmp_path / "studies" / f"image{number}.nii.gz", np.random.default_rng(number).random(SHAPE))
    return tmp_path / "studies"


@pytest.fixture
def app(folder, monkeypatch):
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    conf = {"labels": "tumor", "preset": "small", "auto_train": "false", "max_upload_mb": "1"}
    app = app_instance(str(APP), str(folder), conf)
    yield app
    app.store.close()


def everything(folder) -> dict[str, bytes]:
    """All files but databases and what was refused."""
    files = (path for path in folder.parent.rglob("*") if path.is_file())
    kept = (path for path in files if "sqlite" not in path.name and "rejected" not in path.parts)
    return {str(path): path.read_bytes() for path in kept if not path.name.endswith(".lock")}


def put(image="image0", content=None, name="label.nii", tag="final", params="{}", **query):
    return {
        "method": "PUT",
        "url": "/datastore/label",
        "params": {"image": image, "tag": tag, **query},
        "files": {"label": (name, label() if content is None else content)},
        "data": {"params": params},
    }


def add(image="new", content=b"x", name="new.nii.gz", params="{}"):
    return {
        "method": "PUT",
        "url": "/datastore/image",
        "params": {"image": image},
        "files": {"file": (name, content)},
        "data": {"params": params},
    }


def infer(image="image0", model="segmentation", params="{}", **query):
    query = {"image": image, **query} if image is not None else query
    return {"method": "POST", "url": f"/infer/{model}", "params": query, "data": {"params": params}}


def get(url, **params):
    return {"method": "GET", "url": url, "params": params}


def post(url, **options):
    return {"method": "POST", "url": url, **options}


GIANT = "x" * 300
SECRET = "/etc/passwd"
BAD = [
    # ids
    (404, put(image="nothing")),
    (404, put(image="../image0")),
    (404, put(image=SECRET)),
    (404, put(image="")),
    (404, put(image="image0\x00")),
    (404, put(image="image0/../image1")),
    (404, put(image=GIANT)),
    (404, put(image="ïmage0")),
    (400, add(image="../evil")),
    (400, add(image=SECRET)),
    (400, add(image="a\\b")),
    (400, add(image="..")),
    (400, add(image=".hidden")),
    (400, add(image="part-1")),
    (400, add(image=GIANT)),
    (400, add(image="new\n")),
    # tags
    (400, put(tag="../../evil")),
    (400, put(tag="history")),
    (400, put(tag="unheard-of")),
    (400, put(tag="a/b")),
    (400, put(tag="x" * 100)),
    (400, put(tag="\x00")),
    # kinds and content of files
    (400, put(name="label.exe")),
    (400, put(name="label.html", tag="original")),
    (400, put(name="label")),
    (400, put(name="label.py", content=b"import os")),
    (400, put(content=b"")),
    (400, put(content=b"nonsense")),
    (400, put(content=label()[:400])),
    (400, put(content=b"\x1f\x8b" + b"\0" * 50, name="label.nii.gz")),
    (400, put(content=b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 9999999 9999999 9999\n\n", name="label.nrrd")),
    (400, put(content=b"NRRD0004\ndata file: /etc/passwd\n\n", name="label.nrrd")),
    (400, add(name="new.exe")),
    (400, add(name="new")),
    (400, add(name="new.nii.gz.html")),
    # geometry and values
    (400, put(content=label(shape=(6, 5, 5)))),
    (400, put(content=volume(np.ones(SHAPE, np.uint8), np.diag([2.0, 1, 1, 1])))),
    (400, put(content=volume(np.ones(SHAPE, np.uint8), nibabel.affines.from_matvec(np.eye(3), [50, 0, 0])))),
    (400, put(content=label(7))),
    (400, put(content=label(0))),
    (400, put(content=volume(np.full(SHAPE, np.nan, np.float32)))),
    (400, put(content=volume(np.full(SHAPE, 0.5, np.float32)))),
    (400, put(content=volume(np.ones((*SHAPE, 2), np.uint8)))),
    (400, put(content=b"\x01" * 7, name="label.bin")),
    # params
    (400, put(params="{")),
    (400, put(params="[1]")),
    (400, put(params='"text"')),
    (400, put(params="null")),
    (400, put(params="[" * 5000)),
    (400, put(params='{"client_id": 3}')),
    (400, put(params=json.dumps({"client_id": GIANT}))),
    (400, put(params='{"label_info": 5}')),
    (400, put(params='{"label_info": [{"name": "liver", "idx": 1}]}')),
    (400, add(params="{")),
    (400, infer(params="{")),
    (400, infer(params="[]")),
    # sizes
    (413, put(content=b"x" * (1 << 20))),
    (413, add(content=b"x" * (2 << 20))),
    # inference
    (400, infer()),
    (400, infer(model="nothing")),
    (404, infer(image=SECRET)),
    (404, infer(image="../../etc/passwd")),
    (400, infer(image=None)),
    (404, infer(image=None, session_id="nothing")),
    (400, infer(output="dicom_seg")),
    (422, infer(output="nothing")),
    (404, infer(params='{"image": "/etc/passwd"}')),
    (400, infer(params='{"label_tag": "final", "save_label": true}')),
    # reading
    (404, get("/datastore/image", image="nothing")),
    (404, get("/datastore/image", image=SECRET)),
    (404, get("/datastore/label", label="image0", tag="final")),
    (404, get("/datastore/label", label="../../etc", tag="..")),
    (422, get("/datastore/label")),
    (422, get("/datastore/", output="nothing")),
    (404, get("/datastore/dataset")),
    (422, get("/datastore/dataset", limit_cases="-1")),
    (404, get("/al/web/..%2fshared.py")),
    (404, get("/al/web/%2e%2e%2fshared.py")),
    (404, get("/proxy/dicom/qido/studies")),
    (404, get("/proxy/dicom/nothing/studies")),
    (400, {"method": "HEAD", "url": "/datastore/image", "params": {"image": "image0", "check_sum": "NONE:1"}}),
    # leases, skips, jobs
    (404, post("/activelearning/nothing")),
    (400, post("/activelearning/random", content=b"{", headers={"Content-Type": "application/json"})),
    (422, post("/activelearning/random", json=[1])),
    (400, post("/activelearning/random", json={"client_id": {"a": 1}})),
    (400, post("/activelearning/random", json={"client_id": GIANT})),
    (409, post("/al/skip", json={"image": "nothing", "reason": "x"})),
    (422, post("/al/skip", json={"image": "image0"})),
    (422, post("/al/skip", json={"image": "image0", "reason": "x" * 2000})),
    (400, post("/al/skip", content=b"\xff\xfe", headers={"Content-Type": "application/json"})),
    (409, post("/al/restore", json={"image": "image0"})),
    (404, post("/reload")),
    (404, {"method": "DELETE", "url": "/datastore/label", "params": {"id": "image0", "tag": "final"}}),
    (404, {"method": "DELETE", "url": "/datastore/image", "params": {"id": "../x"}}),
    (404, {"method": "PUT", "url": "/datastore/image/info", "params": {"image": "nothing"}, "data": {"info": "{}"}}),
    (400, {"method": "PUT", "url": "/datastore/image/info", "params": {"image": "image0"}, "data": {"info": "["}}),
    (
        404,
        {"method": "PUT", "url": "/datastore/label/info", "params": {"label": "x", "tag": "y"}, "data": {"info": "{}"}},
    ),
    (422, {"method": "PUT", "url": "/datastore/label", "params": {"image": "image0"}}),
    (
        422,
        {
            "method": "PUT",
            "url": "/datastore/label?image=image0",
            "content": b"--x\r\n",
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
    ),
]


def test_every_bad_request_has_its_answer_and_changes_nothing(http, app, folder):
    before, status = everything(folder), app.datastore().status()
    wrong = []
    for expected, request in BAD:
        answer = http.request(**request)
        if answer.status_code != expected:
            wrong.append((expected, answer.status_code, str(request)[:120], answer.text[:200]))
        if request["method"] != "HEAD" and not answer.json().get("detail"):
            wrong.append(("no reason", str(request)[:120]))
        if str(folder.parent) in answer.text or "Traceback" in answer.text:
            wrong.append(("says too much", str(request)[:120], answer.text[:300]))
    assert not wrong, "\n".join(map(str, wrong))
    assert len(BAD) > 90
    assert everything(folder) == before
    assert not list(Path(tempfile.gettempdir()).iterdir())
    assert app.datastore().status() == status
    assert app.store.labelled_count() == 0
    assert http.request(**put()).json()["segments"] == {"tumor": 2}


def test_a_body_that_does_not_say_how_long_it_is_is_cut_off_too(http):
    def parts():
        yield b'--x\r\nContent-Disposition: form-data; name="label"; filename="a.nii"\r\n\r\n'
        for _ in range(50):
            yield b"x" * 65536

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = http.put("/datastore/label?image=image0", content=parts(), headers=headers)
    assert answer.status_code == 413
    assert "max_upload_mb" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 507, "disk is full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 507, "disk is full"),
        (OperationalError("INSERT", {}, Exception("database or disk is full")), 507, "disk is full"),
        (ArchiveError("the archive http://x is away"), 503, "is away"),
        (MemoryError(), 503, "too little memory for this now"),
    ],
)
def test_what_the_machine_lacks_is_said_and_nothing_is_half_done(http, app, folder, monkeypatch, error, status, words):
    before = everything(folder)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(app.datastore(), "store_label", fail)
        answer = http.request(**put())
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert everything(folder) == before
    assert http.request(**put()).status_code == 200


def test_an_error_of_ours_is_not_hidden(http, app, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(app.datastore(), "store_label", fail)
    with pytest.raises(OSError, match="Input/output"):
        http.request(**put())


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (["start_server", "--app", "x"], True),
        (["start_server", "--host", "0.0.0.0"], True),
        (["-i", "192.168.1.5"], True),
        (["--host", "server.hospital"], True),
        (["--host", "127.0.0.1"], False),
        (["--host", "::1"], False),
        (["-i", "localhost"], False),
    ],
)
def test_an_open_server_is_warned_of(caplog, arguments, warned):
    warn_if_open(arguments)
    assert ("WITHOUT AUTHENTICATION" in caplog.text) == warned


def test_with_authentication_nobody_is_warned(caplog, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    warn_if_open(["--host", "0.0.0.0"])
    assert not caplog.text


def test_a_replaced_label_leaves_a_trail(http, folder):
    for name, value in (("ann", 1), ("=HYPERLINK(1)", 1)):
        params = json.dumps({"client_id": name, "model_version": "0123"})
        assert http.request(**put(params=params, content=label(value))).status_code == 200
    answer = http.get("/al/history")
    assert answer.headers["content-type"].startswith("text/csv")
    header, first, second = answer.text.splitlines()
    assert header.split(",")[:4] == ["at", "event", "image_id", "client_id"]
    assert "labelled,image0,ann" in first
    assert "0123" in first
    assert "'=HYPERLINK(1)" in second
    previous = second.split('""previous"": ""')[1].split('""')[0]
    assert (folder / previous).read_bytes() == label()
