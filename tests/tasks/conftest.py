import datetime as dt

import numpy as np
import pytest

from tasks.rounds.rounds import Rounds
from tasks.store.store import ImageRecord, Store
from tests.tiny import sync_images


class Clock:
    """Time that only tests move."""

    def __init__(self) -> None:
        self.time = dt.datetime(2026, 1, 1)

    def __call__(self) -> dt.datetime:
        return self.time

    def advance(self, minutes: float) -> None:
        self.time += dt.timedelta(minutes=minutes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(store):
    """Twelve images; scores of version v1 descend with the id, image 03 is unreadable."""
    ids = [f"image{i:02d}" for i in range(12)]
    sync_images(store, dict.fromkeys(ids, False))
    return ids


def score(store: Store, ids: list[str], version: str = "v1", unreadable: tuple[str, ...] = ()) -> None:
    for rank, image_id in enumerate(ids):
        error = f"{image_id}.nii.gz cannot be read" if image_id in unreadable else None
        embedding = None if error else np.eye(len(ids), dtype=np.float32)[rank]
        scores = {} if error else {"dropout_variance": 1.0 - rank / 100, "bald": rank / 100}
        store.add_record(ImageRecord(image_id, version, "f", scores, {"tumor": 0.1}, embedding, error))
    store.complete_scoring(version)


@pytest.fixture
def rounds(store, clock) -> Rounds:
    return Rounds(store, batch_size=4, lease_minutes=30, seed=0, clock=clock)
