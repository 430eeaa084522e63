"""Kills, crowds, half-sent requests and everything a fuzzer thinks of."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests

from tasks.rounds.planning_process import LARGE_POOL
from tests.server import ROOT, Server, wait_for
from tests.tiny import write_volume

pytestmark = pytest.mark.e2e

SHAPE = (5, 4, 3)


def studies(folder: Path, images: int) -> Path:
    for number in range(images):
        write_volume(folder / f"image{number:04d}.nii.gz", np.full(SHAPE, number, np.float32))
    return folder


def label() -> bytes:
    values = np.zeros(SHAPE, np.uint8)
    values[1:3] = 1
    return nibabel.Nifti1Image(values, np.eye(4)).to_bytes()


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(images: int, **conf: str) -> Server:
        conf = {"labels": "tumor", "preset": "small", "auto_train": "false", **conf}
        servers.append(Server(studies(tmp_path / "studies", images), tmp_path, **conf).start())
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.mark.timeout(1000)
def test_a_hundred_kills_lose_nothing_that_was_acknowledged_and_nobody_is_stuck(tmp_path):
    command = [sys.executable, "-m", "tests.e2e.crashes", str(tmp_path / "crashes"), "100", "1", "1000"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=950)
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads(result.stdout.strip().splitlines()[-1])
    assert summary["kills"] >= 100
    assert summary["started"] > 75
    assert min(summary["labels"], summary["leases"], summary["scores"]) > 200, summary
    assert summary["undos"] >= 1000, summary
    assert summary["models"] > 100, summary


@pytest.mark.timeout(600)
def test_kills_while_labels_are_sent_to_an_archive_lose_none_and_send_none_twice(tmp_path):
    command = [sys.executable, "-m", "tests.e2e.sending", str(tmp_path / "sending"), "40", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads(result.stdout.strip().splitlines()[-1])
    assert (summary["kills"], summary["started"]) == (40, 32)
    assert summary["segmentations"] > summary["labels"] // 2 > 50, summary


def test_twenty_annotators_at_once_never_hold_the_same_image(serve):
    server = serve(LARGE_POOL, batch_size="20")
    lock = threading.Lock()
    held: dict[str, str] = {}
    labelled: set[str] = set()
    wrong: list[str] = []
    asked = []

    def annotate(name: str) -> None:
        http, content = requests.Session(), label()
        for _ in range(50):
            answer = http.post(f"{server.url}/activelearning/random", json={"client_id": name}, timeout=60)
            image = answer.json().get("id", "")
            with lock:
                asked.append(name)
                if answer.status_code != 200 or image in labelled or held.get(image, name) != name:
                    wrong.append(f"{name}: {answer.status_code} {image} held by {held.get(image)}")
                held[image] = name
            stored = http.put(
                f"{server.url}/datastore/label?image={image}",
                files={"label": ("label.nii", content)},
                data={"params": json.dumps({"client_id": name})},
                timeout=60,
            )
            with lock:
                asked.append(name)
                labelled.add(image)
                if stored.status_code != 200:
                    wrong.append(f"{name}: {stored.status_code} {stored.text}")

    threads = [threading.Thread(target=annotate, args=(f"ann{number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (len(asked), len(labelled)) == (2000, 1000)
    assert server.get("/info/").json()["datastore"]["completed"] == 1000


def test_a_request_that_is_sent_by_halves_harms_nobody(serve):
    server = serve(3)
    head = (
        "PUT /datastore/label?image=image0000 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        'Content-Disposition: form-data; name="label"; filename="label.nii"\r\n\r\n'
    )
    for cut in (20, 100, len(head), len(head) + 1000):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall((head + "x" * 1000).encode()[:cut])
    stuck = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
    for connection in stuck:
        connection.sendall(head.encode())
    answer = requests.put(
        f"{server.url}/datastore/label?image=image0001", files={"label": ("label.nii", label())}, timeout=10
    )
    assert answer.status_code == 200
    for connection in stuck:
        connection.close()
    assert server.get("/info/").json()["datastore"]["completed"] == 1


@pytest.mark.parametrize("damage", ["all", "a page of the index"])
def test_a_damaged_store_does_not_keep_a_server_from_starting_and_what_can_be_read_is_kept(serve, damage):
    server = serve(3)
    for image in ("image0000", "image0001"):
        files = {"label": ("label.nii", label())}
        params = {"params": json.dumps({"client_id": "ann"})}
        answer = requests.put(f"{server.url}/datastore/label?image={image}", files=files, data=params, timeout=10)
        assert answer.status_code == 200
    history = server.get("/al/history").text
    server.kill()
    file = Path(server.studies) / "active_learning" / "store.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if damage == "all":
        file.write_bytes(b"damaged" * 1000)
    else:
        with closing(sqlite3.connect(file)) as connection:
            (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'index_labels'").fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        content = bytearray(file.read_bytes())
        content[(page - 1) * size : page * size] = b"\xff" * size
        file.write_bytes(content)
    server.start()
    assert server.get("/info/").json()["datastore"] == {"total": 3, "completed": 2, "label_tags": {"final": 2}}
    if damage != "all":
        assert server.get("/al/history").text == history
        told = server.get("/datastore/label/info?label=image0001&tag=final").json()
        assert told["client_id"] == "ann"
    assert len(list(file.parent.glob("store.sqlite.damaged-*"))) >= 1


def test_a_full_disk_is_said_and_work_goes_on_when_there_is_space(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can only be made by root with the right to mount")
    try:
        conf = {"labels": "tumor", "preset": "small", "auto_train": "false"}
        with Server(studies(disk / "studies", 3), tmp_path, **conf) as server:
            filler = disk / "filler"
            subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False)
            before = sorted(path.name for path in (disk / "studies" / "labels" / "final").iterdir())
            put = f"{server.url}/datastore/label?image=image0000"
            answer = requests.put(put, files={"label": ("label.nii", label())}, timeout=30)
            assert answer.status_code == 507, answer.text
            assert "disk is full" in answer.json()["detail"]
            assert sorted(path.name for path in (disk / "studies" / "labels" / "final").iterdir()) == before
            filler.unlink()
            assert requests.put(put, files={"label": ("label.nii", label())}, timeout=30).status_code == 200
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_full_disk_under_the_database_alone_loses_no_label_and_the_state_follows(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can only be made by root with the right to mount")
    try:
        conf = {"labels": "tumor", "preset": "small", "auto_train": "false", "store": str(disk / "store.sqlite")}
        with Server(studies(tmp_path / "studies", 12), tmp_path, **conf) as server:
            filler = disk / "filler"
            subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False)
            answers = {}
            for number in range(8):
                files = {"label": ("label.nii", label())}
                put = f"{server.url}/datastore/label?image=image{number:04d}"
                answers[f"image{number:04d}"] = requests.put(put, files=files, timeout=30)
            final = tmp_path / "studies" / "labels" / "final"
            stored = {path.name.partition(".")[0] for path in final.iterdir()}
            for image, answer in answers.items():
                assert answer.status_code in (200, 507), answer.text
                assert (answer.status_code == 200) == (image in stored), (image, answer.text)
            filler.unlink()

            def told() -> list[str]:
                lines = server.get("/al/history").text.splitlines()
                return sorted(line.split(",")[2] for line in lines if ",labelled," in line)

            assert wait_for(lambda: told() == sorted(stored), 30, lambda: f"{told()} {stored}")
            assert server.get("/al/progress").json()["labelled"] == len(stored)
            given = server.post("/activelearning/random", json={"client_id": "ann"}).json()["id"]
            assert given not in stored
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_database_that_another_program_holds_for_long_holds_up_no_request_for_long(serve):
    server = serve(3)
    holder = sqlite3.connect(Path(server.studies) / "active_learning" / "store.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    put = f"{server.url}/datastore/label?image=image0000"
    answers = []

    def send() -> None:
        answers.append(requests.put(put, files={"label": ("label.nii", label())}, timeout=45))

    threads = [threading.Thread(target=send) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [503] * 30
    assert all(answer.headers["Retry-After"] for answer in answers)
    assert server.get("/info/").json()["datastore"]["completed"] == 0
    holder.execute("COMMIT")
    assert requests.put(put, files={"label": ("label.nii", label())}, timeout=45).status_code == 200


def test_a_fuzzer_finds_no_server_error(serve, tmp_path):
    server = serve(6)
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if program is None:
        assert sys.version_info < (3, 11), "schemathesis is not installed"
        pytest.skip("schemathesis needs Python 3.11")
    command = [program, "run", f"{server.url}/openapi.json", "--checks", "not_a_server_error", "--no-color"]
    command += ["--max-examples", "20", "--generation-deterministic", "--phases", "examples,coverage,fuzzing"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout[-6000:]
    assert wait_for(lambda: server.get("/info/").status_code == 200, 30)
    assert server.get("/info/").json()["datastore"]["total"] >= 1
