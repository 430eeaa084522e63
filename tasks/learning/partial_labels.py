"""Labels that do not tell of all classes, because they were given before a label name was added.

Where the label does not know a class, what it calls background may be of that class: the probabilities of both are
added up before the loss (marginal loss, Shi et al. 2021, "Marginal loss and exclusion loss for partially supervised
multi-organ segmentation", eq. 3). Where there is no background, the unknown classes are left out of the softmax. In
both cases such a label neither teaches nor punishes the new class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_NEVER = -1e4
"""A logit whose probability is 0 in every floating point format."""


def known_logits(logits: torch.Tensor, known: torch.Tensor, background: bool) -> torch.Tensor:
    """Logits as a label sees them that knows the first classes only.

    Args:
        logits: ``[B, classes, *S]``.
        known: ``(B,)`` classes that each label tells of, the background included where there is one.
        background: whether class 0 is the background, which then takes the probability of the unknown classes.

    Returns:
        ``[B, classes, *S]``; the same tensor where every label tells of all classes.
    """
    shape = [-1, *([1] * (logits.ndim - 2))]
    index = torch.arange(logits.shape[1], device=logits.device).view(1, *shape)
    unknown = index >= known.to(logits.device).view(-1, 1, *shape[1:])
    if not unknown.any():
        return logits
    logits = logits.float()
    if background:
        rest = logits.masked_fill(~unknown & (index > 0), -torch.inf).logsumexp(1, keepdim=True)
        logits = torch.where(index == 0, rest, logits)
    return logits.masked_fill(unknown, _NEVER)


class KnownClassesLoss(nn.Module):
    """A loss over the classes that each label tells of.

    Args:
        loss: of logits and labels.
        background: see :func:`known_logits`.
    """

    def __init__(self, loss: nn.Module, background: bool) -> None:
        super().__init__()
        self.loss = loss
        self.background = background

    def forward(self, logits: torch.Tensor, targets: tuple[Any, torch.Tensor]) -> torch.Tensor:
        """The loss.

        Args:
            logits: ``[B, classes, *S]``.
            targets: what the loss takes, and the classes that each label tells of, ``(B,)``.
        """
        labels, known = targets
        loss: torch.Tensor = self.loss(known_logits(logits, known, self.background), labels)
        return loss
