"""Published checkpoints: content-addressed files, made current by one row in the store."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from strategies.store import Model, Store

logger = logging.getLogger(__name__)

_KEPT = 3


class Architecture(Protocol):
    """Everything needed to build a network again from a checkpoint."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values; the class called with them gives the same architecture."""

    def build(self) -> torch.nn.Module:
        """The network with random weights."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        architecture: how to build the network.
        members: one state dictionary per model, one for a single model.
        preprocessing: how images must be prepared for it.
        labels: names of the labels or classes, in the order of the network's outputs.
    """

    architecture: Any
    members: Sequence[Mapping[str, torch.Tensor]]
    preprocessing: Mapping[str, Any]
    labels: Sequence[str]

    def networks(self, device: torch.device | str = "cpu") -> list[Any]:
        """The members as networks in evaluation mode."""
        networks = []
        for state in self.members:
            network = self.architecture.build()
            network.load_state_dict(state)
            networks.append(network.to(device).eval())
        return networks


class ModelRegistry:
    """Publishes and finds checkpoints.

    A checkpoint is written under its content hash, flushed to disk, and then made current by a row in the store:
    a kill at any point leaves the old model current and at most a file that nothing points to.

    Args:
        folder: where checkpoint files lie.
        store: says which checkpoint is current.
        architecture: class of the networks' architecture.
        names: of the models that a scoring pass may use.
        together: a scoring pass uses the current model of every name, the first of which it cannot do without;
            else it uses one of them, the newest.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        architecture: Callable[..., Architecture],
        names: Sequence[str],
        together: bool,
    ) -> None:
        self.folder = folder
        self.store = store
        self.architecture = architecture
        self.names = tuple(names)
        self.together = together

    def publish(self, name: str, checkpoint: Checkpoint, labelled_count: int, metrics: Mapping[str, Any]) -> str:
        """Write a checkpoint and make it the current one of its name.

        Returns:
            Its version: the first 16 hexadecimal digits of the SHA-256 of the file.
        """
        buffer = io.BytesIO()
        torch.save(
            {
                "architecture": checkpoint.architecture.as_dict(),
                "members": [dict(state) for state in checkpoint.members],
                "preprocessing": dict(checkpoint.preprocessing),
                "labels": list(checkpoint.labels),
            },
            buffer,
        )
        content = buffer.getvalue()
        version = hashlib.sha256(content).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}-{version}.pt"
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self.store.add_model(name, version, path.name, labelled_count, metrics)
        logger.info("published %s %s, trained on %d labelled images", name, version, labelled_count)
        self._prune(name)
        return version

    def path(self, name: str) -> Path | None:
        """File of the current checkpoint of a name, None if there is none."""
        row = self.store.current_model(name)
        path = self.folder / row.path if row else None
        return path if path is not None and path.is_file() else None

    def load(self, name: str) -> Checkpoint | None:
        """The current checkpoint of a name, None if there is none."""
        path = self.path(name)
        return read_checkpoint(path, self.architecture) if path else None

    def scoring_models(self) -> list[Model]:
        """What a scoring pass would use now; empty if there is nothing to score with."""
        rows = [row for name in self.names if (row := self.store.current_model(name)) is not None]
        if self.together:
            return rows if rows and rows[0].name == self.names[0] else []
        return sorted(rows, key=lambda row: row.id)[-1:]

    def scoring_version(self) -> str:
        """Version of what a scoring pass would use now, empty if there is nothing to score with."""
        return "+".join(row.version for row in self.scoring_models())

    def _prune(self, name: str) -> None:
        for row in self.store.models(name)[_KEPT:]:
            (self.folder / row.path).unlink(missing_ok=True)


def read_checkpoint(path: Path, architecture: Callable[..., Architecture]) -> Checkpoint:
    """Read a checkpoint file; only tensors and plain values are accepted, never code."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return Checkpoint(
        architecture=architecture(**content["architecture"]),
        members=content["members"],
        preprocessing=content["preprocessing"],
        labels=content["labels"],
    )
