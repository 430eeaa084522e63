from pathlib import Path

import nibabel
import numpy as np
import pytest

from strategies.store import Store
from tasks.datastore import StudiesFolder
from tasks.models import ModelRegistry

QUICK = {
    "levels": 2,
    "first_features": 4,
    "patch_size": "8x8x8",
    "roi_size": "16x16x16",
    "iterations_per_epoch": 2,
    "max_epochs": 2,
    "val_interval": 1,
}
"""Hyper-parameters with which a training takes about a second."""


def write_volume(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return path


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


@pytest.fixture
def registry(tmp_path, store) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models", store)


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
    datastore = StudiesFolder(str(folder), extensions=["*.nii.gz"])
    for number in range(6):
        label_image(datastore, f"image{number}")
    return datastore


def label_image(datastore: StudiesFolder, image_id: str, file: Path | None = None) -> str:
    oracle = Path(datastore.get_image_uri(image_id)).parents[1] / "oracle" / f"{image_id}.nii.gz"
    return datastore.save_label(image_id, str(file or oracle), "final", {"client_id": "ann"})
