"""Tiny volumes and hyper-parameters with which a training takes about a second."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import sqlalchemy as sa
from sqlalchemy import orm

from tasks.datastore.folder import StudiesFolder
from tasks.rounds.reconciliation import ImageState, Label
from tasks.rounds.rounds import Rounds
from tasks.store import revisions
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


def sync_images(store: Store, images: Mapping[str, bool]) -> None:
    """A pool whose labels nobody gave: rows of images, without a line of history.

    Args:
        images: every image id -> whether it has a final label.
    """
    with store.transaction() as session:
        has_label = sa.or_(Image.labelled, Image.reopened).label("has_label")
        known = session.execute(sa.select(Image.image_id, has_label).where(Image.present)).all()
        before: dict[str, bool] = {row.image_id: bool(row.has_label) for row in known}
        changes: dict[str, bool | None] = {
            image_id: labelled for image_id, labelled in images.items() if before.get(image_id) != labelled
        }
        changes |= dict.fromkeys(before.keys() - images.keys())
        _change_images(session, changes)


def change_images(store: Store, changes: Mapping[str, bool | None]) -> None:
    """The same for some images: whether they have a final label, None once they are gone."""
    with store.transaction() as session:
        _change_images(session, changes)


def _change_images(session: orm.Session, changes: Mapping[str, bool | None]) -> None:
    names = sorted(changes)
    known: dict[str, Any] = {}
    for start in range(0, len(names), 10_000):
        part = names[start : start + 10_000]
        query = sa.select(Image.image_id, Image.labelled, Image.reopened, Image.present)
        known.update((row.image_id, row) for row in session.execute(query.where(Image.image_id.in_(part))))
    rows: list[dict[str, Any]] = []
    given: list[str] = []
    removed: list[str] = []
    moved: list[str] = []
    for name, has_label in changes.items():
        before = known.get(name)
        reopened = before is not None and before.reopened
        had_label = before is not None and (before.labelled or reopened)
        if has_label is None:
            rows.append({"image_id": name, "present": False})
        else:
            # The label that a reopened image still has is not the one that is wanted of it.
            rows.append({"image_id": name, "labelled": has_label and not reopened, "present": True})
        if before is not None and had_label and (has_label is None) == before.present:
            moved.append(name)  # away with its label, or back
        elif has_label and not had_label:
            given.append(name)
        elif had_label and has_label is False:
            removed.append(name)
    new = [row for row in rows if row["image_id"] not in known and "labelled" in row]
    if new:
        session.execute(sa.insert(Image), new)
    if other := [row for row in rows if row["image_id"] in known]:
        session.execute(sa.update(Image), other)
    if given:
        revisions.note_labels(session, dict.fromkeys(given))
    if removed:
        revisions.note_labels(session, dict.fromkeys(removed), given=False)
    if moved:
        revisions.touch_labels(session, moved)
