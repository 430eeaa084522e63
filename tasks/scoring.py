"""The scoring method ``records``: one pass over the pool, one record per image, committed one by one."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.utils.others.generic import name_to_device

from strategies.store import ImageRecord, Store
from tasks.inference import checkpoint_preprocessing, volume_inferer
from tasks.models import BOOTSTRAP, SINGLE, ModelRegistry
from tasks.records import Scorer
from tasks.volumes import fingerprint, reason

logger = logging.getLogger(__name__)


class ScoreRecords(ScoringMethod):
    """Scores every image, labelled or not, that has no up-to-date record for the current model.

    A killed job resumes where it stopped. An image that cannot be scored gets an error record and the job goes on.

    Args:
        registry: the current models.
        store: takes the records.
        channels: channel names, empty for single files.
        passes: stochastic passes ``T``.
        seed: decides the dropout masks.
    """

    def __init__(
        self, registry: ModelRegistry, store: Store, channels: Sequence[str] = (), passes: int = 20, seed: int = 0
    ) -> None:
        super().__init__("All acquisition scores and the embedding of every image, in one pass")
        self.registry = registry
        self.store = store
        self.channels = list(channels)
        self.passes = passes
        self.seed = seed

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score the pool.

        Args:
            request: ``device``, default CUDA where there is any.
            datastore: gives the images.

        Returns:
            ``model_version`` and the numbers of images ``scored``, ``skipped`` (unchanged) and ``failed``.

        Raises:
            ValueError: no model has been trained yet.
        """
        version = self.registry.scoring_version()
        if not version:
            raise ValueError("there is no trained model to score with yet: train one first")
        device = torch.device(name_to_device(request.get("device") or "cuda"))
        scorer, transform, labels = self._prepare(device)
        known = self.store.fingerprints(version)
        images = sorted(datastore.list_images())
        files = {image_id: datastore.get_image_uri(image_id) for image_id in images}
        prints = {image_id: fingerprint(file, self.channels) for image_id, file in files.items()}
        due = [image_id for image_id in images if known.get(image_id) != prints[image_id]]
        logger.info("scoring %d of %d images with model %s", len(due), len(images), version)
        start, failed = time.monotonic(), 0
        for done, image_id in enumerate(due, start=1):
            try:
                image = transform({"image": files[image_id]})["image"].as_tensor()
                result = scorer(image_id, image)
            except torch.OutOfMemoryError:
                raise  # says something about this machine, not about the image
            except (ValueError, RuntimeError, OSError) as error:
                failed += 1
                why = reason(error)
                logger.error("%s cannot be scored: %s", image_id, why)
                record = ImageRecord(image_id, version, prints[image_id], {}, {}, None, error=why)
            else:
                entropies = {name: float(v) for name, v in zip(labels, result.class_entropies, strict=True)}
                record = ImageRecord(image_id, version, prints[image_id], result.scores, entropies, result.embedding)
            self.store.add_record(record)
            rate = done / (time.monotonic() - start)
            logger.info("scored %d of %d, %.2f images/s, %.0f s left", done, len(due), rate, (len(due) - done) / rate)
        self.store.complete_scoring(version)
        summary = {"scored": len(due) - failed, "skipped": len(images) - len(due), "failed": failed}
        logger.info("scoring complete for model %s: %s", version, summary)
        return {"model_version": version, **summary}

    def _prepare(self, device: torch.device) -> tuple[Scorer, Any, Sequence[str]]:
        single = self.registry.load(SINGLE)
        if single is None:
            raise ValueError("the checkpoint of the current model is missing: train again")
        committee = self.registry.load(BOOTSTRAP)
        members = committee.networks(device) if committee and committee.architecture == single.architecture else []
        scorer = Scorer(single.networks(device)[0], members, volume_inferer(single), self.passes, self.seed, device)
        return scorer, checkpoint_preprocessing(single, self.channels), single.labels
