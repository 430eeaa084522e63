"""Hyper-parameters for images: the papers' presets and a small one for CPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from tasks.common.values import Flag, Number, Text, Whole, between, choice, one_of
from tasks.image_segmentation.loss import LOSSES
from tasks.image_segmentation.networks import NETWORKS, ImageArchitecture
from tasks.learning.hyperparameters import Hyperparameters
from tasks.segmentation.outside import names


@dataclass(frozen=True)
class ImagePreset(Hyperparameters):
    """One set of hyper-parameters.

    Attributes:
        network, levels, first_features, dropout: see :class:`tasks.image_segmentation.networks.ImageArchitecture`.
        image_size: pixels of the longer side to which images are scaled.
        loss: one of :data:`tasks.image_segmentation.loss.LOSSES`.
        imagenet: start from ImageNet weights where there are any for the network.
        epochs_per_round: epochs when a training continues from the current model; ``max_epochs`` is for the first.
        pseudo_weight: how much an image counts that the model labelled itself, 0 leaves them out.
    """

    network: Text = "small"
    levels: Annotated[Whole, between(2, 7)] = 4
    first_features: Annotated[Whole, between(1, 512)] = 16
    dropout: Annotated[Number, between(0.0, 0.95)] = 0.5
    image_size: Annotated[Whole, between(32, 4096)] = 128
    loss: Annotated[Text, choice(*LOSSES)] = "dice"
    imagenet: Flag = True
    epochs_per_round: Annotated[Whole, between(1, 100_000)] = 5
    pseudo_weight: Annotated[Number, between(0.0, 1.0)] = 1.0

    def architecture(self, out_channels: int) -> ImageArchitecture:
        """The network these hyper-parameters describe."""
        return ImageArchitecture(self.network, out_channels, self.levels, self.first_features, self.dropout)

    def with_network(self, network: str) -> ImagePreset:
        """The same for a network of a package: images grow to a multiple of what it divides by, two at least."""
        changed = replace(self, network=network, imagenet=False)
        divisor = changed.architecture(2).divisor
        return replace(changed, image_size=max(2, -(-self.image_size // divisor)) * divisor)

    @property
    def inference_settings(self) -> dict[str, Any]:
        """What a checkpoint keeps to use its model as it was trained."""
        return {"image_size": self.image_size}

    def check(self) -> None:
        """Raise ``ValueError`` for a network that there is not, or a size that does not fit it, naming the option."""
        one_of("network", self.network, names(NETWORKS))
        divisor = self.architecture(2).divisor
        if self.image_size % divisor or self.image_size < 2 * divisor:
            raise ValueError(
                f"image_size must be a multiple of {divisor} and at least {2 * divisor} for this network, "
                f"got {self.image_size}"
            )


PRESETS: dict[str, ImagePreset] = {
    # Jethaliya 2022, sections 1.2 and 4: U-Net of 31 million weights, 20 epochs at first and 5 in each round, Dice.
    "paper": ImagePreset(
        network="unet",
        first_features=64,
        dropout=0.1,
        image_size=256,
        optimizer="adamw",
        learning_rate=1e-4,
        train_batch_size=16,
        max_epochs=20,
        imagenet=False,
    ),
    "small": ImagePreset(
        levels=5,
        first_features=8,
        dropout=0.3,
        loss="dice_cross_entropy",
        optimizer="adamw",
        learning_rate=3e-3,
        weight_decay=1e-2,
        schedule="cosine",
        train_batch_size=8,
        iterations_per_epoch=10,
        max_epochs=20,
        val_interval=2,
        imagenet=False,
    ),
    # PCDAL 2023, section IV.B: U-Net with ResNet34 at 256 x 256, AdamW 1e-4, cross entropy, batch 16, flips, rotations.
    "pcdal": ImagePreset(
        network="unet_resnet34",
        dropout=0.1,
        image_size=256,
        loss="cross_entropy",
        optimizer="adamw",
        learning_rate=1e-4,
        weight_decay=1e-2,
        train_batch_size=16,
        max_epochs=50,
        epochs_per_round=10,
    ),
}
