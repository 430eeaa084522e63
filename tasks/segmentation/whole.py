"""Any segmentation network, scored by whole passes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from tasks.learning.dropout import DROPOUT_LAYERS, stochastic

logger = logging.getLogger(__name__)

_VALUES_AT_ONCE = 2**22
"""Stochastic passes run as batches of at most so many voxels."""


class WholeNetwork(nn.Module):
    """Makes a network of MONAI or torch usable: trained, scored, continued and served like ours.

    Scores of dropout come from passes through the whole network, so they cost more than those of a network that is
    split before its only dropout layer, and they need dropout layers; without any, these scores are 0.

    Args:
        module: ``[B, C, *S]`` -> logits ``[B, classes, *S]``. Of deep supervision (a list, or
            ``[B, heads, classes, *S]`` in training) the first, finest one is used.
        embed: dotted name of the layer whose output, averaged over space, is the embedding of an image.
        divisor: every side of an input must be a multiple of this, in voxels.

    Raises:
        ValueError: there is no such layer, or a divisor below 1.
    """

    def __init__(self, module: nn.Module, embed: str, divisor: int) -> None:
        super().__init__()
        layers = dict(module.named_modules())
        if embed not in layers or not embed:
            raise ValueError(f"embed must be the name of a layer of {type(module).__name__}, got {embed!r}")
        if divisor < 1:
            raise ValueError(f"divisor must be at least 1, got {divisor}")
        self.module = module
        self.embed = embed
        self.divisor = divisor
        if not any(isinstance(layer, DROPOUT_LAYERS) for layer in layers.values()):
            logger.warning("%s has no dropout layer: the scores that need one are 0", type(module).__name__)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, classes, *S]``."""
        found = self.module(x)
        if isinstance(found, (list, tuple)):
            return torch.as_tensor(found[0])
        return found[:, 0] if found.ndim > x.ndim else found

    def features(self, x: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The images and their logits, and the embedding ``[B, d]``."""
        kept: list[torch.Tensor] = []

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, (list, tuple)) else output)

        hook = self.module.get_submodule(self.embed).register_forward_hook(keep)
        try:
            logits = self(x)
        finally:
            hook.remove()
        if not kept:
            raise ValueError(f"layer {self.embed!r} takes no part in a pass through {type(self.module).__name__}")
        deepest = kept[-1]
        return (x, logits), deepest.flatten(2).mean(2) if deepest.ndim > 2 else deepest

    def head(self, features: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Logits of the deterministic pass."""
        return features[1]

    def sample_head(
        self, features: tuple[torch.Tensor, torch.Tensor], passes: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Stochastic passes over the first image: logits ``[passes, classes, *S]``."""
        image = features[0][:1]
        at_once = max(1, _VALUES_AT_ONCE // image[0, 0].numel())
        seed = int(torch.randint(2**62, (), generator=generator))
        with stochastic(self, seed, image.device):
            return torch.cat(
                [
                    self(image.expand(min(at_once, passes - start), *image.shape[1:]))
                    for start in range(0, passes, at_once)
                ]
            )
