"""What a training tells while it runs, and the best weights so far."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from monailabel.tasks.train.basic_train import Context

from tasks.common.files import write_json

logger = logging.getLogger(__name__)


class Judge(Protocol):
    """Tells what a validation is worth."""

    def judge(self, metrics: Mapping[str, Any]) -> tuple[float, ...]:
        """Larger is better."""

    def report(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics as train stats show them."""


class MemberProgress:
    """Writes train stats after every epoch, and the best weights (the last ones without validation) at the end.

    MONAI Label's handler publishes the best weights of a training that is not finished, by copying over the file that
    serves.

    Args:
        task: judges and reports validations.
        context: of the member's training.
        stats_path: JSON file with the train stats.
        weights_path: takes the member's weights.
    """

    def __init__(self, task: Judge, context: Context, stats_path: Path, weights_path: Path) -> None:
        self.task = task
        self.context = context
        self.stats_path = stats_path
        self.weights_path = weights_path
        self.best: tuple[float, ...] | None = None
        self.best_epoch = 0
        self.best_state: dict[str, torch.Tensor] | None = None
        self.last: dict[str, Any] = {}

    def attach(self) -> None:
        """Listen to trainer and evaluator."""
        # The trainer's own validation handler was attached before, so an epoch is reported with its validation.
        if self.context.evaluator:
            self.context.evaluator.add_event_handler(Events.COMPLETED, self.validated)
        self.context.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        self.context.trainer.add_event_handler(Events.COMPLETED, self.save)

    def validated(self, evaluator: Engine) -> None:
        """A validation ended: keep the weights if they are the best so far."""
        judged = self.task.judge(evaluator.state.metrics)
        self.last = self.task.report(evaluator.state.metrics)
        if self.best is None or judged > self.best:
            self.best, self.best_epoch = judged, self.context.trainer.state.epoch
            self.best_state = _weights(self.context.network)

    def _epoch(self, trainer: Engine) -> None:
        stats = self._stats(trainer)
        write_json(self.stats_path, stats)
        logger.info(
            "member %d of %d, epoch %d of %d: loss %.4f, %s",
            self.context.request["member"] + 1,
            self.context.request["members"],
            trainer.state.epoch,
            trainer.state.max_epochs,
            stats["loss"],
            self.last or "not validated yet",
        )

    def save(self, trainer: Engine) -> None:
        """The training ended: write the weights."""
        state = self.best_state if self.best_state is not None else _weights(self.context.network)
        torch.save(state, self.weights_path)
        write_json(self.stats_path, self._stats(trainer) | {"total_time": self._elapsed()})

    def _elapsed(self) -> str:
        return str(dt.timedelta(seconds=int(time.time() - self.context.start_ts)))

    def _stats(self, trainer: Engine) -> dict[str, Any]:
        request = self.context.request
        epochs = trainer.state.max_epochs
        labelled = len(self.context.datalist)
        share = f"{len(self.context.val_datalist)} of {labelled} labelled images"
        return {
            "epoch": request["member"] * epochs + trainer.state.epoch,
            "total_epochs": request["members"] * epochs,
            "start_ts": int(self.context.start_ts),
            "current_time": self._elapsed(),
            "loss": float(trainer.state.output["loss"]),
            "best_metric": 0.0 if self.best is None else round(self.best[0], 4),
            "best_epoch": self.best_epoch,
            **self.last,
            "validation": share if self.context.evaluator else "none: too few labels or groups to hold any out",
            "labelled": labelled,
            "member": request["member"] + 1,
            "members": request["members"],
            "failed_members": request["failed_members"],
        }


def _weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    module = network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
