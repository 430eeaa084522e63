"""docs/extending.md: what it shows is built, installed beside the project, and seen in a running server."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests

from strategies.checks import check_strategy
from tests.server import ROOT, Server
from tests.test_released_versions import unpack
from tests.tiny import write_volume

TEXT = (ROOT / "docs" / "extending.md").read_text()
RELEASED = ROOT / "tests" / "released" / "0.5.0-volume_segmentation.tar.xz"


def blocks(heading: str, language: str = "python") -> list[str]:
    """Code under a heading of the second order."""
    part = re.split(r"^## ", TEXT, flags=re.M)
    (section,) = [text for text in part if text.startswith(f"{heading}\n")]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)


def test_the_strategy_of_the_page_can_work():
    names: dict[str, object] = {}
    for block in blocks("A strategy"):
        exec(compile(block, "docs/extending.md", "exec"), names)
    check_strategy(names["power_least_confidence"])


def copy_of_the_project(folder: Path) -> Path:
    """What a build may write into."""
    ignored = shutil.ignore_patterns(".*", "sample_*", "runs", "tests", "shared", "logs")
    return Path(shutil.copytree(ROOT, folder, ignore=ignored))


def empty_environment(folder: Path) -> Path:
    """A Python environment without pip, in which torch and the others are found where they are."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return folder


def install(environment: Path, *arguments: Path | str) -> None:
    """Have pip build and install, without a network."""
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    options = ["--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, *options, *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A Python environment with the project, and an example package beside it, both built and installed by pip."""
    folder = tmp_path_factory.mktemp("installed")
    source = copy_of_the_project(folder / "source")
    example = folder / "my-package"
    package = example / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""An example."""\n')
    (package / "strategies.py").write_text("".join(blocks("A strategy")[:1]))
    (package / "networks.py").write_text("".join(blocks("A network")))
    entry_points = "\n".join(blocks("A strategy", "toml") + blocks("A network", "toml"))
    (example / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n\n'
        f'[project]\nname = "my-package"\nversion = "1"\n\n{entry_points}'
    )
    environment = empty_environment(folder / "environment")
    install(environment, source, example)
    shutil.copy(Path(sys.executable).parent / "monailabel", environment / "bin" / "monailabel")  # calls `python`
    return environment


def own_app(environment: Path, folder: Path) -> Path:
    """A folder with the page's app."""
    command = [environment / "bin" / "python", "-m", "apps", "volume_segmentation", str(folder)]
    subprocess.run(command, check=True, cwd=folder.parent, capture_output=True)
    (folder / "main.py").write_text("".join(blocks("An app")))
    return folder


class Installed(Server):
    """A server of another environment, started from a folder that is not the project's."""

    def __init__(self, environment: Path, *arguments, **conf: str) -> None:
        super().__init__(*arguments, **conf)
        self.place = environment

    def environment(self) -> dict[str, str]:
        found = super().environment()
        found.pop("PYTHONPATH", None)
        return {**found, "PATH": f"{self.place / 'bin'}{os.pathsep}{found['PATH']}"}


class Beside(Server):
    """A server whose app lies outside the project, which is found where it is."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "monailabel.main", *super().command()[1:]]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_an_installed_project_serves_the_app_and_the_strategy_of_another_package_with_real_scores(installed, tmp_path):
    released = unpack(RELEASED, tmp_path / "released")
    app = own_app(installed, tmp_path / "my_server")
    conf = {name: value for name, value in released.expected["conf"].items() if name != "lease_minutes"}
    with Installed(installed, released.kept, tmp_path, app, **conf) as server:
        info = server.get("/info/").json()
        assert info["description"] == "The scans of ward 7"
        assert "power_least_confidence" in info["strategies"]
        sample = server.post("/activelearning/power_least_confidence", json={"client_id": "zoe"}).json()
        assert (sample["strategy"], sample["reason"]) == ("power_least_confidence", "scored")
        assert 0 <= sample["score"] <= 1
        log = server.text()
    place = subprocess.run(
        [installed / "bin" / "python", "-c", "import apps; print(apps.__path__[0])"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert Path(place.stdout.strip()).is_relative_to(installed), log


class WithPackage(Beside):
    """A server that finds an installed package in the folder of its log."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}"}


@pytest.mark.slow
def test_a_strategy_that_cannot_work_stops_the_start_in_one_line(tmp_path):
    text = blocks("A strategy")[0].replace("least_confidence", "margin")
    (tmp_path / "my_strategies.py").write_text(text)
    described = tmp_path / "my_package-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[active_learning.strategies]\nmine = my_strategies:power_margin\n")
    write_volume(tmp_path / "studies" / "image0.nii", np.zeros((4, 4, 4), np.float32))
    server = WithPackage(tmp_path / "studies", tmp_path, labels="tumor", preset="small")
    with pytest.raises(AssertionError), server:
        pass
    (line,) = [line for line in server.text().splitlines() if line.startswith("error: ")]
    assert "strategy entry point mine = my_strategies:power_margin of my-package: strategy power_margin" in line
    assert "margin is -0.5 to 0, but its selection takes 0 to 1" in line
    assert "Traceback" not in server.text()


@pytest.mark.e2e
def test_the_network_of_another_package_is_trained_scored_and_served(installed, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "tasks.phantoms", str(tmp_path / "studies"), "--app", "volume_segmentation"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    oracle = tmp_path / "studies" / "oracle"
    app = own_app(installed, tmp_path / "my_server")
    options = {"labels": "tumor", "preset": "small", "auto_train": "false", "network": "segresnet"}
    with Installed(installed, tmp_path / "studies", tmp_path, app, **options) as server:
        for _ in range(5):
            sample = server.post("/activelearning/random", json={"client_id": "zoe"}).json()
            server.client("zoe").save_label(sample["id"], str(oracle / f"{sample['id']}.nii.gz"))
        quick = {"max_epochs": 2, "iterations_per_epoch": 3, "val_interval": 2}
        assert server.run("train", "segmentation", quick)["status"] == "DONE"
        assert server.run("scoring", "records")["status"] == "DONE"
        sample = server.post("/activelearning/dropout_variance", json={"client_id": "zoe"}).json()
        assert sample["reason"] == "scored"
        assert sample["score"] > 0
        answer = requests.post(f"{server.url}/infer/segmentation?image={sample['id']}&output=image", timeout=120)
        assert answer.status_code == 200
    with Server(tmp_path / "studies", tmp_path, labels="tumor", preset="small", auto_train="false") as server:
        problems = json.dumps(server.get("/al/problems").json())
        assert "there is no network segresnet" in problems
        answer = requests.post(f"{server.url}/infer/segmentation?image={sample['id']}&output=image", timeout=120)
        assert answer.status_code == 503


@pytest.mark.e2e
def test_with_six_thousand_images_the_strategy_orders_them_in_a_process_of_its_own(installed, tmp_path):
    first = write_volume(tmp_path / "studies" / "image0000.nii", np.random.default_rng(0).random((6, 6, 6), np.float32))
    for number in range(1, 6000):
        os.link(first, first.with_name(f"image{number:04d}.nii"))
    app = own_app(installed, tmp_path / "my_server")
    options = {"labels": "tumor", "preset": "small", "auto_train": "false", "strategy": "power_least_confidence"}
    with Installed(installed, tmp_path / "studies", tmp_path, app, **options) as server:
        assert server.get("/info/").json()["datastore"]["total"] == 6000
        sample = server.post("/activelearning/power_least_confidence", json={"client_id": "zoe"}).json()
        assert sample["reason"] == "cold_start"
        children = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "planning_process import serve" in children
        assert "cannot be ordered" not in server.text()


def test_a_clone_that_is_installed_is_found_from_everywhere(tmp_path):
    source = copy_of_the_project(tmp_path / "source")
    environment = empty_environment(tmp_path / "environment")
    install(environment, "--editable", source)
    script = "import apps, strategies, tasks; print(apps.__path__[0], strategies.__path__[0], tasks.__path__[0])"
    python = environment / "bin" / "python"
    found = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert found.split() == [str(source / name) for name in ("apps", "strategies", "tasks")]


@pytest.mark.slow
def test_an_app_in_the_installed_package_itself_is_not_started(installed, tmp_path):
    write_volume(tmp_path / "studies" / "image0.nii", np.zeros((4, 4, 4), np.float32))
    (app,) = installed.glob("lib/python*/site-packages/apps/volume_segmentation")
    server = Installed(installed, tmp_path / "studies", tmp_path, app, labels="tumor")
    with pytest.raises(AssertionError), server:
        pass
    assert "python -m apps volume_segmentation FOLDER" in server.text()
    assert "Traceback" not in server.text()


MAINS = {
    "two": (
        "class A(VolumeApp, MONAILabelApp):\n    pass\n\n\nclass B(VolumeApp, MONAILabelApp):\n    pass\n",
        "several classes to start, A, B",
    ),
    "none": ("class Mine(VolumeApp):\n    pass\n", "write `class Mine(VolumeApp, MONAILabelApp)`"),
    "derived": (
        "from apps.volume_segmentation.main import VolumeSegmentation\n\n\n"
        "class WithOwnTrainer(VolumeSegmentation):\n    pass\n",
        "import VolumeApp from apps.volume_segmentation.app, and write `class WithOwnTrainer(VolumeApp, MONAILa",
    ),
    "imported": ("from apps.volume_segmentation.main import VolumeSegmentation\n", "imports VolumeSegmentation, which"),
    "beside": (
        "from apps.volume_segmentation.main import VolumeSegmentation\n\n\n"
        "class Zzz(VolumeSegmentation, MONAILabelApp):\n    pass\n",
        "write `class Zzz(VolumeApp, MONAILabelApp)`",
    ),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case == "derived" else pytest.mark.e2e) for case in MAINS]
)
def test_a_main_that_would_start_another_class_is_refused_in_one_line(tmp_path, case):
    text, words = MAINS[case]
    start = (
        "from monailabel.interfaces.app import MONAILabelApp\n\nfrom apps.volume_segmentation.app import VolumeApp\n"
    )
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text(f"{start}\n\n{text}")
    write_volume(tmp_path / "studies" / "image0.nii", np.zeros((4, 4, 4), np.float32))
    server = Beside(tmp_path / "studies", tmp_path, tmp_path / "app", labels="tumor", preset="small")
    with pytest.raises(AssertionError), server:
        pass
    (line,) = [line for line in server.text().splitlines() if line.startswith("error: ")]
    assert words in line
    assert "Traceback" not in server.text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Aaa", "Zzz"])
def test_an_app_is_taken_whatever_its_name(tmp_path, name):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text("".join(blocks("An app")).replace("Ward7", name))
    write_volume(tmp_path / "studies" / "image0.nii", np.zeros((4, 4, 4), np.float32))
    with Beside(tmp_path / "studies", tmp_path, tmp_path / "app", labels="tumor", preset="small") as server:
        assert server.get("/info/").json()["description"] == "The scans of ward 7"


def test_the_command_that_makes_a_folder_says_what_is_wrong(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "400", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "apps", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert "volume_segmentation: " in run().stdout
    assert "must be one of image_classification, image_segmentation, volume_segmentation" in run("x", "y").stderr
    assert "name the new folder" in run("volume_segmentation").stderr
    made = run("image_classification", "mine")
    assert made.stdout == "monailabel start_server --app mine --studies STUDIES --host 127.0.0.1\n"
    before = (tmp_path / "mine" / "main.py").read_text()
    assert "class ImageClassification(ClassificationApp, MONAILabelApp)" in before
    assert "not empty" in run("image_classification", "mine").stderr
    assert (tmp_path / "mine" / "main.py").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
