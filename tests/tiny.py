"""Tiny volumes and hyper-parameters with which a training takes about a second."""

from pathlib import Path

import nibabel
import numpy as np

from tasks.datastore.folder import StudiesFolder

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


def label_image(datastore: StudiesFolder, image_id: str, file: Path | None = None) -> str:
    oracle = Path(datastore.get_image_uri(image_id)).parents[1] / "oracle" / f"{image_id}.nii.gz"
    return datastore.save_label(image_id, str(file or oracle), "final", {"client_id": "ann"})
