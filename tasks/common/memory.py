"""Errors that mean that there is too little memory, whoever raises them."""

from __future__ import annotations

import torch

_CPU = "DefaultCPUAllocator"
"""Torch has a kind of error for the memory of graphics cards, and only words for that of the machine."""


def lacks_memory(error: BaseException | None) -> bool:
    """Whether too little memory is behind an error, such as MONAI's "applying transform ..."."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and _CPU in str(error):
            return True
        error = error.__cause__
    return False
