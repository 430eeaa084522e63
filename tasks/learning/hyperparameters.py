"""Hyper-parameters that all trainers have, and how a request changes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import torch
from typing_extensions import Self

from tasks.common.values import of_kind, one_of, within


@dataclass(frozen=True)
class Hyperparameters:
    """Optimiser, schedule and length of a training; every field is shown in the viewers under the same name.

    Attributes:
        optimizer: ``"sgd"`` or ``"adamw"``.
        learning_rate, momentum, weight_decay: of the optimiser (momentum is Nesterov's, SGD only).
        schedule: ``"cosine_restarts"``, ``"cosine"``, ``"polynomial"`` (power 0.9) or ``"constant"``.
        gradient_clipping: largest gradient norm, 0 switches clipping off.
        train_batch_size: images per iteration.
        iterations_per_epoch: iterations per epoch, images drawn with replacement; 0 visits each image once.
        max_epochs: epochs at most.
        early_stop_patience: epochs without a better validation result before training stops, 0 never stops.
        val_interval: epochs between validations.
        augmentation: random flips, rotations, scaling and intensity changes.
        dataset: MONAI dataset that caches the decoded images.
    """

    optimizer: str = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    gradient_clipping: float = 0.0
    train_batch_size: int = 1
    iterations_per_epoch: int = 0
    max_epochs: int = 100
    early_stop_patience: int = 0
    val_interval: int = 1
    augmentation: bool = True
    dataset: str = "CacheDataset"

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "optimizer": ("sgd", "adamw"),
        "schedule": ("cosine_restarts", "cosine", "polynomial", "constant"),
        "dataset": ("CacheDataset", "PersistentDataset", "SmartCacheDataset", "Dataset"),
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "learning_rate": (1e-9, 10.0),
        "momentum": (0.0, 0.9999),
        "weight_decay": (0.0, 1.0),
        "gradient_clipping": (0.0, 1e9),
        "train_batch_size": (1, 256),
        "iterations_per_epoch": (0, 1_000_000),
        "max_epochs": (1, 100_000),
        "early_stop_patience": (0, 100_000),
        "val_interval": (1, 100_000),
    }

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """These hyper-parameters with those of a request, which viewers send as text or numbers.

        Raises:
            ValueError: a value that does not fit, naming its option.
        """
        changes: dict[str, Any] = {}
        for item in fields(self):
            if item.name not in options:
                continue
            value = options[item.name]
            value = value[0] if isinstance(value, list) and value else value
            changes[item.name] = of_kind(item.name, value, type(getattr(self, item.name)))
        changed = replace(self, **changes)
        changed.check()
        return changed

    def as_dict(self) -> dict[str, Any]:
        """Name -> value of every hyper-parameter."""
        return asdict(self)

    def check(self) -> None:
        """Raise ``ValueError`` for a value out of range, naming its option."""
        for name, allowed in self.choices.items():
            one_of(name, getattr(self, name), allowed)
        for name, (low, high) in self.ranges.items():
            within(name, getattr(self, name), low, high)


def default_preset() -> str:
    """``"paper"`` where there is CUDA, else ``"small"``."""
    return "paper" if torch.cuda.is_available() else "small"


def whole_number(options: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number of a request.

    Raises:
        ValueError: not a whole number, or out of range, naming the option.
    """
    number: int = of_kind(name, options.get(name, default), int)
    within(name, number, low, high)
    return number
