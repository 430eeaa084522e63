"""The README says what is there, and its commands run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import requests

from apps.server.options import ImageOptions, Options, VolumeOptions
from strategies import registry
from tasks.segmentation.records import COMMITTEE_SCORES, SCORES
from tests.server import ROOT, free_port, wait_for

TEXT = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


def table(heading: str) -> list[list[str]]:
    """Rows of the first table whose header begins with the heading."""
    lines = TEXT[TEXT.index(f"| {heading} |") :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def commands() -> list[str]:
    return [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.strip().splitlines()]


def test_the_strategies_table_is_the_catalogue():
    offered = registry.offered("dropout_variance", SCORES + COMMITTEE_SCORES, embeddings=True, pseudo_labels=True)
    assert table("strategy") == [[f"`{row.name}`", row.description, row.source] for row in offered]


def test_the_options_table_is_what_the_server_takes():
    rows = {name.strip("`"): default.strip("`") for name, default, _ in table("`--conf` option")}
    every_app = [item.name for item in fields(Options)]
    own = [item.name for app in (VolumeOptions, ImageOptions) for item in fields(app)]
    assert list(rows) == [*every_app, *(name for name in own if name not in every_app)]
    for name, shown in rows.items():
        value = getattr(ImageOptions() if name == "weights" else VolumeOptions(), name)
        expected = ",".join(value) if isinstance(value, tuple) else str(value).lower()
        assert shown.lower() == expected.lower() or float(shown) == value


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target


RUN_BY_CI = ("make test", "make bench")
RUN_HERE = (
    "make serve",
    'make serve STUDIES=/data/hippocampus CONF="--conf labels anterior,posterior"',
)
GRADING_HERE = (
    "make serve APP=apps/image_classification",
    "make serve APP=apps/image_classification STUDIES=/data/slices"
    ' CONF="--conf labels LGG,HGG --conf group_by patient"',
)
SEGMENTING_HERE = "make serve APP=apps/image_segmentation"
RUN_ELSEWHERE = {
    "monailabel start_server --app apps/image_segmentation --studies /data/skin --conf labels lesion": (
        "test_server_images.py"
    ),
    "monailabel start_server --app apps/volume_segmentation --studies /data/hippocampus"
    " --conf labels anterior,posterior --conf strategy dropout_variance": "test_server.py",
    "monailabel start_server --app apps/volume_segmentation --studies http://127.0.0.1:8042/dicom-web"
    ' --host 127.0.0.1 --conf labels tumor --conf series "MR:t1.*post"': "e2e",
    'make simulate DATA=/data/hippocampus SIMULATE="--labels anterior,posterior'
    ' --strategies random,dropout_variance,core_set --seeds 3"': "tasks/test_simulation.py",
    'make simulate DATA=/data/slices SIMULATE="--app image_classification --labels LGG,HGG --group-by patient'
    ' --strategies random,entropy_kl --seeds 5 --initial 24"': "tasks/test_simulation.py",
    "python -m tasks.classification.labels /data/slices --labels LGG,HGG": "test_server_classification.py",
    "python -m tasks.duplicates /data/slices": "tasks/test_duplicates.py",
    "python -m tasks.brats slices /data/BraTS /data/slices": "tasks/test_brats.py",
    "python -m tasks.brats volumes /data/BraTS /data/volumes": "tasks/test_brats.py",
}


def test_every_command_is_run_by_a_test_or_by_ci():
    assert set(commands()) == {*RUN_BY_CI, *RUN_HERE, *GRADING_HERE, SEGMENTING_HERE, *RUN_ELSEWHERE}
    for command in RUN_BY_CI:
        assert f"\n{command}\n" in f"{CI}\n"


@contextmanager
def running(line: str, log: Path) -> Iterator[tuple[str, dict]]:
    """The server started by a command of the README: its address and its info."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "true"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            f"{line} PORT={port}",
            shell=True,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    def info() -> dict | None:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return requests.get(f"{url}/info/", timeout=30).json()
        except requests.ConnectionError:
            return None

    try:
        yield url, wait_for(info, 300, lambda: log.read_text()[-3000:])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def first_fast(commands: tuple[str, ...]) -> list:
    """The embedded default among the tests that everybody runs, the others among the long ones."""
    return [commands[0], *(pytest.param(command, marks=pytest.mark.e2e) for command in commands[1:])]


@pytest.mark.slow
@pytest.mark.parametrize("command", first_fast(RUN_HERE))
def test_the_server_starts_by_the_commands_of_the_readme(command, studies, volumes, tmp_path):
    line = command.replace("/data/hippocampus", str(studies)).replace("anterior,posterior", ",".join(volumes.names))
    with running(line, tmp_path / "log.txt") as (url, answer):
        own = "/data" in command
        assert answer["labels"] == (list(volumes.names) if own else ["tumor"])
        assert answer["datastore"]["total"] == (len(volumes.images) if own else 36)
        sample = requests.post(f"{url}/activelearning/dropout_variance", timeout=60).json()
        assert Path(sample["path"]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", first_fast(GRADING_HERE))
def test_the_grading_server_starts_by_the_commands_of_the_readme(command, graded_studies, slices, tmp_path):
    line = command.replace("/data/slices", str(graded_studies)).replace("LGG,HGG", ",".join(slices.classes))
    with running(line, tmp_path / "log.txt") as (url, answer):
        own = "/data" in command
        assert answer["labels"] == (list(slices.classes) if own else ["no_tumor", "tumor"])
        assert answer["datastore"]["total"] == (len(slices.images) if own else 120)
        assert requests.get(f"{url}/al/grade", timeout=60).status_code == 200
        sample = requests.post(f"{url}/activelearning/entropy_kl", timeout=60).json()
        assert requests.get(f"{url}/al/pixels", params={"image": sample["id"]}, timeout=60).status_code == 200


@pytest.mark.slow
@pytest.mark.e2e
def test_the_server_for_images_starts_by_the_command_of_the_readme(tmp_path):
    with running(SEGMENTING_HERE, tmp_path / "log.txt") as (url, answer):
        assert (answer["labels"], answer["datastore"]["total"]) == (["lesion"], 120)
        sample = requests.post(f"{url}/activelearning/ceal", timeout=60).json()
        assert (sample["strategy"], sample["reason"]) == ("ceal", "cold_start")
        mask = ROOT / "sample_studies" / "image_segmentation" / "oracle" / f"{sample['id']}.png"
        with mask.open("rb") as file:
            answer = requests.put(
                f"{url}/datastore/label", params={"image": sample["id"]}, files={"label": file}, timeout=60
            )
        assert answer.status_code == 200, answer.text
        requests.delete(f"{url}/datastore/label", params={"id": sample["id"], "tag": "final"}, timeout=60)
