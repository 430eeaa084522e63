"""ImageNet weights for torchvision's networks: from a file, from its download cache, from the internet, or not."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision

from tasks.common.files import reason

logger = logging.getLogger(__name__)

_WEIGHTS: dict[str, Any] = {
    "alexnet": torchvision.models.AlexNet_Weights.IMAGENET1K_V1,
    "resnet34": torchvision.models.ResNet34_Weights.IMAGENET1K_V1,
}
_TIMEOUT_SECONDS = 20


class WeightsError(ValueError):
    """A file of pretrained weights that cannot be used; the message names it."""


@dataclass(frozen=True)
class Pretrained:
    """Weights to start a training from.

    Attributes:
        state: weights under torchvision's names; None is a random start.
        origin: where they are from, or why there are none, for people.
    """

    state: dict[str, torch.Tensor] | None
    origin: str


def imagenet_weights(network: str, file: str = "") -> Pretrained:
    """Find the ImageNet weights of a network.

    Args:
        network: torchvision's name; a network without published weights starts from random ones.
        file: weights saved under torchvision's names; empty takes torchvision's download cache or the internet.

    Raises:
        WeightsError: ``file`` is given and cannot be read.
    """
    weights = _WEIGHTS.get(network)
    if weights is None:
        return Pretrained(None, f"random weights: there are no ImageNet weights for {network!r}")
    if file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and operating system errors
            raise WeightsError(f"weights {file} cannot be read: {reason(error)}") from error
        return Pretrained(state, f"weights of {Path(file).name}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        return Pretrained(weights.get_state_dict(progress=False, check_hash=True), f"ImageNet weights ({weights})")
    except (OSError, RuntimeError) as error:
        logger.warning("no ImageNet weights for %s, starting from random ones: %s", network, reason(error))
        return Pretrained(None, f"random weights: ImageNet weights could not be had ({reason(error)})")
    finally:
        socket.setdefaulttimeout(before)


def torchvision_network(name: str, pretrained: Pretrained) -> Any:
    """Torchvision's network with pretrained weights.

    Raises:
        WeightsError: the weights are those of another network.
    """
    network = getattr(torchvision.models, name)(weights=None)
    try:
        network.load_state_dict(pretrained.state)
    except RuntimeError as error:
        raise WeightsError(f"{pretrained.origin} do not fit {name}: {reason(error)}") from error
    return network


class Start:
    """What the networks of a trainer start from; looked up once per network.

    Args:
        file: weights saved under torchvision's names; empty takes torchvision's.
    """

    def __init__(self, file: str = "") -> None:
        self.file = file
        self._found: dict[str, Pretrained] = {}

    def __call__(self, network: str, imagenet: bool) -> Pretrained:
        """Weights for a network of torchvision, or none if ``imagenet`` is false."""
        if not imagenet:
            return Pretrained(None, "random weights")
        if network not in self._found:
            self._found[network] = imagenet_weights(network, self.file)
        return self._found[network]
