"""Tiny pictures with a bright square that is the label."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.image_segmentation.datastore import MaskFolder
from tasks.image_segmentation.networks import ImageArchitecture
from tasks.learning.checkpoints import ModelRegistry
from tasks.segmentation.models import segmentation_models
from tasks.store.store import Store

QUICK = {
    "levels": 2,
    "first_features": 4,
    "image_size": 32,
    "train_batch_size": 4,
    "iterations_per_epoch": 2,
    "max_epochs": 2,
    "epochs_per_round": 1,
    "val_interval": 1,
}
"""Hyper-parameters with which a training takes about a second."""


def write_picture(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def registry(tmp_path, store: Store) -> ModelRegistry:
    return segmentation_models(tmp_path / "models", store, ImageArchitecture)


@pytest.fixture
def datastore(tmp_path) -> MaskFolder:
    """Twelve pictures of two per patient, the first eight labelled; true masks in ``oracle``."""
    rng = np.random.default_rng(0)
    for number in range(12):
        mask = np.zeros((24, 36), np.uint8)
        x, y = rng.integers(2, 12, 2)
        mask[y : y + 9, x : x + 12] = 1
        pixels = (100 * mask + rng.integers(0, 40, mask.shape)).astype(np.uint8)
        write_picture(tmp_path / "studies" / f"p{number // 2}_{number:02d}.png", pixels)
        write_picture(tmp_path / "oracle" / f"p{number // 2}_{number:02d}.png", mask)
    datastore = MaskFolder(str(tmp_path / "studies"), names=("lesion",), auto_reload=False)
    for name in sorted(datastore.list_images())[:8]:
        label(datastore, name)
    return datastore


def label(datastore: MaskFolder, name: str) -> None:
    oracle = Path(datastore.get_image_uri(name)).parents[1] / "oracle" / f"{name}.png"
    datastore.save_label(name, str(oracle), "final", {"client_id": "ann"})
