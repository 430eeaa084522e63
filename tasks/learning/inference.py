"""What all inferers share: the current model of a name, loaded when a newer one is published."""

from __future__ import annotations

import logging
import pickle
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.transforms import Compose
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

from tasks.common.files import reason
from tasks.common.memory import lacks_memory
from tasks.learning.checkpoints import Checkpoint, ModelError, ModelRegistry
from tasks.store.tables import Model

logger = logging.getLogger(__name__)

RESULT_FOLDER = "result_folder"
"""Key of a request: folder for the file of the result; the system's temporary one if it is missing."""
_LOADED = "loaded_model"
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)
"""What reading a file that is no checkpoint of ours, or only half of one, ends with."""


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
        self._loaded: tuple[str, str, LoadedModel] | None = None

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
        """The current model; once a request has begun, the one it began with.

        Raises:
            ValueError: none has been published for these labels, or all were deleted.
            ModelError: none can be used, and one at least is damaged.
        """
        request = {} if data is None else data
        if _LOADED in request:
            loaded: LoadedModel = request[_LOADED]
            return loaded
        device = str(request.get("device", "cpu"))
        while (row := self.registry.current(self.name)) is not None:
            if self._loaded is None or self._loaded[:2] != (row.path, device):
                try:
                    self._loaded = (row.path, device, self._load(row, device))
                except _UNREADABLE as error:
                    if lacks_memory(error):
                        raise
                    self.registry.give_up(row, f"cannot be used: {_words(error)}")
                    continue
                logger.info("loaded %s", row.path)
            request[_LOADED] = self._loaded[2]
            return self._loaded[2]
        if damaged := self.registry.damaged(self.name):
            words = "; ".join(f"{path} {problem}" for path, problem in damaged.items())
            raise ModelError(f"no model {self.name!r} can be used: {words}")
        raise ValueError(f"there is no trained model {self.name!r} yet")

    def _load(self, row: Model, device: str) -> LoadedModel:
        checkpoint = self.registry.read(row)
        network = Committee(checkpoint.networks(device)).eval()
        return LoadedModel(checkpoint, network, self.preprocessing(checkpoint))


def _words(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else reason(error)
