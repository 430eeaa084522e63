"""One kind of work: what there is to label, what learns it, what scores it, and who plays the annotator.

Apps, the simulation and the tools read :mod:`tasks.kinds`; adding a kind of work is a class like these and an app.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask

from strategies.catalogue import QueryStrategy
from tasks.datastore.folder import StudiesFolder
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.groups import Grouping
from tasks.oracle import Oracle
from tasks.rounds.rounds import Rounds
from tasks.store.store import Store


@dataclass(frozen=True)
class Bench:
    """What the tasks of a running app work with.

    Attributes:
        options: of the app, as ``--conf`` gave them.
        folder: where models, store and whatever the app keeps lie.
        store: the database.
        registry: the models' checkpoints.
        rounds: rounds and leases.
        grouping: patients and copies that a split keeps together.
        preset: name of the hyper-parameters.
        strategy: the default query strategy.
    """

    options: Any
    folder: Path
    store: Store
    registry: ModelRegistry
    rounds: Rounds
    grouping: Grouping
    preset: str
    strategy: QueryStrategy


class Task(ABC):
    """A kind of work; an instance belongs to a running app.

    Attributes:
        name: folder of its app in ``apps``.
        title: for people.
        description: one sentence for people.
        default_strategy: query strategy, unless an option says another.
        default_labels: names, unless an option says others.
        first_label_value: value of the first label in label files; 0 where there is no background.
        fewest_labels: that make sense.
        scores: names of the acquisition scores that its records may have.
        committee_scores: those of them that need several models.
        embeddings: whether its records have embeddings.
        pseudo_labels: whether it can let the model label images.
        local_only: whether the studies must be a folder.
        presets: name -> hyper-parameters.
        oracle: plays the annotator in simulations.
        samples: which generated studies it takes.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    default_strategy: ClassVar[str] = "random"
    default_labels: ClassVar[tuple[str, ...]]
    first_label_value: ClassVar[int] = 1
    fewest_labels: ClassVar[int] = 1
    scores: ClassVar[tuple[str, ...]]
    committee_scores: ClassVar[tuple[str, ...]] = ()
    embeddings: ClassVar[bool] = True
    pseudo_labels: ClassVar[bool] = False
    local_only: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Any]]
    oracle: ClassVar[Oracle]
    samples: ClassVar[Literal["volumes", "slices"]]

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @staticmethod
    @abstractmethod
    def models(folder: Path, store: Store, labels: Sequence[str]) -> ModelRegistry:
        """The checkpoints.

        Args:
            folder: where they lie.
            store: the database.
            labels: names that a checkpoint must have been trained for.
        """

    @abstractmethod
    def datastore(self, studies: str, **options: Any) -> StudiesFolder:
        """Images and labels.

        Args:
            studies: folder or archive.
            **options: of :class:`tasks.datastore.folder.StudiesFolder`.
        """

    @abstractmethod
    def trainers(self) -> dict[str, TrainTask]:
        """Name -> trainer."""

    @abstractmethod
    def inferers(self) -> dict[str, InferTask]:
        """Name -> inference."""

    @abstractmethod
    def scorers(self) -> dict[str, ScoringMethod]:
        """Name -> scoring method."""

    @abstractmethod
    def loop_trainers(self) -> Sequence[str]:
        """Names of the trainers that the loop runs, in order."""

    @property
    def _needs_committee(self) -> bool:
        """Whether the default strategy asks for several models, which cost as much as they are."""
        return self.bench.strategy.score in self.committee_scores

    def settle(self, datastore: StudiesFolder) -> None:  # noqa: B027  # most kinds keep nothing there
        """Bring the datastore in line with the store where something is kept there; must cost little."""

    def unfinished_scoring(self) -> bool:
        """Whether the scoring job has left something undone although all images have their record."""
        return False
