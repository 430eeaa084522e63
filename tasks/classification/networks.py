"""Image classifiers, split into a deterministic trunk, hidden layers with dropout, and the last layer."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torchvision
from monai.networks.blocks import Convolution
from torch import nn

from tasks.learning.dropout import stochastic
from tasks.learning.pretrained import Pretrained, torchvision_network

NETWORKS = ("alexnet", "resnet34", "small")
"""AlexNet (Hao et al. 2021) and ResNet34 (PCDAL 2023) from torchvision, and a small network for CPUs."""

_SMALL_LEVELS = 4


@dataclass(frozen=True)
class ClassifierArchitecture:
    """Everything needed to build the network again from a checkpoint.

    Attributes:
        network: one of :data:`NETWORKS`.
        classes: number of classes.
        dropout: probability of dropping a hidden feature; where AlexNet has it, before the last layer elsewhere.
        first_features: features of the first level of ``"small"``, doubled at each level.
    """

    network: str
    classes: int
    dropout: float = 0.5
    first_features: int = 16

    @property
    def lacks(self) -> str:
        """What is missing to build it, for people: nothing, all networks are our own."""
        return ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint; ``ClassifierArchitecture(**values)`` restores them."""
        return asdict(self)

    def build(self) -> ImageClassifier:
        """The network with random weights."""
        return ImageClassifier(self)


class ImageClassifier(nn.Module):
    """A classifier of RGB images in three parts: trunk, hidden layers (with all dropout), output.

    Everything before the first dropout layer is the trunk, so stochastic passes repeat only what follows it.

    Args:
        architecture: network, classes and dropout.
    """

    def __init__(self, architecture: ClassifierArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.trunk: nn.Module
        self.hidden: nn.Module
        if architecture.network == "alexnet":
            alexnet = torchvision.models.alexnet(weights=None, dropout=architecture.dropout)
            self.trunk = nn.Sequential(alexnet.features, alexnet.avgpool, nn.Flatten())
            self.hidden, width = alexnet.classifier[:-1], alexnet.classifier[-1].in_features
        elif architecture.network == "resnet34":
            resnet = torchvision.models.resnet34(weights=None)
            width = resnet.fc.in_features
            resnet.fc = nn.Identity()
            self.trunk, self.hidden = resnet, nn.Dropout(architecture.dropout)
        else:
            self.trunk = _SmallTrunk(architecture.first_features)
            self.hidden, width = nn.Dropout(architecture.dropout), self.trunk.width
        self.output = nn.Linear(width, architecture.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, 3, rows, columns]`` -> logits ``[B, classes]``."""
        logits: torch.Tensor = self.output(self.hidden(self.trunk(x)))
        return logits

    def embed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Trunk features ``[B, f]``, penultimate layer ``[B, d]`` and logits ``[B, classes]`` of one run."""
        features = self.trunk(x)
        penultimate = self.hidden(features)
        return features, penultimate, self.output(penultimate)

    def sample(self, features: torch.Tensor, passes: int, seed: str) -> torch.Tensor:
        """Stochastic passes of the layers with dropout.

        Args:
            features: ``[1, f]`` trunk features of one image.
            passes: number of passes.
            seed: decides the dropout masks.

        Returns:
            Logits ``[passes, classes]``.
        """
        with stochastic(self.hidden, zlib.crc32(seed.encode()), features.device):
            logits: torch.Tensor = self.output(self.hidden(features.expand(passes, -1)))
        return logits


def start_from(classifier: ImageClassifier, pretrained: Pretrained) -> None:
    """Copy pretrained weights into a classifier; its last layer, which has other classes, stays random.

    Raises:
        tasks.learning.pretrained.WeightsError: the weights are those of another network.
    """
    if pretrained.state is None:
        return
    name = classifier.architecture.network
    original = torchvision_network(name, pretrained)
    if name == "alexnet":
        classifier.trunk[0].load_state_dict(original.features.state_dict())  # type: ignore[index]
        classifier.hidden.load_state_dict(original.classifier[:-1].state_dict())
    else:
        original.fc = nn.Identity()
        classifier.trunk.load_state_dict(original.state_dict())


class _SmallTrunk(nn.Sequential):
    """Four levels of convolutions; the deepest features by their mean and maximum over the image.

    The mean alone would drown a finding that covers a small part of the image.
    """

    def __init__(self, first_features: int) -> None:
        widths = [first_features * 2**level for level in range(_SMALL_LEVELS)]
        super().__init__(
            *(
                nn.Sequential(
                    Convolution(2, previous, width, strides=2, norm="batch", act="relu", adn_ordering="NA"),
                    Convolution(2, width, width, norm="batch", act="relu", adn_ordering="NA"),
                )
                for previous, width in zip([3, *widths[:-1]], widths, strict=True)
            ),
            _MeanAndMaximum(),
        )
        self.width = 2 * widths[-1]


class _MeanAndMaximum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
