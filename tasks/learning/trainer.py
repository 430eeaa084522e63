"""A training loop of one's own, behind the same MONAI Label task as ours.

The task gathers and checks labelled images, splits, records and publishes as ever; only what lies between is another's.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from tasks.common.files import reason, write_json
from tasks.learning.checkpoints import Architecture, Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A labelled image.

    Attributes:
        id: in the datastore.
        image: its file; further channels lie where the app looks for them.
        label: its file, or its class.
        group: images with the same number belong together, as those of a patient.
        validating: whether it is held out to judge the training.
        values: all that the task knows of it, for :attr:`Settings.read`.
    """

    id: str
    image: Path
    label: Any
    group: int
    validating: bool
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a training is to be.

    Attributes:
        labels: names of the labels or classes, in the order of the network's outputs, background left out.
        architecture: the network that the hyper-parameters describe; a checkpoint has one of the same class.
        hyperparameters: of the preset, changed by the request.
        preprocessing: what a checkpoint keeps to use its model as it was trained.
        seed: makes the training reproducible.
        device: where to train.
        folder: for files that are needed meanwhile.
        start: the current model, if the training is to continue from it.
        read: preprocesses an item: ``image`` ``[C, *S]`` and ``label``, as our own training reads them.
    """

    labels: Sequence[str]
    architecture: Architecture
    hyperparameters: Any
    preprocessing: Mapping[str, Any]
    seed: int
    device: torch.device
    folder: Path
    start: Checkpoint | None
    read: Callable[[Item], Mapping[str, Any]]


class Report(Protocol):
    """Tells people how far a training is."""

    def __call__(self, epoch: int, epochs: int, loss: float, metric: float | None = None) -> None:
        """An epoch has ended.

        Args:
            epoch: of ``epochs``, 1 the first.
            epochs: in all.
            loss: mean of the epoch.
            metric: of a validation after it, larger is better; None without one.
        """


class Trainer(Protocol):
    """A training loop."""

    def train(self, items: Sequence[Item], settings: Settings, report: Report) -> Checkpoint:
        """Train on the items that do not validate.

        Returns:
            One model, or several members, with ``settings.labels`` and ``settings.preprocessing``.
        """


class StatsFile:
    """A :class:`Report` that writes the train stats which viewers show.

    Args:
        file: JSON.
        labelled: number of labelled images.
        validating: how many of them validate.
    """

    def __init__(self, file: Path, labelled: int, validating: int) -> None:
        self._file = file
        self._started = time.time()
        self._best = (0.0, 0)
        share = f"{validating} of {labelled} labelled images" if validating else "none: too few labels or groups"
        self._fixed = {"start_ts": int(self._started), "labelled": labelled, "validation": share}

    def __call__(self, epoch: int, epochs: int, loss: float, metric: float | None = None) -> None:
        """Write it down."""
        if metric is not None and (not self._best[1] or metric > self._best[0]):
            self._best = (metric, epoch)
        write_json(
            self._file,
            {
                **self._fixed,
                "epoch": epoch,
                "total_epochs": epochs,
                "loss": float(loss),
                "current_time": str(dt.timedelta(seconds=int(time.time() - self._started))),
                "best_metric": round(float(self._best[0]), 4),
                "best_epoch": self._best[1],
                "member": 1,
                "members": 1,
                "failed_members": {},
            },
        )
        logger.info("epoch %d of %d: loss %.4f, %s", epoch, epochs, loss, metric if metric is not None else "no metric")


def check_checkpoint(checkpoint: Any, settings: Settings) -> None:
    """Look whether what a training loop gives can be scored and served.

    Raises:
        ValueError: it cannot; the message says why.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise ValueError(f"it gives no Checkpoint but {type(checkpoint).__name__}")
    if type(checkpoint.architecture) is not type(settings.architecture):
        raise ValueError(
            f"its architecture must be a {type(settings.architecture).__name__}, got "
            f"{type(checkpoint.architecture).__name__}"
        )
    if list(checkpoint.labels) != list(settings.labels):
        raise ValueError(f"its labels must be {list(settings.labels)}, got {list(checkpoint.labels)}")
    missing = settings.preprocessing.keys() - checkpoint.preprocessing.keys()
    if missing:
        raise ValueError(f"its preprocessing has no {', '.join(sorted(missing))}")
    if not checkpoint.members:
        raise ValueError("it has no members")
    for state in checkpoint.members:
        if not all(value.isfinite().all() for value in state.values() if value.is_floating_point()):
            raise ValueError("its weights are not finite: the training diverged")
    try:
        checkpoint.networks()
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"its weights do not fit its architecture: {reason(error)}") from error
