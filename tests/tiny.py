"""Tiny volumes and hyper-parameters with which a training takes about a second."""

import uuid
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from tasks.datastore.folder import StudiesFolder
from tasks.rounds.reconciliation import ImageState, Label
from tasks.rounds.rounds import Rounds
from tasks.store.store import Store
from tasks.store.tables import Image

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


def take_label(
    rounds: Rounds, image_id: str, client_id: str | None = None, details: dict | None = None, stamp: str | None = None
) -> str:
    """What the server does once the datastore has a new final label; returns its annotator."""
    with rounds.store.reading() as session:
        image = session.get(Image, image_id)
    if image is not None and (image.labelled or image.reopened) and image.label_ref is None:
        rounds.note([ImageState(image_id, label=Label("the one before"))])
    label = Label(uuid.uuid4().hex, client_id or "", details or {}, stamp)
    return rounds.note([ImageState(image_id, label=label)]).annotators[image_id]


def history_of(store: Store) -> list[dict[str, Any]]:
    """All rows of the history."""
    return [dict(zip(store.history_columns, row, strict=True)) for part in store.history() for row in part]
