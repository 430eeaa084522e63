"""Hyper-parameters that all trainers have, and how a request changes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any

import torch
from pydantic import ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from tasks.common.values import Flag, Number, Text, Whole, between, choice, first_error

DATASETS = ("CacheDataset", "PersistentDataset", "SmartCacheDataset", "Dataset")
LEARNING_RATES = (1e-9, 10.0)
"""Smallest and largest."""


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

    optimizer: Annotated[Text, choice("sgd", "adamw")] = "sgd"
    learning_rate: Annotated[Number, between(*LEARNING_RATES)] = 1e-3
    momentum: Annotated[Number, between(0.0, 0.9999)] = 0.9
    weight_decay: Annotated[Number, between(0.0, 1.0)] = 0.0
    schedule: Annotated[Text, choice("cosine_restarts", "cosine", "polynomial", "constant")] = "constant"
    gradient_clipping: Annotated[Number, between(0.0, 1e9)] = 0.0
    train_batch_size: Annotated[Whole, between(1, 256)] = 1
    iterations_per_epoch: Annotated[Whole, between(0, 1_000_000)] = 0
    max_epochs: Annotated[Whole, between(1, 100_000)] = 100
    early_stop_patience: Annotated[Whole, between(0, 100_000)] = 0
    val_interval: Annotated[Whole, between(1, 100_000)] = 1
    augmentation: Flag = True
    dataset: Annotated[Text, choice(*DATASETS)] = "CacheDataset"

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """These hyper-parameters with those of a request, which viewers send as text or numbers.

        Raises:
            ValueError: a value that does not fit, naming its option.
        """
        given = {item.name: options[item.name] for item in fields(self) if item.name in options}
        chosen = {name: value[0] if isinstance(value, list) and value else value for name, value in given.items()}
        try:
            changed = replace(self, **chosen)
        except ValidationError as error:
            raise first_error(error) from error
        changed.check()
        return changed

    def as_dict(self) -> dict[str, Any]:
        """Name -> value of every hyper-parameter."""
        return asdict(self)

    def check(self) -> None:
        """Raise ``ValueError`` for values that do not go together, naming an option."""


def default_preset() -> str:
    """``"paper"`` where there is CUDA, else ``"small"``."""
    return "paper" if torch.cuda.is_available() else "small"
