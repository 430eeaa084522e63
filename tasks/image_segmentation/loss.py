"""Dice and cross entropy of every image, weighted."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional

LOSSES = ("dice", "cross_entropy", "dice_cross_entropy")


class WeightedLoss(nn.Module):
    """Loss whose images count with a weight each, as pseudo-labels do.

    Args:
        kind: one of :data:`LOSSES`; the last is both, one to one.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, reduction="none")

    def forward(self, logits: torch.Tensor, targets: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean over the batch of weight times loss.

        Args:
            logits: ``[B, classes, X, Y]``.
            targets: labels ``[B, 1, X, Y]`` with class values, and weights ``(B,)``.
        """
        label, weight = targets
        loss = torch.zeros_like(weight)
        if "dice" in self.kind:
            loss = loss + self.dice(logits, label).flatten(1).mean(1)
        if "cross_entropy" in self.kind:
            loss = loss + functional.cross_entropy(logits, label[:, 0].long(), reduction="none").flatten(1).mean(1)
        return (weight * loss).mean()
