"""Published checkpoints: content-addressed files, made current by one row in the store."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from tasks.common.files import fingerprint
from tasks.store.store import Store
from tasks.store.tables import Model, Training

logger = logging.getLogger(__name__)

_KEPT = 3
"""Checkpoints of a name."""
_DIGITS = 16
_ABANDONED_SECONDS = 3600.0
_DAMAGED = ("is damaged", "cannot be")
"""How problems begin that are nobody's wish."""
_ROWS = 50
"""Newest rows of a name that are looked at."""


class ModelError(RuntimeError):
    """A model that was published cannot be used: the fault is the server's, not that of who asks for it."""


class Architecture(Protocol):
    """Everything needed to build a network again from a checkpoint."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values; the class called with them gives the same architecture."""

    def build(self) -> torch.nn.Module:
        """The network with random weights."""

    @property
    def lacks(self) -> str:
        """What is missing to build it, for people; empty if nothing is."""


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
    a kill at any point leaves the old model current and at most a file that nothing points to. A checkpoint that is
    gone, damaged, or was trained for other labels does not serve; the next older good one of its name does.

    Args:
        folder: where checkpoint files lie.
        store: says which checkpoint is current.
        architecture: class of the networks' architecture.
        names: of the models that a scoring pass may use.
        together: a scoring pass uses the current model of every name, the first of which it cannot do without;
            else it uses one of them, the newest.
        labels: the declared names; a checkpoint serves if its own are the first of them. None takes any.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        architecture: Callable[..., Architecture],
        names: Sequence[str],
        together: bool,
        labels: Sequence[str] | None = None,
    ) -> None:
        self.folder = folder
        self.store = store
        self.architecture = architecture
        self.names = tuple(names)
        self.together = together
        self.labels = None if labels is None else tuple(labels)
        self.shown_revision: int | None = None
        """Label revision that a process knows whose datastore does not follow the studies; None if it does."""
        self._checks: dict[str, tuple[str, str]] = {}
        self._reported: set[str] = set()

    def publish(
        self,
        name: str,
        checkpoint: Checkpoint,
        labelled_count: int,
        metrics: Mapping[str, Any],
        training: Training | None = None,
    ) -> str:
        """Write a checkpoint and make it the current one of its name; one that is current already stays as it is.

        Args:
            name: of the model.
            checkpoint: what is published.
            labelled_count: labels that it was trained on.
            metrics: anything worth keeping with it.
            training: how it was made; it is noted also if nothing new is published.

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
        version = hashlib.sha256(content).hexdigest()[:_DIGITS]
        if training is not None:
            training.model_version = version
        newest, current = self.store.current_model(name), self.current(name)
        if current is None or current.version != version:
            self._write(self.folder / f"{name}-{version}.pt", content)
        if newest is not None and newest.version == version:
            logger.info("%s %s is unchanged: nothing new is published", name, version)
            if training is not None:
                self.store.add_training(training)
            return version
        self.store.add_model(name, version, f"{name}-{version}.pt", labelled_count, metrics, training)
        logger.info("published %s %s, trained on %d labelled images", name, version, labelled_count)
        self._prune(name)
        return version

    def _write(self, path: Path, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def current(self, name: str) -> Model | None:
        """The newest good checkpoint of a name, None if there is none."""
        return next((row for row in self._kept(name) if not self._problem(row)), None)

    def problems(self) -> dict[str, str]:
        """File name -> why it does not serve, for the newest checkpoint of every name where an older one must."""
        return {path: problem for name in self.names for path, problem in self.problems_of(name).items()}

    def problems_of(self, name: str) -> dict[str, str]:
        """The same for the checkpoints of one name that are newer than the one that serves."""
        found = {}
        for row in self._kept(name):
            problem = self._problem(row)
            if not problem:
                break
            found[row.path] = problem
        return found

    def damaged(self, name: str) -> dict[str, str]:
        """The same without those that were deleted or trained for other labels."""
        problems = self.problems_of(name).items()
        return {path: problem for path, problem in problems if problem.startswith(_DAMAGED)}

    def give_up(self, row: Model, problem: str) -> None:
        """Let a checkpoint serve no longer, until its file changes.

        Args:
            row: names it.
            problem: why it "cannot be" used, as the rest of a sentence that begins with its name.
        """
        self._checks[row.path] = (fingerprint([self.folder / row.path]), problem)
        self._problem(row)  # says so

    def path(self, name: str) -> Path | None:
        """File of the current checkpoint of a name, None if there is none."""
        row = self.current(name)
        return self.folder / row.path if row else None

    def load(self, name: str) -> Checkpoint | None:
        """The current checkpoint of a name, None if there is none."""
        path = self.path(name)
        return read_checkpoint(path, self.architecture) if path else None

    def scoring_models(self) -> list[Model]:
        """What a scoring pass would use now; empty if there is nothing to score with.

        Models that are used together must know the same labels: one that was trained before the first of them saw its
        last labels is left out, and the strategies that need it serve a cold start until it is trained again.
        """
        rows = [row for name in self.names if (row := self.current(name)) is not None]
        if not self.together:
            return sorted(rows, key=lambda row: row.id)[-1:]
        if not rows or rows[0].name != self.names[0]:
            return []
        return [rows[0], *(row for row in rows[1:] if self._revision(row) >= self._revision(rows[0]))]

    def outdated(self) -> list[str]:
        """Names of models that a scoring pass leaves out because they know fewer labels than the first one."""
        used = {row.name for row in self.scoring_models()}
        return [name for name in self.names if self.together and used and name not in used and self.current(name)]

    def scoring_version(self) -> str:
        """Version of what a scoring pass would use now, empty if there is nothing to score with."""
        return "+".join(row.version for row in self.scoring_models())

    def read(self, row: Model) -> Checkpoint:
        """The checkpoint of a row."""
        return read_checkpoint(self.folder / row.path, self.architecture)

    def tidy(self) -> None:
        """Remove what a killed publishing left, and all but the newest checkpoints that somebody deleted by hand."""
        for part in self.folder.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # it was published meanwhile
                if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                    part.unlink()
        for name in self.names:
            deleted = sorted(self.folder.glob(f"{name}-*.deleted"), key=lambda file: file.name.split(".")[-2:])
            for file in deleted[:-_KEPT]:
                logger.info("removed %s", file.name)
                file.unlink(missing_ok=True)

    def label_revision(self) -> int:
        """The label revision that a training that begins now sees at least."""
        return self.store.label_revision() if self.shown_revision is None else self.shown_revision

    def known_names(self, version: str) -> int | None:
        """How many of the declared names the model of a version knows, None if that was not noted."""
        versions = version.split("+")
        rows = [row for name in self.names for row in self.store.models(name, _ROWS) if row.version in versions]
        return next((row.metrics["labels"] for row in rows if "labels" in row.metrics), None)

    def _kept(self, name: str) -> list[Model]:
        """The newest row of each of the checkpoints that are kept, the newest first."""
        found: dict[str, Model] = {}
        for row in self.store.models(name, _ROWS):
            if row.path not in found and len(found) == _KEPT:
                break
            found.setdefault(row.path, row)
        return list(found.values())

    def _revision(self, row: Model) -> int:
        """The label revision that a model has seen."""
        return self.store.trained_revision(row.name, row.version) or 0

    def _problem(self, row: Model) -> str:
        """Why a checkpoint cannot serve, empty if it can; its content is looked at once, and again when it changes."""
        path = self.folder / row.path
        print_ = fingerprint([path])
        known = self._checks.get(row.path)
        if known is None or known[0] != print_:
            known = self._checks[row.path] = (print_, self._damage(path, row.version))
        if known[1] and f"{row.path} {known[1]}" not in self._reported:
            self._reported.add(f"{row.path} {known[1]}")
            logger.error("checkpoint %s %s: the next older one serves if there is one", row.path, known[1])
        return known[1]

    def _damage(self, path: Path, version: str) -> str:
        """What is wrong with a checkpoint file, empty if nothing is."""
        try:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except FileNotFoundError:
            return "is gone"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        if digest.hexdigest()[:_DIGITS] != version:
            return "is damaged: its content is not what was published"
        if self.labels is None:
            return ""
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        own = list(content["labels"])
        if own != list(self.labels[: len(own)]):
            return f"was trained for the labels {', '.join(own)}; declared are {', '.join(self.labels)}"
        lacks = self.architecture(**content["architecture"]).lacks
        return f"cannot be used: {lacks}" if lacks else ""

    def _prune(self, name: str) -> None:
        """Remove checkpoints that no kept row names."""
        kept = {row.path for other in {*self.names, name} for row in self._kept(other)}
        for path in {row.path for row in self.store.models(name)} - kept:
            (self.folder / path).unlink(missing_ok=True)
        self.tidy()


def read_checkpoint(path: Path, architecture: Callable[..., Architecture]) -> Checkpoint:
    """Read a checkpoint file; only tensors and plain values are accepted, never code."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return Checkpoint(
        architecture=architecture(**content["architecture"]),
        members=content["members"],
        preprocessing=content["preprocessing"],
        labels=content["labels"],
    )
