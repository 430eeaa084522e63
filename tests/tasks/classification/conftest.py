"""Tiny images with or without a bright disc."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.classification.datastore import GradedFolder
from tasks.classification.models import classification_models
from tasks.learning.checkpoints import ModelRegistry

CLASSES = ("clear", "disc")
QUICK = {
    "network": "small",
    "imagenet": False,
    "image_size": 32,
    "first_features": 2,
    "max_epochs": 2,
    "iterations_per_epoch": 2,
    "train_batch_size": 4,
    "val_interval": 1,
}
"""Hyper-parameters with which a training takes about a second."""


def write_discs(folder: Path, count: int = 16) -> dict[str, str]:
    """Images ``p0_0.png``, ``p0_1.png`` ... two per patient, and ``labels.csv``; returns image id -> class."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24]
    classes = {}
    for number in range(count):
        image = rng.normal(60, 10, (24, 24))
        disc = number % 3 == 0
        if disc:
            centre = rng.integers(6, 18, 2)
            image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 16] += 120
        name = f"p{number // 2}_{number % 2}"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
        classes[name] = CLASSES[disc]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label", "patient"))
        writer.writerows((f"{name}.png", label, name[:-2]) for name, label in classes.items())
    return classes


@pytest.fixture
def truth(tmp_path) -> dict[str, str]:
    return write_discs(tmp_path / "studies")


@pytest.fixture
def datastore(tmp_path, truth) -> GradedFolder:
    """Sixteen images, the first twelve graded."""
    folder = GradedFolder(str(tmp_path / "studies"), classes=CLASSES)
    for name in list(truth)[:12]:
        folder.save_class(name, truth[name], "final", {"client_id": "ann"})
    return folder


@pytest.fixture
def registry(tmp_path, store) -> ModelRegistry:
    return classification_models(tmp_path / "models", store)
