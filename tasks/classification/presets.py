"""Hyper-parameters of the classifiers: the papers' presets and a small one for CPUs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from tasks.classification.networks import NETWORKS, ClassifierArchitecture
from tasks.common.values import Flag, Number, Text, Whole, between, choice
from tasks.learning.hyperparameters import LEARNING_RATES, Hyperparameters


@dataclass(frozen=True)
class ClassifierPreset(Hyperparameters):
    """One set of hyper-parameters.

    Attributes:
        network, dropout, first_features: see :class:`tasks.classification.networks.ClassifierArchitecture`.
        image_size: side in pixels to which images are resized.
        learning_rates: of the members of a committee, comma separated; as many members as numbers.
        imagenet: start from ImageNet weights where there are any for the network.
    """

    network: Annotated[Text, choice(*NETWORKS)] = "small"
    dropout: Annotated[Number, between(0.0, 0.95)] = 0.5
    first_features: Annotated[Whole, between(1, 512)] = 16
    image_size: Annotated[Whole, between(32, 2048)] = 96
    learning_rates: Text = "0.001,0.0005,0.0001"
    imagenet: Flag = True

    @property
    def member_learning_rates(self) -> list[float]:
        """One learning rate per member of a committee.

        Raises:
            ValueError: not a list of numbers in the range of ``learning_rate``.
        """
        try:
            rates = [float(part) for part in self.learning_rates.split(",")]
        except ValueError as error:
            raise ValueError(f"learning_rates must be numbers with commas, got {self.learning_rates!r}") from error
        low, high = LEARNING_RATES
        if not all(low <= rate <= high for rate in rates):
            raise ValueError(f"learning_rates must be between {low} and {high}, got {self.learning_rates}")
        return rates

    def architecture(self, classes: int) -> ClassifierArchitecture:
        """The network these hyper-parameters describe."""
        return ClassifierArchitecture(self.network, classes, self.dropout, self.first_features)

    @property
    def inference_settings(self) -> dict[str, Any]:
        """What a checkpoint keeps to use its model as it was trained."""
        return {"image_size": self.image_size}

    def check(self) -> None:
        """Raise ``ValueError`` for odd learning rates, or a size that does not fit the network, naming the option."""
        assert self.member_learning_rates
        if self.network != "small" and self.image_size < 64:
            raise ValueError(f"image_size must be at least 64 for {self.network}, got {self.image_size}")


PRESETS: dict[str, ClassifierPreset] = {
    # Hao et al. 2021, section 3.1.
    "paper": ClassifierPreset(
        network="alexnet", image_size=224, momentum=0.8, weight_decay=1e-4, train_batch_size=16, max_epochs=30
    ),
    "small": ClassifierPreset(
        optimizer="adamw",
        learning_rate=3e-3,
        learning_rates="0.003,0.0015,0.0005",
        weight_decay=1e-2,
        schedule="cosine",
        train_batch_size=16,
        iterations_per_epoch=10,
        max_epochs=20,
        # The AUC of few validation images is coarse: let only trained epochs compete for it.
        val_interval=5,
        dropout=0.3,
        first_features=8,
        imagenet=False,
    ),
    # PCDAL 2023, section IV.B: ResNet34 at 512 x 512, AdamW 1e-4, cross entropy, batch 16, flips and rotations.
    "pcdal": ClassifierPreset(
        network="resnet34",
        image_size=512,
        optimizer="adamw",
        learning_rate=1e-4,
        learning_rates="0.0002,0.0001,0.00005",
        weight_decay=1e-2,
        train_batch_size=16,
        max_epochs=50,
        dropout=0.0,
    ),
}
