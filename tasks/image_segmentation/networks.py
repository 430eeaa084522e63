"""Networks for images: the paper's U-Net, a U-Net with a ResNet34 encoder, and a small one for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torchvision
from monai.networks.blocks import BaseEncoder
from monai.networks.nets import BasicUNet, FlexibleUNet
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from torch import nn

from tasks.geometry.slices import IN_CHANNELS
from tasks.learning.dropout import stochastic
from tasks.learning.pretrained import Pretrained, torchvision_network
from tasks.segmentation import outside
from tasks.segmentation.networks import Architecture, SplitUNet

NETWORKS = ("unet", "unet_resnet34", "small")
"""U-Net (Jethaliya 2022) and U-Net on ResNet34 (PCDAL 2023) from MONAI, and a small one with the split head."""

IMAGENET_ENCODERS = {"unet_resnet34": "resnet34"}
"""Network -> torchvision's network whose ImageNet weights fit its encoder."""

_PIXELS_AT_ONCE = 2**20
"""Stochastic passes run as batches of at most so many pixels."""


@dataclass(frozen=True)
class ImageArchitecture:
    """Everything needed to build the network again from a checkpoint.

    Attributes:
        network: one of :data:`NETWORKS`, or the name of one of a package.
        out_channels: classes, background included.
        levels: resolutions of ``"small"``; the others have 5 and 6.
        first_features: features of the first level of ``"small"`` (doubled at each level) and of ``"unet"``.
        dropout: probability of dropping a feature.
    """

    network: str
    out_channels: int
    levels: int = 4
    first_features: int = 16
    dropout: float = 0.5

    _divisors: ClassVar[dict[str, int]] = {"unet": 16, "unet_resnet34": 32}

    @property
    def divisor(self) -> int:
        """Both sides of an input must be a multiple of this, in pixels."""
        if self.network not in NETWORKS:
            return outside.divisor_of(self.network, 2)
        return self._divisors.get(self.network, 1 << (self.levels - 1))

    @property
    def lacks(self) -> str:
        """What is missing to build it, for people; empty if nothing is."""
        return "" if self.network in NETWORKS else outside.lacks(self.network)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint; ``ImageArchitecture(**values)`` restores them."""
        return asdict(self)

    def build(self) -> Any:
        """The network with random weights."""
        if self.network not in NETWORKS:
            return outside.make(self.network, IN_CHANNELS, self.out_channels, 2)
        if self.network == "unet":
            return DropoutUNet(self)
        if self.network == "unet_resnet34":
            return ResNetUNet(self)
        return SplitUNet(
            Architecture(
                IN_CHANNELS,
                self.out_channels,
                self.levels,
                self.first_features,
                norm="instance",
                activation="leakyrelu",
                dropout=self.dropout,
                spatial_dims=2,
            )
        )


class DropoutUNet(nn.Module):
    """MONAI's U-Net: five pairs of 3x3 convolutions down, four up, dropout after each of them.

    Source: Jethaliya 2022, section 1.2 (31 million weights with 64 features at the first level). Dropout is
    everywhere, so a stochastic pass is a pass through the whole network.
    """

    def __init__(self, architecture: ImageArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        first = architecture.first_features
        self.net = BasicUNet(
            spatial_dims=2,
            in_channels=IN_CHANNELS,
            out_channels=architecture.out_channels,
            features=(first, 2 * first, 4 * first, 8 * first, 16 * first, first),
            dropout=architecture.dropout,
            upsample="deconv",
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, 3, X, Y]`` -> logits ``[B, classes, X, Y]``."""
        return self._decode(self._encode(x))

    def features(self, x: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The image and its logits, and the deepest features averaged over space ``[B, 16 first_features]``."""
        encoded = self._encode(x)
        return (x, self._decode(encoded)), encoded[-1].mean((2, 3))

    def head(self, features: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Logits of the deterministic pass."""
        return features[1]

    def sample_head(
        self, features: tuple[torch.Tensor, torch.Tensor], passes: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Stochastic passes over the first image: logits ``[passes, classes, X, Y]``."""
        return _sampled(
            self, lambda count: self(features[0][:1].expand(count, -1, -1, -1)), features[0], passes, generator
        )

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        levels = [self.net.conv_0(x)]
        for down in (self.net.down_1, self.net.down_2, self.net.down_3, self.net.down_4):
            levels.append(down(levels[-1]))
        return levels

    def _decode(self, levels: list[torch.Tensor]) -> torch.Tensor:
        x = levels[4]
        for up, skip in zip(
            (self.net.upcat_4, self.net.upcat_3, self.net.upcat_2, self.net.upcat_1), levels[3::-1], strict=True
        ):
            x = up(x, skip)
        logits: torch.Tensor = self.net.final_conv(x)
        return logits


class ResNetUNet(nn.Module):
    """MONAI's flexible U-Net on torchvision's ResNet34, with dropout in the decoder.

    Source: PCDAL 2023, section IV.B. The encoder has no dropout, so stochastic passes repeat the decoder only.
    """

    def __init__(self, architecture: ImageArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.net = FlexibleUNet(
            IN_CHANNELS,
            architecture.out_channels,
            TorchvisionResNet34.name,
            pretrained=False,
            spatial_dims=2,
            dropout=architecture.dropout,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, 3, X, Y]`` -> logits ``[B, classes, X, Y]``."""
        return self.head(self.net.encoder(x))

    def features(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Encoder features by depth, and the deepest averaged over space ``[B, 512]``."""
        levels = self.net.encoder(x)
        return levels, levels[-1].mean((2, 3))

    def head(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Decoder: logits ``[B, classes, X, Y]``."""
        logits: torch.Tensor = self.net.segmentation_head(self.net.decoder(features, self.net.skip_connect))
        return logits

    def sample_head(self, features: list[torch.Tensor], passes: int, generator: torch.Generator) -> torch.Tensor:
        """Stochastic decodings of the first image: logits ``[passes, classes, X, Y]``."""

        def decode(count: int) -> torch.Tensor:
            return self.head([level[:1].expand(count, -1, -1, -1) for level in features])

        return _sampled(self, decode, features[0], passes, generator, shrunk=4)


class TorchvisionResNet34(BaseEncoder, nn.Module):
    """Encoder for MONAI's flexible U-Net whose weights have torchvision's names, so that ImageNet's fit."""

    name = "torchvision_resnet34"

    def __init__(self, pretrained: bool, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        self.resnet = torchvision.models.resnet34(weights=None)
        self.resnet.fc = nn.Identity()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size of ``x``."""
        net = self.resnet
        levels = [net.relu(net.bn1(net.conv1(x)))]
        x = net.maxpool(levels[0])
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            levels.append(x)
        return levels

    @classmethod
    def get_encoder_parameters(cls) -> list[dict[str, Any]]:
        """What the flexible U-Net calls the constructor with."""
        return [{"pretrained": False, "spatial_dims": 2, "in_channels": IN_CHANNELS}]

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        """Channels by depth."""
        return [(64, 64, 128, 256, 512)]

    @classmethod
    def num_outputs(cls) -> list[int]:
        """Number of depths."""
        return [5]

    @classmethod
    def get_encoder_names(cls) -> list[str]:
        """Name in MONAI's registry."""
        return [cls.name]


FLEXUNET_BACKBONE.register_class(TorchvisionResNet34)


def start_from(network: nn.Module, pretrained: Pretrained) -> None:
    """Copy ImageNet weights into the encoder of a :class:`ResNetUNet`; nothing happens to other networks.

    Raises:
        tasks.learning.pretrained.WeightsError: the weights are those of another network.
    """
    if pretrained.state is None or not isinstance(network, ResNetUNet):
        return
    original = torchvision_network(IMAGENET_ENCODERS[network.architecture.network], pretrained)
    original.fc = nn.Identity()
    network.net.encoder.resnet.load_state_dict(original.state_dict())


def _sampled(
    network: nn.Module,
    run: Callable[[int], torch.Tensor],
    like: torch.Tensor,
    passes: int,
    generator: torch.Generator,
    shrunk: int = 1,
) -> torch.Tensor:
    """Run ``passes`` stochastic passes as a few batches, with dropout active and everything else in evaluation mode."""
    pixels = like.shape[-1] * like.shape[-2] * shrunk
    at_once = max(1, _PIXELS_AT_ONCE // pixels)
    seed = int(torch.randint(2**62, (), generator=generator))
    with stochastic(network, seed, like.device):
        return torch.cat([run(min(at_once, passes - start)) for start in range(0, passes, at_once)])
