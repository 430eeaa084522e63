"""Real volumes where they are at hand, generated phantoms where not."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.phantoms import write_phantoms

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data"

# Jobs and servers of the tests must not reload or track anything by themselves.
os.environ["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
os.environ["MONAI_LABEL_TRACKING_ENABLED"] = "false"


@dataclass(frozen=True)
class Volumes:
    """Image files by name, the folder of their labels, and the label names."""

    images: dict[str, Path]
    labels: Path
    names: tuple[str, ...]
    test: tuple[str, ...] = ()


@pytest.fixture(scope="session")
def volumes(tmp_path_factory) -> Volumes:
    """Twelve volumes: real hippocampus MRI, or phantoms."""
    folder = REAL / "hippocampus"
    if folder.is_dir():
        content = json.loads((folder / "dataset.json").read_text())
        images = {name: folder / "images" / name for name in content["pool"][:12]}
        return Volumes(images, folder / "labels", ("anterior", "posterior"), tuple(content["test"]))
    return phantoms(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Volumes:
    """Eight phantoms in four clusters."""
    return phantoms(tmp_path_factory.mktemp("generated"), clusters=4, copies=2)


def phantoms(folder: Path, clusters: int = 6, copies: int = 2) -> Volumes:
    ids = write_phantoms(folder, clusters, copies)
    return Volumes({f"{i}.nii.gz": folder / f"{i}.nii.gz" for i in ids}, folder / "oracle", ("tumor",))


@pytest.fixture
def studies(tmp_path, volumes) -> Path:
    """A studies folder with links to the volumes."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name, path in volumes.images.items():
        (folder / name).symlink_to(path)
    return folder
