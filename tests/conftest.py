"""Real volumes where they are at hand, generated phantoms where not."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from monailabel.config import settings

from tasks.common.files import image_id, read_table
from tasks.common.temporary import forget_temporary_folder
from tasks.datastore.folder import StudiesFolder
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.groups import LABELS_TABLE
from tasks.segmentation.models import segmentation_models
from tasks.store.store import Store
from tasks.tools.phantoms import SLICE_CLASSES, write_phantoms, write_slices
from tests.tiny import label_image, write_volume

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data"

# Apps in the tests' own process must not watch their folder: two of them on one folder would race. Nor may jobs.
settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False
os.environ["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
os.environ["MONAI_LABEL_TRACKING_ENABLED"] = "false"


@pytest.fixture(autouse=True)
def temporary_folder():
    """Apps take their temporary folder along when their test ends."""
    yield
    forget_temporary_folder()


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


@dataclass(frozen=True)
class Slices:
    """Image files and true classes by image id, the class names, and a table with patients."""

    images: dict[str, Path]
    truth: dict[str, str]
    classes: tuple[str, ...]
    table: Path


@pytest.fixture(scope="session")
def slices(tmp_path_factory) -> Slices:
    """Slices with patients and classes: real brain MR (160 of them), or slices of phantoms."""
    folder = REAL / "lgg_slices"
    if folder.is_dir():
        names = json.loads((folder / "dataset.json").read_text())["pool"][:160]
        images, table, classes = folder / "images", folder / LABELS_TABLE, ("no_tumour", "tumour")
    else:
        images = tmp_path_factory.mktemp("slices")
        write_slices(images, patients=20, slices=8)
        names, table, classes = sorted(path.name for path in images.glob("*.png")), images / LABELS_TABLE, SLICE_CLASSES
    truth = {image_id(row["file"]): row["label"] for row in read_table(table, ("file", "label"))}
    files = {image_id(name): images / name for name in names}
    return Slices(files, {name: truth[name] for name in files}, classes, table)


@pytest.fixture
def graded_studies(tmp_path, slices) -> Path:
    """A studies folder with links to the slices and the table with their patients."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for path in slices.images.values():
        (folder / path.name).symlink_to(path)
    (folder / LABELS_TABLE).symlink_to(slices.table)
    return folder


@dataclass(frozen=True)
class Pictures:
    """Image files and true masks by image id, and the label's name."""

    images: dict[str, Path]
    masks: dict[str, Path]
    label: str


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Pictures:
    """Eighty images with masks: real nuclei in microscopy, or slices of phantoms."""
    folder = REAL / "nuclei"
    if folder.is_dir():
        names = json.loads((folder / "dataset.json").read_text())["pool"][:80]
        images, masks, label = folder / "images", folder / "labels", "nucleus"
    else:
        images = tmp_path_factory.mktemp("pictures")
        write_slices(images, patients=20, slices=4)
        names, masks, label = sorted(path.name for path in images.glob("*.png")), images / "oracle", "lesion"
    return Pictures(
        {image_id(name): images / name for name in names}, {image_id(name): masks / name for name in names}, label
    )


@pytest.fixture
def picture_studies(tmp_path, pictures) -> Path:
    """A studies folder with links to the pictures."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for path in pictures.images.values():
        (folder / path.name).symlink_to(path)
    return folder


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


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


@pytest.fixture
def registry(tmp_path, store) -> ModelRegistry:
    return segmentation_models(tmp_path / "models", store)


@pytest.fixture
def datastore(tmp_path) -> StudiesFolder:
    """Eight tiny volumes with a bright block that is the label, the first six labelled."""
    folder = tmp_path / "studies"
    rng = np.random.default_rng(0)
    for number in range(8):
        label = np.zeros((12, 12, 8), np.uint8)
        x, y = rng.integers(1, 6, 2)
        label[x : x + 5, y : y + 5, 2:6] = 1
        image = (label + rng.normal(1, 0.1, label.shape)).astype(np.float32)
        write_volume(folder / f"image{number}.nii.gz", image)
        write_volume(tmp_path / "oracle" / f"image{number}.nii.gz", label)
    datastore = StudiesFolder(str(folder), extensions=["*.nii.gz"], auto_reload=False)
    for number in range(6):
        label_image(datastore, f"image{number}")
    return datastore
