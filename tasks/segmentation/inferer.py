"""Sliding windows shared by training, inference and scoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, sliding_window_inference


class WindowInferer(Inferer):
    """MONAI's sliding windows, no window larger than the image needs, blended with Gaussian weights.

    MONAI's own inferer always has the same window, and pads small images to it.

    Args:
        roi_size: largest window.
        overlap: share by which neighbouring windows overlap, in [0, 1).
        divisor: window sides must be multiples of this.
        device: where stitched results are kept, default that of the input; bounds GPU memory.
    """

    def __init__(
        self, roi_size: Sequence[int], overlap: float, divisor: int, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.roi_size = tuple(roi_size)
        self.overlap = overlap
        self.divisor = divisor
        self.device = device

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        """Run ``network`` over ``inputs`` ``[1, C, *S]``; its outputs have the window's shape."""
        window = window_size(inputs.shape[2:], self.roi_size, self.divisor)
        return sliding_window_inference(
            inputs, window, 1, network, overlap=self.overlap, mode="gaussian", device=self.device
        )


def whole_image(side: int, divisor: int, device: torch.device | None = None) -> WindowInferer:
    """One window for an image whose longer side has ``side`` pixels, a multiple of ``divisor``."""
    return WindowInferer((side, side), 0.0, divisor, device)


def window_size(shape: Sequence[int], roi: Sequence[int], divisor: int) -> list[int]:
    """Sliding window for an image: the ROI, or the image rounded up to what the network divides by, if smaller.

    Args:
        shape: spatial shape of the image.
        roi: largest window.
        divisor: sides must be multiples of this.
    """
    return [min(largest, -(-side // divisor) * divisor) for side, largest in zip(shape, roi, strict=True)]
