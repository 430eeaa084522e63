"""The README says what is there, and its commands run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import requests

from apps.shared import Options
from strategies import catalogue
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
    offered = catalogue.offered("dropout_variance", SCORES + COMMITTEE_SCORES, embeddings=True)
    assert table("strategy") == [[f"`{row.name}`", row.description, row.source] for row in offered]


def test_the_options_table_is_what_the_server_takes():
    rows = {name.strip("`"): default.strip("`") for name, default, _ in table("`--conf` option")}
    assert list(rows) == [item.name for item in fields(Options)]
    defaults = Options(strategy="dropout_variance", labels=("tumor",))
    for name, shown in rows.items():
        value = getattr(defaults, name)
        expected = ",".join(value) if isinstance(value, tuple) else str(value).lower()
        assert shown == expected or float(shown) == value


def test_the_example_row_is_a_strategy():
    example = re.search(r"```python\n(QueryStrategy\(.*?\n\))\n```", TEXT, re.S)
    row = eval(example.group(1), vars(catalogue))  # the README's own text
    pool = catalogue.Pool(("a", "b", "c"), scores=np.array([0.1, 0.9, 0.5]))
    assert sorted(row.select(pool, 3, np.random.default_rng(0))) == [0, 1, 2]
    assert row.score in SCORES
    assert row.name not in catalogue.CATALOGUE


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target


RUN_BY_CI = ("make test", "make bench")
RUN_HERE = (
    "make serve",
    'make serve STUDIES=/data/hippocampus CONF="--conf labels anterior,posterior"',
)
RUN_ELSEWHERE = {
    "monailabel start_server --app apps/volume_segmentation --studies /data/hippocampus"
    " --conf labels anterior,posterior --conf strategy dropout_variance": "test_server.py",
    "monailabel start_server --app apps/volume_segmentation --studies http://127.0.0.1:8042/dicom-web": "e2e",
    'make simulate DATA=/data/hippocampus SIMULATE="--labels anterior,posterior'
    ' --strategies random,dropout_variance,core_set --seeds 3"': "tasks/test_simulation.py",
}


def test_every_command_is_run_by_a_test_or_by_ci():
    assert set(commands()) == {*RUN_BY_CI, *RUN_HERE, *RUN_ELSEWHERE}
    for command in RUN_BY_CI:
        assert f"\n{command}\n" in f"{CI}\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN_HERE)
def test_the_server_starts_by_the_commands_of_the_readme(command, studies, volumes, tmp_path):
    port = free_port()
    line = command.replace("/data/hippocampus", str(studies)).replace("anterior,posterior", ",".join(volumes.names))
    environment = {**os.environ, "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "true"}
    log = tmp_path / "log.txt"
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
            return requests.get(f"http://127.0.0.1:{port}/info/", timeout=30).json()
        except requests.ConnectionError:
            return None

    try:
        answer = wait_for(info, 300, lambda: log.read_text()[-3000:])
        own = "/data" in command
        assert answer["labels"] == (list(volumes.names) if own else ["tumor"])
        assert answer["datastore"]["total"] == (len(volumes.images) if own else 36)
        sample = requests.post(f"http://127.0.0.1:{port}/activelearning/dropout_variance", timeout=60).json()
        assert Path(sample["path"]).is_file()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
