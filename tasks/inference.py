"""The inferers ``segmentation`` and ``segmentation_bootstrap`` (mean of the committee)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, Invertd, SqueezeDimd, Transform
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

from tasks.inferer import VolumeInferer
from tasks.models import Checkpoint, ModelRegistry, read_checkpoint
from tasks.presets import voxels
from tasks.volumes import preprocessing

logger = logging.getLogger(__name__)


class Committee(torch.nn.Module):
    """Mean probabilities of several networks; of one network, its probabilities.

    Args:
        networks: members, all with the same classes.
    """

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, C, X, Y, Z]`` -> mean probabilities ``[B, classes, X, Y, Z]``."""
        return torch.stack([member(x).softmax(1) for member in self.members]).mean(0)


class VolumeInferTask(BasicInferTask):
    """Segments a volume with the current model of a name; the result has the image's own geometry.

    Args:
        name: name of the published model.
        description: one line for people.
        registry: finds the current checkpoint; a newly published one is used from the next request on.
        labels: foreground label names, value 1 first.
        channels: channel names, empty for single files.
    """

    def __init__(
        self,
        name: str,
        description: str,
        registry: ModelRegistry,
        labels: Sequence[str],
        channels: Sequence[str] = (),
    ) -> None:
        super().__init__(
            path=None,
            network=None,
            type=InferType.SEGMENTATION,
            labels={label: value for value, label in enumerate(labels, start=1)},
            dimension=3,
            description=description,
        )
        self.name = name
        self.registry = registry
        self.channels = list(channels)
        self._loaded: tuple[Path, str, _Loaded] | None = None

    def is_valid(self) -> bool:
        """Whether a model has been published."""
        return self.registry.path(self.name) is not None

    def get_path(self, validate: bool = True) -> str | None:
        """File of the current checkpoint."""
        path = self.registry.path(self.name)
        return str(path) if path else None

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """The checkpoint's preprocessing."""
        return [self._current(data).preprocessing]

    def inferer(self, data: dict[str, Any] | None = None) -> VolumeInferer:
        """Sliding windows; the map is stitched on the CPU, so that GPU memory is bounded by the window."""
        checkpoint = self._current(data).checkpoint
        return volume_inferer(checkpoint)

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Most probable class, in the image's own orientation and spacing."""
        # Inverting needs the very transform objects that were applied: a model published in between must not matter.
        transform = self._current(data).preprocessing
        return [
            _LabelMap("pred"),
            Invertd("pred", transform=transform, orig_keys="image", nearest_interp=True, to_tensor=True),
            SqueezeDimd("pred", dim=0),
        ]

    def _get_network(self, device: str, data: Any) -> Committee:
        return self._current(data).network

    def _current(self, data: dict[str, Any] | None) -> _Loaded:
        """The current model; once a request has begun, the one it began with."""
        request = {} if data is None else data
        if _LOADED in request:
            loaded: _Loaded = request[_LOADED]
            return loaded
        path = self.registry.path(self.name)
        if path is None:
            raise ValueError(f"there is no trained model {self.name!r} yet")
        device = str(request.get("device", "cpu"))
        if self._loaded is None or self._loaded[:2] != (path, device):
            checkpoint = read_checkpoint(path)
            network = Committee(checkpoint.networks(device)).eval()
            self._loaded = (
                path,
                device,
                _Loaded(checkpoint, network, checkpoint_preprocessing(checkpoint, self.channels)),
            )
            logger.info("loaded %s", path.name)
        request[_LOADED] = self._loaded[2]
        return self._loaded[2]


_LOADED = "loaded_model"


@dataclass(frozen=True)
class _Loaded:
    checkpoint: Checkpoint
    network: Committee
    preprocessing: Compose


def volume_inferer(checkpoint: Checkpoint) -> VolumeInferer:
    """Sliding windows as the checkpoint was validated with, stitched on the CPU."""
    settings = checkpoint.preprocessing
    roi = voxels(settings["roi_size"], "roi_size")
    return VolumeInferer(roi, settings["overlap"], checkpoint.architecture.divisor, torch.device("cpu"))


def checkpoint_preprocessing(checkpoint: Checkpoint, channels: Sequence[str]) -> Compose:
    """Preprocessing of images as the checkpoint was trained with."""
    architecture = checkpoint.architecture
    spacing = checkpoint.preprocessing["spacing"]
    return preprocessing(channels, architecture.out_channels, architecture.in_channels, spacing)


class _LabelMap(Transform):
    """Probabilities ``[C, *S]`` to the most probable class ``[1, *S]``, keeping the geometry."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        data[self.key] = data[self.key].argmax(0, keepdim=True).to(torch.uint8)
        return data
