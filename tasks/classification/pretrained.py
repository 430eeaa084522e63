"""ImageNet weights for torchvision's networks: from a file, from its download cache, from the internet, or not."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from tasks.classification.networks import ImageClassifier
from tasks.files import reason

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


def start_from(classifier: ImageClassifier, pretrained: Pretrained) -> None:
    """Copy pretrained weights into a classifier; its last layer, which has other classes, stays random.

    Raises:
        WeightsError: the weights are those of another network.
    """
    if pretrained.state is None:
        return
    name = classifier.architecture.network
    original: nn.Module = getattr(torchvision.models, name)(weights=None)
    try:
        original.load_state_dict(pretrained.state)
    except RuntimeError as error:
        raise WeightsError(f"{pretrained.origin} do not fit {name}: {reason(error)}") from error
    if name == "alexnet":
        classifier.trunk[0].load_state_dict(original.features.state_dict())  # type: ignore[union-attr, index]
        classifier.hidden.load_state_dict(original.classifier[:-1].state_dict())  # type: ignore[union-attr, index]
    else:
        original.fc = nn.Identity()
        classifier.trunk.load_state_dict(original.state_dict())
