"""Weights of one's own to start trainings from: read without running what a file may contain, and matched by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.common.files import reason
from tasks.learning.pretrained import WeightsError

logger = logging.getLogger(__name__)

_NESTED = ("state_dict", "model_state_dict", "model", "network", "net")
"""Where files keep their weights, if not at the top."""
_PREFIXES = ("module.", "model.", "network.", "net.")
"""What wrappers put before names."""
_SHOWN = 5


@dataclass(frozen=True)
class Matched:
    """What became of the weights of a file.

    Attributes:
        loaded: names in the network that have weights of the file.
        missing: names in the network that the file has no weights for; they stay random.
        other_shape: names in both whose shapes differ; they stay random.
        unused: names in the file that the network does not have.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    other_shape: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.other_shape)
        parts = [f"{len(self.loaded)} of {total} tensors"]
        for words, names in (
            ("not in the file", self.missing),
            ("of another shape", self.other_shape),
            ("in the file and not in the network", self.unused),
        ):
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                parts.append(f"{words}: {', '.join(names[:_SHOWN])}{more}")
        return "; ".join(parts)


def read_weights(file: str | Path) -> dict[str, torch.Tensor]:
    """The weights in a file of torch: a state dictionary, one under a usual key, or a checkpoint of ours.

    Raises:
        WeightsError: it is missing, cannot be read without running code, or holds no weights.
    """
    if not Path(file).is_file():
        raise WeightsError(f"there is no file {file}")
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and operating system errors
        raise WeightsError(f"{file} cannot be read as weights: {reason(error)}") from error
    if isinstance(content, Mapping) and isinstance(content.get("members"), (list, tuple)) and content["members"]:
        content = content["members"][0]
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{file} holds no weights by name")
    found = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise WeightsError(f"{file} holds no weights by name")
    return found


def load_matching(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Matched:
    """Copy the weights into a network whose names and shapes are the same, whatever wrappers are around either.

    Args:
        network: changed in place.
        weights: of :func:`read_weights`.
    """
    state = network.state_dict()
    given = {_plain(name): (name, value) for name, value in weights.items()}
    loaded, missing, other_shape, used = [], [], [], set()
    for name, value in state.items():
        file_name, found = given.get(_plain(name), ("", None))
        if found is None:
            missing.append(name)
            continue
        used.add(file_name)
        if found.shape != value.shape:
            other_shape.append(f"{name} ({_sides(found)}, here {_sides(value)})")
            continue
        state[name] = found.to(value.dtype)
        loaded.append(name)
    network.load_state_dict(state)
    unused = tuple(name for name in weights if name not in used)
    return Matched(tuple(loaded), tuple(missing), tuple(other_shape), unused)


def _plain(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _sides(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
