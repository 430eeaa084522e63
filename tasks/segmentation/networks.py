"""The U-Net that is split where its only stochastic layer begins, and what scoring asks of any network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers import Conv, Pool
from torch import nn
from torch.nn import functional

from tasks.segmentation import outside

UNET = "unet"


class StochasticNetwork(Protocol):
    """A segmentation network that scoring can sample.

    What :meth:`features` returns first is for :meth:`head` and :meth:`sample_head` of the same network only.
    """

    def features(self, x: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The deterministic part on ``[B, C, *S]``, and the embedding ``[B, d]``."""

    def head(self, features: Any) -> torch.Tensor:
        """Logits ``[B, classes, *S]`` without dropout."""

    def sample_head(self, features: Any, passes: int, generator: torch.Generator) -> torch.Tensor:
        """Logits ``[passes, classes, *S]`` of stochastic passes over the first image."""


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build the network again from a checkpoint.

    Attributes:
        in_channels: image channels.
        out_channels: classes, background included.
        levels: resolutions; 5 in Kim et al. 2024.
        first_features: features of the first level, doubled at each level (32 gives 512 at level 5).
        norm: ``"group"`` (8 groups), ``"instance"``.
        activation: MONAI activation name, ``"relu"`` or ``"leakyrelu"``.
        dropout: probability with which the head drops a feature of the last decoding convolution.
        spatial_dims: 3 for volumes, 2 for images.
        network: ``"unet"``, which the fields above describe, or the name of one of a package.
    """

    in_channels: int
    out_channels: int
    levels: int = 5
    first_features: int = 32
    norm: str = "group"
    activation: str = "relu"
    dropout: float = 0.5
    spatial_dims: int = 3
    network: str = UNET

    @property
    def divisor(self) -> int:
        """Every side of an input must be a multiple of this, in voxels."""
        if self.network != UNET:
            return outside.divisor_of(self.network, self.spatial_dims)
        return 1 << max(self.levels - 1, 0)

    @property
    def lacks(self) -> str:
        """What is missing to build it, for people; empty if nothing is."""
        return "" if self.network == UNET else outside.lacks(self.network)

    def as_dict(self) -> dict[str, int | float | str]:
        """Plain values for a checkpoint; ``Architecture(**values)`` restores them."""
        return asdict(self)

    def build(self) -> Any:
        """The network with random weights."""
        if self.network != UNET:
            return outside.make(self.network, self.in_channels, self.out_channels, self.spatial_dims)
        return SplitUNet(self)


class SplitUNet(nn.Module):
    """U-Net with max pooling, linear upsampling and one dropout layer before the last projection.

    Source: Kim et al. 2024, table 1 (after Peng et al. 2021): 3x3x3 kernels, 512 features at the deepest of 5
    levels, dropout on the last decoding convolution, active in training and when the head is sampled. Dropout
    drops whole feature maps (Tompson et al. 2015): neighbouring voxels of a feature map are so alike that
    dropping them one by one would change little, and a pass then costs one small matrix product.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths = [architecture.first_features * 2**level for level in range(architecture.levels)]
        self.encoder = nn.ModuleList(
            self._block(previous, width)
            for previous, width in zip([architecture.in_channels, *widths[:-1]], widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            self._block(deep + shallow, shallow) for shallow, deep in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        dims = architecture.spatial_dims
        self.pool = Pool[Pool.MAX, dims](2)
        self.upsample = nn.Upsample(scale_factor=2, mode="trilinear" if dims == 3 else "bilinear", align_corners=False)
        self.projection = Conv[Conv.CONV, dims](widths[0], architecture.out_channels, kernel_size=1)

    def _block(self, in_channels: int, out_channels: int) -> nn.Sequential:
        norm = ("group", {"num_groups": 8}) if self.architecture.norm == "group" else ("instance", {"affine": True})
        return nn.Sequential(
            *(
                Convolution(
                    self.architecture.spatial_dims,
                    channels,
                    out_channels,
                    act=self.architecture.activation,
                    norm=norm,
                    adn_ordering="NA",
                )
                for channels in (in_channels, out_channels)
            )
        )

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The deterministic part: everything before the dropout layer, and the deepest encoder output.

        Args:
            x: ``[B, in_channels, *S]``, sides multiples of ``architecture.divisor``.

        Returns:
            Decoder features ``[B, first_features, *S]`` and the embedding ``[B, deepest features]``, the
            deepest encoder output averaged over space (Kim et al. 2024, eq. 2).
        """
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        embedding = skips.pop().flatten(2).mean(2)
        for block in self.decoder:
            x = block(torch.cat([self.upsample(x), skips.pop()], dim=1))
        return x, embedding

    def head(self, features: torch.Tensor, stochastic: bool = False) -> torch.Tensor:
        """Dropout and projection to logits: ``[B, first_features, *S]`` -> ``[B, out_channels, *S]``.

        Args:
            features: decoder features.
            stochastic: drop features also in evaluation mode.
        """
        active = self.training or stochastic
        drop = functional.dropout3d if self.architecture.spatial_dims == 3 else functional.dropout2d
        dropped: torch.Tensor = drop(features, self.architecture.dropout, training=active)
        logits: torch.Tensor = self.projection(dropped)
        return logits

    def sample_head(self, features: torch.Tensor, passes: int, generator: torch.Generator) -> torch.Tensor:
        """``passes`` stochastic heads on the features of the first image.

        Dropping feature ``f`` equals setting column ``f`` of the projection to zero, so all passes are one
        convolution with ``passes * out_channels`` rows.

        Args:
            features: ``[B, first_features, *S]``.
            passes: number of stochastic passes.
            generator: source of the dropout masks, on the CPU (the same masks on every device).

        Returns:
            Logits ``[passes, out_channels, *S]``.
        """
        keep = 1 - self.architecture.dropout
        masks = torch.rand(passes, self.projection.in_channels, generator=generator) < keep
        scaled = masks.to(features) / keep
        weight = self.projection.weight.flatten(1).to(features)
        dims = self.architecture.spatial_dims
        rows = (scaled[:, None, :] * weight[None]).reshape(-1, features.shape[1], *([1] * dims))
        bias = None if self.projection.bias is None else self.projection.bias.to(features).repeat(passes)
        convolve = functional.conv3d if dims == 3 else functional.conv2d
        logits = convolve(features[:1], rows, bias)
        return logits.reshape(passes, -1, *features.shape[2:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, out_channels, *S]``."""
        return self.head(self.features(x)[0])
