"""Hyper-parameters of the volumetric app: the papers' presets and a small one for CPUs.

Every field but the network's is shown in the viewers' training options under the same name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from tasks.networks import Architecture


@dataclass(frozen=True)
class Preset:
    """One set of hyper-parameters.

    Attributes:
        levels, first_features, norm, activation, dropout: see :class:`tasks.networks.Architecture`.
        patch_size: training patch, ``"XxYxZ"`` voxels.
        patches_per_image: patches drawn from an image when it is visited.
        foreground_ratio: share of the patches centred on a labelled voxel.
        roi_size: largest window at inference, ``"XxYxZ"`` voxels.
        overlap: share by which neighbouring windows overlap at inference, in [0, 1).
        spacing: isotropic voxel size in mm that images are resampled to, 0 keeps their own.
        optimizer: ``"sgd"`` or ``"adamw"``.
        learning_rate, momentum, weight_decay: of the optimiser (momentum is Nesterov's, SGD only).
        schedule: ``"cosine_restarts"``, ``"cosine"`` or ``"polynomial"`` (power 0.9).
        gradient_clipping: largest gradient norm, 0 switches clipping off.
        train_batch_size: images per iteration.
        iterations_per_epoch: iterations per epoch, images drawn with replacement; 0 visits each image once.
        max_epochs: epochs at most.
        early_stop_patience: epochs without a better validation Dice before training stops, 0 never stops.
        val_interval: epochs between validations.
        augmentation: random flips, rotations, scaling and intensity changes.
        dataset: MONAI dataset that caches the decoded images.
    """

    levels: int = 5
    first_features: int = 32
    norm: str = "group"
    activation: str = "relu"
    dropout: float = 0.5
    patch_size: str = "128x128x128"
    patches_per_image: int = 2
    foreground_ratio: float = 0.5
    roi_size: str = "128x128x128"
    overlap: float = 0.75
    spacing: float = 1.0
    optimizer: str = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 2e-5
    schedule: str = "cosine_restarts"
    gradient_clipping: float = 0.0
    train_batch_size: int = 1
    iterations_per_epoch: int = 0
    max_epochs: int = 500
    early_stop_patience: int = 50
    val_interval: int = 1
    augmentation: bool = True
    dataset: str = "PersistentDataset"

    def architecture(self, in_channels: int, out_channels: int) -> Architecture:
        """The network these hyper-parameters describe."""
        return Architecture(
            in_channels, out_channels, self.levels, self.first_features, self.norm, self.activation, self.dropout
        )

    @property
    def divisor(self) -> int:
        """Every side of a patch or window must be a multiple of this, in voxels."""
        return self.architecture(1, 1).divisor

    @property
    def inference_settings(self) -> dict[str, Any]:
        """What a checkpoint keeps to use its model as it was trained: spacing, window and overlap."""
        return {"spacing": self.spacing, "roi_size": self.roi_size, "overlap": self.overlap}

    def with_options(self, options: dict[str, Any]) -> Preset:
        """These hyper-parameters with those of a request, which viewers send as text or numbers.

        Raises:
            ValueError: a value that does not fit, naming its option.
        """
        changes: dict[str, Any] = {}
        for item in fields(self):
            if item.name not in options:
                continue
            value = options[item.name]
            value = value[0] if isinstance(value, list) else value
            kind = type(getattr(self, item.name))
            try:
                changes[item.name] = _boolean(value) if kind is bool else kind(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{item.name} must be {_KINDS[kind]}, got {value!r}") from error
        changed = replace(self, **changes)
        changed._check()
        return changed

    def as_dict(self) -> dict[str, Any]:
        """Name -> value of every hyper-parameter."""
        return asdict(self)

    def _check(self) -> None:
        for name in ("patch_size", "roi_size"):
            size = voxels(getattr(self, name), name)
            if any(side % self.divisor for side in size):
                raise ValueError(f"{name} must be multiples of {self.divisor} with {self.levels} levels, got {size}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {value}")


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_CHOICES = {
    "norm": ("group", "instance"),
    "activation": ("relu", "leakyrelu"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine_restarts", "cosine", "polynomial"),
    "dataset": ("CacheDataset", "PersistentDataset", "SmartCacheDataset", "Dataset"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "levels": (2, 7),
    "first_features": (1, 512),
    "dropout": (0.0, 0.95),
    "patches_per_image": (1, 64),
    "foreground_ratio": (0.0, 1.0),
    "overlap": (0.0, 0.95),
    "spacing": (0.0, 20.0),
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

PRESETS: dict[str, Preset] = {
    # Kim et al. 2024, table 1 and section "Neural Network Architecture".
    "paper": Preset(),
    # Nesterov momentum 0.99, polynomial decay, instance norm and clipping as in nnU-Net (Isensee et al. 2021).
    "small": Preset(
        levels=3,
        first_features=16,
        norm="instance",
        activation="leakyrelu",
        patch_size="32x48x32",
        patches_per_image=1,
        roi_size="64x64x48",
        overlap=0.25,
        spacing=0.0,
        learning_rate=1e-2,
        momentum=0.99,
        weight_decay=3e-5,
        schedule="polynomial",
        gradient_clipping=12.0,
        train_batch_size=2,
        iterations_per_epoch=25,
        max_epochs=12,
        early_stop_patience=0,
        val_interval=4,
        augmentation=False,
        dataset="CacheDataset",
    ),
    # PCDAL 2023, section IV.B: 96^3 patches, batch 4, SGD 0.1, cosine annealing, Dice + cross entropy 1:1.
    "pcdal": Preset(
        patch_size="96x96x96",
        patches_per_image=1,
        roi_size="96x96x96",
        overlap=0.5,
        learning_rate=0.1,
        schedule="cosine",
        train_batch_size=4,
        max_epochs=200,
    ),
}


def default_preset() -> str:
    """``"paper"`` where there is CUDA, else ``"small"``."""
    return "paper" if torch.cuda.is_available() else "small"


def voxels(text: str, name: str) -> tuple[int, int, int]:
    """Three sides in voxels from ``"XxYxZ"``.

    Raises:
        ValueError: not three positive whole numbers, naming the option.
    """
    try:
        sides = tuple(int(side) for side in text.lower().replace(",", "x").split("x"))
    except ValueError:
        sides = ()
    if len(sides) != 3 or min(sides) < 1:
        raise ValueError(f"{name} must be three whole numbers such as 96x96x64, got {text!r}")
    return sides[0], sides[1], sides[2]


def _boolean(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text in ("true", "1")
