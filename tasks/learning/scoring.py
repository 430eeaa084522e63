"""The scoring method ``records``: one pass over the pool, one record per image, committed one by one."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.utils.others.generic import name_to_device

from tasks.common.files import ArchiveError, fingerprint, reason
from tasks.datastore.folder import StudiesFolder
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.scores import Scores
from tasks.store.claims import SCORING, Claims
from tasks.store.store import ImageRecord, Store

logger = logging.getLogger(__name__)

RECORDS = "records"


@dataclass(frozen=True)
class Prepared:
    """Models and transforms of a scoring pass.

    Attributes:
        read: image file -> preprocessed image.
        score: image id and preprocessed image -> scores.
    """

    read: Callable[[str], torch.Tensor]
    score: Callable[[str, torch.Tensor], Scores]


class ScoreRecords(ScoringMethod):
    """Scores every image, labelled or not, that has no up-to-date record for the current model.

    A killed job resumes where it stopped. An image that cannot be scored gets an error record and the job goes on.

    Args:
        registry: the current models.
        store: takes the records.
        passes: stochastic passes ``T``.
        seed: decides the dropout masks.
    """

    def __init__(self, registry: ModelRegistry, store: Store, passes: int = 20, seed: int = 0) -> None:
        super().__init__("All acquisition scores and the embedding of every image, in one pass")
        self.registry = registry
        self.store = store
        self.passes = passes
        self.seed = seed

    @abstractmethod
    def prepare(self, device: torch.device) -> Prepared:
        """Load the current models."""

    def files(self, image: str) -> list[Path]:
        """All files of an image."""
        return [Path(image)]

    def scored(self, datastore: Datastore, device: torch.device) -> dict[str, Any]:
        """What follows a scoring pass, once its records order the rounds; joins the job's result."""
        return {}

    def _fingerprint(self, datastore: StudiesFolder, image_id: str) -> str:
        return fingerprint(self.files(str(datastore.image_file(image_id))))

    def __call__(self, request: dict[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        """Score the pool.

        Args:
            request: ``device``, default CUDA where there is any.
            datastore: gives the images.

        Returns:
            ``model_version`` and the numbers of images ``scored``, ``skipped`` (unchanged) and ``failed``.

        Raises:
            ValueError: no model has been trained yet, or another server is scoring these studies.
        """
        with Claims(self.store).claimed(f"{SCORING}/{RECORDS}") as ours:
            if not ours:
                raise ValueError("another server is scoring these studies")
            return self._score(request, datastore)

    def _score(self, request: dict[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        version = self.registry.scoring_version()
        if not version:
            raise ValueError("there is no trained model to score with yet: train one first")
        for name in self.registry.outdated():
            logger.warning("%s is left out: it was trained before the last labels of the model beside it", name)
        device = torch.device(name_to_device(request.get("device") or "cuda"))
        prepared = self.prepare(device)
        known = self.store.fingerprints(version)
        images = sorted(datastore.list_images())
        prints = {image_id: self._fingerprint(datastore, image_id) for image_id in images}
        due = [image_id for image_id in images if known.get(image_id) != prints[image_id]]
        logger.info("scoring %d of %d images with model %s", len(due), len(images), version)
        start, failed = time.monotonic(), 0
        for done, image_id in enumerate(due, start=1):
            try:
                file = datastore.get_image_uri(image_id)  # an archive's image comes now
                result = prepared.score(image_id, prepared.read(file))
            except (torch.OutOfMemoryError, ArchiveError):
                raise  # says something about this machine or the archive, not about the image
            except (ValueError, RuntimeError, OSError) as error:
                failed += 1
                why = reason(error)
                logger.error("%s cannot be scored: %s", image_id, why)
                content: dict[str, Any] = {"scores": {}, "class_entropies": {}, "embedding": None, "error": why}
            else:
                content = vars(result)
            record = ImageRecord(image_id, version, self._fingerprint(datastore, image_id), **content)
            self.store.add_record(record)
            rate = done / (time.monotonic() - start)
            logger.info("scored %d of %d, %.2f images/s, %.0f s left", done, len(due), rate, (len(due) - done) / rate)
        self.store.complete_scoring(version)
        summary: dict[str, Any] = {"scored": len(due) - failed, "skipped": len(images) - len(due), "failed": failed}
        summary |= self.scored(datastore, device)
        logger.info("scoring complete for model %s: %s", version, summary)
        return {"model_version": version, **summary}
