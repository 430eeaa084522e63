"""Every row of the table of routes, asked without a token, with each role, and from a page of another website."""

from __future__ import annotations

import io
import re
import time
import zipfile

import numpy as np
import pytest
import requests

from apps.auth.access import TABLE, Body, Role, Row
from tests.apps.server.test_protection import label
from tests.realm import realm
from tests.server import ROOT, Server
from tests.tasks.image_segmentation.conftest import write_picture
from tests.tiny import write_volume

pytestmark = pytest.mark.slow

MAY = {
    "rita": {Role.ANYBODY, Role.READER},
    "ada": {Role.ANYBODY, Role.READER, Role.ANNOTATOR},
    "root": {Role.ANYBODY, Role.READER, Role.ANNOTATOR, Role.ADMIN},
}
APPS = ("volume_segmentation", "image_segmentation", "image_classification")


@pytest.fixture(scope="module", params=APPS)
def site(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    for number in range(4):
        if request.param == "volume_segmentation":
            write_volume(folder / "studies" / f"image{number}.nii.gz", np.full((5, 4, 3), number, np.float32))
        else:
            write_picture(folder / "studies" / f"image{number}.png", np.full((24, 24), number, np.uint8))
    patch = pytest.MonkeyPatch()
    app = ROOT / "apps" / request.param
    with realm(patch) as service, Server(folder / "studies", folder, app, preset="small", auto_train="false") as server:
        yield service, server
    patch.undo()


def ask(server: Server, row: Row, **headers: str) -> requests.Response:
    """A request of the row's kind that finds nothing to do."""
    path = re.sub(r"{\w+(:path)?}", "nothing", row.path)
    options: dict = {}
    if row.body is Body.JSON:
        options["json"] = {}
    elif row.body is Body.FORM:
        options["data"] = {"params": "{}", "info": "{}", "username": "nobody", "password": "wrong"}
    elif row.body is Body.FILE:
        name = next(name for name in ("label", "files", "file") if name in _fields(row))
        options |= {"files": {name: ("nothing.nii", b"nothing")}, "data": {"params": "{}"}}
    query = {"image": "nothing", "label": "nothing", "id": "nothing", "tag": "final"}
    return requests.request(
        row.method, server.url + path, params=query, headers=headers, timeout=60, allow_redirects=False, **options
    )


def _fields(row: Row) -> set[str]:
    return {"/datastore/label": {"label"}, "/session/": {"files"}}.get(row.path, {"file"})


def test_every_row_asks_for_its_role(site):
    service, server = site
    wrong = []
    for row in TABLE:
        signs_in = row.body is Body.FORM and row.role is Role.ANYBODY  # the password is wrong
        status = ask(server, row).status_code
        if (status == 401) != (row.role is not Role.ANYBODY) and not signs_in and status != 404:
            wrong.append((row, "without a token", status))
        for name, may in MAY.items():
            answer = ask(server, row, Authorization=f"Bearer {service.token(name)}")
            allowed = answer.status_code not in (401, 403)
            closed = row.role is Role.NOBODY
            if closed and not 400 <= answer.status_code < 500:
                wrong.append((row, name, answer.status_code))
            if not closed and not signs_in and allowed != (row.role in may) and answer.status_code != 404:
                wrong.append((row, name, answer.status_code, answer.text[:100]))
            if answer.status_code >= 500:
                wrong.append((row, name, answer.status_code, answer.text[:300]))
    assert not wrong, "\n".join(map(str, wrong))


def test_no_row_that_changes_something_can_be_used_by_another_website(site):
    service, server = site
    wrong = []
    for row in TABLE:
        if row.method in ("GET", "HEAD"):
            continue
        for origin in ("https://evil.example", "null"):
            answer = ask(server, row, Authorization=f"Bearer {service.token('root')}", Origin=origin)
            if answer.status_code != 403 or "Access-Control-Allow-Origin" in answer.headers:
                wrong.append((row, origin, answer.status_code))
    assert not wrong, "\n".join(map(str, wrong))


def test_files_of_a_session_are_never_run(tmp_path, monkeypatch):
    """The way that MONAI Label leaves open: a session's folder, and a job whose request names it."""
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    for number in range(3):
        write_volume(tmp_path / "studies" / f"image{number}.nii.gz", np.full((6, 5, 4), number, np.float32))
    proof = tmp_path / "proof"
    code = f"open({str(proof)!r}, 'w').write('it ran')\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("sitecustomize.py", code)
    with Server(tmp_path / "studies", tmp_path, preset="small", auto_train="false") as server:
        for number in range(2):
            files = {"label": ("label.nii", label())}
            stored = requests.put(f"{server.url}/datastore/label?image=image{number}", files=files, timeout=30)
            assert stored.status_code == 200, stored.text
        zipped = {"files": ("x.zip", packed.getvalue())}
        plain = {"files": ("sitecustomize.py", code.encode())}
        for files in (zipped, plain):
            for unpack in ("true", "false"):
                requests.put(f"{server.url}/session/?uncompress={unpack}", files=files, timeout=30)
        folders = {str(path.parent) for path in (*tmp_path.rglob("sitecustomize.py"), *tmp_path.rglob("x.zip"))}
        for folder in (*folders, str(tmp_path)):
            for job in ("train/segmentation", "scoring/records", "batch/infer/segmentation", "train/", "scoring/"):
                for body in (
                    {"bundle_path": folder},
                    {"PYTHONPATH": folder},
                    {"segmentation": {"bundle_path": folder}},
                ):
                    if job == "train/segmentation" and "segmentation" in body:
                        continue  # OHIF's names of trainers mean something on its own route only
                    answer = server.post(f"/{job}", json=body)
                    assert answer.status_code in (400, 404), (job, body, answer.text)
            answer = server.post("/infer/segmentation?image=image0", data={"params": f'{{"bundle_path": "{folder}"}}'})
            assert answer.status_code in (400, 404)
        job = server.post("/train/segmentation", json={"max_epochs": 1, "iterations_per_epoch": 1, "gpus": "9"})
        assert job.status_code == 200
        assert server.finished("train")["status"] == "DONE"
        time.sleep(0.5)
    assert not proof.exists()
