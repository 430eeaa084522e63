"""Masks that the model gives to images it is sure of (Jethaliya 2022, section 4.2, after Wang et al. 2017).

The scoring job makes them and keeps them as files beside the models; the server shows them in the datastore under the
tag ``pseudo``, where trainings find them, and takes them away again. A job must not write the datastore's index: its
copy would undo labels saved in the meantime.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.datastore import Datastore
from PIL import Image

from strategies.catalogue import QueryStrategy
from tasks.common.files import ImageError, reason
from tasks.datastore.folder import StudiesFolder
from tasks.datastore.rules import FINAL
from tasks.geometry.slices import read_mask
from tasks.image_segmentation.inference import checkpoint_preprocessing, image_inferer, label_map
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.inference import Committee
from tasks.learning.metrics import dice_per_label
from tasks.rounds.pseudo_labels import Pseudo, PseudoLabels
from tasks.rounds.rounds import Rounds
from tasks.segmentation.models import SINGLE

logger = logging.getLogger(__name__)

PSEUDO = "pseudo"
"""Tag of pseudo-labels in the datastore."""


def pseudo_labelled(datastore: Datastore) -> Iterator[dict[str, Any]]:
    """Items with a pseudo-label and no final one, by image id: ``id, image, label, score, model_version``."""
    for image_id in sorted(datastore.list_images()):
        tags = set(datastore.get_labels_by_image_id(image_id))
        if PSEUDO in tags and FINAL not in tags:
            info = datastore.get_label_info(image_id, PSEUDO)
            yield {
                "id": image_id,
                "image": datastore.get_image_uri(image_id),
                "label": datastore.get_label_uri(image_id, PSEUDO),
                "score": float(info.get("score", 0.0)),
                "model_version": str(info.get("model_version", "")),
            }


class PseudoLabeller:
    """Labels what a round leaves to the model; runs in the scoring job.

    A killed job goes on where it stopped; an image that cannot be labelled is noted and left out.

    Args:
        rounds: opens the round whose split says which images.
        strategy: a row of the catalogue with ``pseudo_labels``.
        registry: the current model.
        folder: takes the masks.
    """

    def __init__(self, rounds: Rounds, strategy: QueryStrategy, registry: ModelRegistry, folder: Path) -> None:
        self.rounds = rounds
        self.strategy = strategy
        self.registry = registry
        self.folder = folder
        self.labels = PseudoLabels(rounds.store, strategy.name)

    @torch.inference_mode()
    def __call__(self, datastore: Datastore, device: torch.device) -> dict[str, int]:
        """Make the pseudo-labels that are due for the serving model version.

        Args:
            datastore: gives the images.
            device: where the network runs.

        Returns:
            How many were ``made`` and how many ``failed``.
        """
        self.rounds.open_scored(self.strategy)
        due, checkpoint = self.labels.due(), self.registry.load(SINGLE)
        if checkpoint is None:
            raise ValueError("the checkpoint of the current model is missing: train again")
        # A newer model scores the pool first: what its own split leaves to it may be other images.
        if not due or self.registry.scoring_version() != due[0].model_version:
            return {"made": 0, "failed": 0}
        network = Committee(checkpoint.networks(device)).eval()
        transform, inferer = checkpoint_preprocessing(checkpoint), image_inferer(checkpoint)
        self.folder.mkdir(parents=True, exist_ok=True)
        failed = 0
        for pseudo in due:
            try:
                image = datastore.get_image_uri(pseudo.image_id)
                pixels = transform({"image": image})["image"].as_tensor()
                write_mask(
                    mask_file(self.folder, pseudo.image_id),
                    label_map(inferer(pixels[None].to(device), network)[0], image),
                )
            except (ValueError, RuntimeError, OSError) as error:
                failed += 1
                logger.error("%s cannot be labelled by the model: %s", pseudo.image_id, reason(error))
                self.labels.failed(pseudo, reason(error))
            else:
                self.labels.made(pseudo)
        logger.info("the model labelled %d images, %d failed", len(due) - failed, failed)
        return {"made": len(due) - failed, "failed": failed}


class PseudoLabelShelf:
    """Keeps the datastore's tag ``pseudo`` in line with the store; runs in the server.

    Args:
        labels: says which pseudo-labels are current.
        folder: with the masks.
        names: foreground label names, value 1 first.
        wanted: whether the app's strategy uses pseudo-labels; else all are taken away.
    """

    def __init__(self, labels: PseudoLabels, folder: Path, names: Sequence[str], wanted: bool) -> None:
        self.labels = labels
        self.folder = folder
        self.names = tuple(names)
        self.wanted = wanted
        self._busy = threading.Lock()

    def settle(self, datastore: StudiesFolder) -> None:
        """Compare pseudo-labels with the labels people have given since, and show the current ones only."""
        if not self._busy.acquire(blocking=False):
            return  # another thread is at it, or the datastore tells of a change that is made here
        try:
            self._compare(datastore)
            kept = self.labels.current() if self.wanted else {}
            current = {name: pseudo for name, pseudo in kept.items() if mask_file(self.folder, name).is_file()}
            versions = {name: info.get("model_version") for name, info in datastore.with_label(PSEUDO).items()}
            if versions == {image_id: pseudo.model_version for image_id, pseudo in current.items()}:
                return
            labels = {name: (mask_file(self.folder, name), self._info(pseudo)) for name, pseudo in current.items()}
            datastore.set_labels(PSEUDO, labels)
            logger.info("%d images have a pseudo-label now, %d had one", len(current), len(versions))
        finally:
            self._busy.release()

    def _info(self, pseudo: Pseudo) -> dict[str, Any]:
        shown = ("round", "model_version", "score")
        return {"strategy": self.labels.strategy, **{name: getattr(pseudo, name) for name in shown}}

    def _compare(self, datastore: StudiesFolder) -> None:
        for pseudo in self.labels.to_compare():
            name = pseudo.image_id
            label = datastore.get_label_uri(name, FINAL)
            if not label:
                continue
            dice: dict[str, float] = {}
            try:
                dice = self._agreement(mask_file(self.folder, name), Path(label), datastore.get_image_uri(name))
                words = ", ".join(f"{label_name} {value:.3f}" for label_name, value in dice.items())
                logger.info("%s: Dice of its pseudo-label of round %d with a person's: %s", name, pseudo.round, words)
            except ImageError as error:
                logger.warning("the pseudo-label of %s cannot be compared: %s", name, error)
            self.labels.compared(pseudo, dice)

    def _agreement(self, pseudo: Path, label: Path, image: str) -> dict[str, float]:
        classes = len(self.names) + 1
        theirs, ours = (torch.from_numpy(read_mask(file, classes, image)) for file in (label, pseudo))
        return dict(zip(self.names, dice_per_label(ours, theirs, classes, ignore_empty=False).tolist(), strict=True))


def mask_file(folder: Path, image_id: str) -> Path:
    """Where the newest mask that the model gave an image is kept."""
    return folder / f"{image_id}.png"


def write_mask(file: Path, mask: np.ndarray) -> None:
    """Write a mask ``[columns, rows]`` as PNG, so that a reader sees the old or the new one, never a part."""
    temporary = file.with_name(f"part_{file.name}")
    Image.fromarray(mask.T).save(temporary)
    temporary.replace(file)
