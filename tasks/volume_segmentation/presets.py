"""Hyper-parameters of the volumetric app: the papers' presets and a small one for CPUs.

Every field but the network's is shown in the viewers' training options under the same name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from tasks.common.values import Number, Text, Whole, between, choice, one_of
from tasks.learning.hyperparameters import Hyperparameters
from tasks.segmentation.networks import UNET, Architecture
from tasks.segmentation.outside import names


@dataclass(frozen=True)
class Preset(Hyperparameters):
    """One set of hyper-parameters.

    Attributes:
        network: ``"unet"``, or the name of a network of a package.
        levels, first_features, norm, activation, dropout: of the U-Net, see
            :class:`tasks.segmentation.networks.Architecture`.
        patch_size: training patch, ``"XxYxZ"`` voxels.
        patches_per_image: patches drawn from an image when it is visited.
        foreground_ratio: share of the patches centred on a labelled voxel.
        roi_size: largest window at inference, ``"XxYxZ"`` voxels.
        overlap: share by which neighbouring windows overlap at inference, in [0, 1).
        spacing: isotropic voxel size in mm that images are resampled to, 0 keeps their own.
    """

    network: Text = UNET
    levels: Annotated[Whole, between(2, 7)] = 5
    first_features: Annotated[Whole, between(1, 512)] = 32
    norm: Annotated[Text, choice("group", "instance")] = "group"
    activation: Annotated[Text, choice("relu", "leakyrelu")] = "relu"
    dropout: Annotated[Number, between(0.0, 0.95)] = 0.5
    patch_size: Text = "128x128x128"
    patches_per_image: Annotated[Whole, between(1, 64)] = 2
    foreground_ratio: Annotated[Number, between(0.0, 1.0)] = 0.5
    roi_size: Text = "128x128x128"
    overlap: Annotated[Number, between(0.0, 0.95)] = 0.75
    spacing: Annotated[Number, between(0.0, 20.0)] = 1.0

    def architecture(self, in_channels: int, out_channels: int) -> Architecture:
        """The network these hyper-parameters describe."""
        unet = (self.levels, self.first_features, self.norm, self.activation, self.dropout)
        return Architecture(in_channels, out_channels, *unet, network=self.network)

    def with_network(self, network: str) -> Preset:
        """The same for a network of a package: patch and window grow to multiples of what it divides by."""
        changed = replace(self, network=network)

        def grown(size: str) -> str:
            return "x".join(str(-(-side // changed.divisor) * changed.divisor) for side in voxels(size, "size"))

        return replace(changed, patch_size=grown(self.patch_size), roi_size=grown(self.roi_size))

    @property
    def divisor(self) -> int:
        """Every side of a patch or window must be a multiple of this, in voxels."""
        return self.architecture(1, 1).divisor

    @property
    def inference_settings(self) -> dict[str, Any]:
        """What a checkpoint keeps to use its model as it was trained: spacing, window and overlap."""
        return {"spacing": self.spacing, "roi_size": self.roi_size, "overlap": self.overlap}

    def check(self) -> None:
        """Raise ``ValueError`` for a network that there is not, or sizes that do not fit it, naming the option."""
        one_of("network", self.network, names((UNET,)))
        which = f"with {self.levels} levels" if self.network == UNET else f"for the network {self.network}"
        for name in ("patch_size", "roi_size"):
            size = voxels(getattr(self, name), name)
            if any(side % self.divisor for side in size):
                raise ValueError(f"{name} must be multiples of {self.divisor} {which}, got {size}")


PRESETS: dict[str, Preset] = {
    # Kim et al. 2024, table 1 and section "Neural Network Architecture".
    "paper": Preset(
        weight_decay=2e-5,
        schedule="cosine_restarts",
        max_epochs=500,
        early_stop_patience=50,
        dataset="PersistentDataset",
    ),
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
        val_interval=4,
        augmentation=False,
    ),
    # PCDAL 2023, section IV.B: 96^3 patches, batch 4, SGD 0.1, cosine annealing, Dice + cross entropy 1:1.
    "pcdal": Preset(
        patch_size="96x96x96",
        patches_per_image=1,
        roi_size="96x96x96",
        overlap=0.5,
        learning_rate=0.1,
        weight_decay=2e-5,
        schedule="cosine",
        train_batch_size=4,
        max_epochs=200,
        early_stop_patience=50,
        dataset="PersistentDataset",
    ),
}


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
