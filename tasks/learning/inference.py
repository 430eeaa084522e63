"""What all inferers share: the current model of a name, loaded when a newer one is published."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

from tasks.learning.checkpoints import Checkpoint, ModelRegistry, read_checkpoint

logger = logging.getLogger(__name__)

RESULT_FOLDER = "result_folder"
"""Key of a request: folder for the file of the result; the system's temporary one if it is missing."""
_LOADED = "loaded_model"


class Committee(torch.nn.Module):
    """Mean probabilities of several networks; of one network, its probabilities.

    Args:
        networks: members, all with the same classes.
    """

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, C, *S]`` -> mean probabilities ``[B, classes, ...]``."""
        return torch.stack([member(x).softmax(1) for member in self.members]).mean(0)


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint ready for use."""

    checkpoint: Checkpoint
    network: Committee
    preprocessing: Compose


class CurrentModelInferTask(BasicInferTask):
    """Infers with the current model of a name; a newly published one is used from the next request on.

    Args:
        name: name of the published model.
        description: one line for people.
        registry: finds the current checkpoint.
        type: kind of result.
        labels: label name -> value.
        dimension: of the images.
    """

    def __init__(
        self,
        name: str,
        description: str,
        registry: ModelRegistry,
        type: InferType,
        labels: dict[str, int],
        dimension: int,
    ) -> None:
        super().__init__(
            path=None, network=None, type=type, labels=labels, dimension=dimension, description=description
        )
        self.name = name
        self.registry = registry
        self._loaded: tuple[Path, str, LoadedModel] | None = None

    @abstractmethod
    def preprocessing(self, checkpoint: Checkpoint) -> Compose:
        """Preprocessing of images as the checkpoint was trained with."""

    def is_valid(self) -> bool:
        """Whether a model has been published."""
        return self.registry.path(self.name) is not None

    def get_path(self, validate: bool = True) -> str | None:
        """File of the current checkpoint."""
        path = self.registry.path(self.name)
        return str(path) if path else None

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """The checkpoint's preprocessing."""
        return [self.current(data).preprocessing]

    def _get_network(self, device: str, data: Any) -> Committee:
        return self.current(data).network

    def current(self, data: dict[str, Any] | None) -> LoadedModel:
        """The current model; once a request has begun, the one it began with."""
        request = {} if data is None else data
        if _LOADED in request:
            loaded: LoadedModel = request[_LOADED]
            return loaded
        path = self.registry.path(self.name)
        if path is None:
            raise ValueError(f"there is no trained model {self.name!r} yet")
        device = str(request.get("device", "cpu"))
        if self._loaded is None or self._loaded[:2] != (path, device):
            checkpoint = read_checkpoint(path, self.registry.architecture)
            network = Committee(checkpoint.networks(device)).eval()
            self._loaded = (path, device, LoadedModel(checkpoint, network, self.preprocessing(checkpoint)))
            logger.info("loaded %s", path.name)
        request[_LOADED] = self._loaded[2]
        return self._loaded[2]
