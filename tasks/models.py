"""Published checkpoints: content-addressed files, made current by one row in the store."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from strategies.store import Store
from tasks.networks import Architecture, UNet3d

logger = logging.getLogger(__name__)

SINGLE = "segmentation"
BOOTSTRAP = "segmentation_bootstrap"
_KEPT = 3


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        architecture: how to build the network.
        members: one state dictionary per model, one for a single model.
        preprocessing: ``spacing``, ``roi_size`` and ``overlap`` to use it with.
        labels: foreground label names, value 1 first.
    """

    architecture: Architecture
    members: Sequence[Mapping[str, torch.Tensor]]
    preprocessing: Mapping[str, Any]
    labels: Sequence[str]

    def networks(self, device: torch.device | str = "cpu") -> list[UNet3d]:
        """The members as networks in evaluation mode."""
        networks = []
        for state in self.members:
            network = UNet3d(self.architecture)
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
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store

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
        return read_checkpoint(path) if path else None

    def scoring_version(self) -> str:
        """Version of what a scoring pass would use now: the single model and, if there is one, the committee."""
        rows = [self.store.current_model(name) for name in (SINGLE, BOOTSTRAP)]
        if rows[0] is None:
            return ""
        return "+".join(row.version for row in rows if row is not None)

    def _prune(self, name: str) -> None:
        for row in self.store.models(name)[_KEPT:]:
            (self.folder / row.path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file; only tensors and plain values are accepted, never code."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return Checkpoint(
        architecture=Architecture(**content["architecture"]),
        members=content["members"],
        preprocessing=content["preprocessing"],
        labels=content["labels"],
    )
