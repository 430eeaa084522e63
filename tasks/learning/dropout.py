"""Stochastic passes of a network whose dropout is layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

DROPOUT_LAYERS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)


@contextmanager
def stochastic(network: nn.Module, seed: int, device: torch.device) -> Iterator[None]:
    """Let the dropout layers drop, with masks decided by ``seed``; all other layers stay as they are.

    Args:
        network: in evaluation mode.
        seed: of the masks; the random state of the caller is kept.
        device: where the network is.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, DROPOUT_LAYERS)]
    before = [layer.training for layer in layers]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer, training in zip(layers, before, strict=True):
                layer.train(training)
