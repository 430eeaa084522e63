"""Images to segment."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask

from strategies.catalogue import CATALOGUE
from tasks.datastore.folder import StudiesFolder
from tasks.image_segmentation.datastore import MaskFolder
from tasks.image_segmentation.inference import ImageInferTask
from tasks.image_segmentation.model_masks import PseudoLabeller, PseudoLabelShelf
from tasks.image_segmentation.networks import ImageArchitecture
from tasks.image_segmentation.oracle import ImageOracle
from tasks.image_segmentation.presets import PRESETS
from tasks.image_segmentation.scoring import ScoreSlices
from tasks.image_segmentation.training import ImageTrainTask
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.scoring import RECORDS
from tasks.rounds.pseudo_labels import PseudoLabels
from tasks.segmentation.models import BOOTSTRAP, BOOTSTRAP_MEMBERS, SINGLE, segmentation_models
from tasks.segmentation.records import COMMITTEE_SCORES, SCORES
from tasks.store.store import Store
from tasks.task import Task

logger = logging.getLogger(__name__)


class ImageSegmentationTask(Task):
    """2D segmentation: Monte Carlo dropout and pseudo-labels (Jethaliya 2022), flip consistency (PCDAL 2023)."""

    name = "image_segmentation"
    title = "Image segmentation"
    description = "Active learning for 2D segmentation: the most useful image next"
    default_strategy = "ceal"
    default_labels = ("lesion",)
    scores = SCORES + COMMITTEE_SCORES
    committee_scores = COMMITTEE_SCORES
    pseudo_labels = True
    local_only = True
    presets = PRESETS
    oracle = ImageOracle()
    samples = "slices"

    @staticmethod
    def models(folder: Path, store: Store, labels: Sequence[str]) -> ModelRegistry:
        """One model and a committee of U-Nets."""
        return segmentation_models(folder, store, ImageArchitecture, labels)

    def datastore(self, studies: str, **options: Any) -> StudiesFolder:
        """A folder whose labels are masks."""
        return MaskFolder(studies, names=self.bench.options.labels, **options)

    def trainers(self) -> dict[str, TrainTask]:
        """One model, and a committee on bootstrap samples."""
        preset, network = PRESETS[self.bench.preset], self.bench.options.network
        preset, kind = (preset.with_network(network), network) if network else (preset, "U-Net")

        def trainer(name: str, description: str, members: int) -> ImageTrainTask:
            bench = self.bench
            return ImageTrainTask(
                name,
                f"{description}, preset {bench.preset}",
                bench.registry,
                preset,
                bench.options.labels,
                bench.options.seed,
                members,
                bench.options.weights,
                bench.grouping,
            )

        return {
            SINGLE: trainer(SINGLE, kind, 1),
            BOOTSTRAP: trainer(BOOTSTRAP, f"Committee: {BOOTSTRAP_MEMBERS} x {kind}", BOOTSTRAP_MEMBERS),
        }

    def inferers(self) -> dict[str, InferTask]:
        """The current model, and the mean of the committee."""
        common = (self.bench.registry, self.bench.options.labels)
        return {
            SINGLE: ImageInferTask(SINGLE, "Model trained on the labels so far", *common),
            BOOTSTRAP: ImageInferTask(BOOTSTRAP, "Mean of the bootstrap committee", *common),
        }

    def scorers(self) -> dict[str, ScoringMethod]:
        """All scores in one pass, then the pseudo-labels if the default strategy wants them."""
        bench, labeller = self.bench, None
        if bench.strategy.pseudo_labels:
            labeller = PseudoLabeller(bench.rounds, bench.strategy, bench.registry, self._masks)
        return {RECORDS: ScoreSlices(bench.registry, bench.store, labeller, seed=bench.options.seed)}

    def loop_trainers(self) -> Sequence[str]:
        """The committee only where the default strategy asks for it."""
        return (SINGLE, BOOTSTRAP) if self._needs_committee else (SINGLE,)

    @property
    def _masks(self) -> Path:
        return self.bench.folder / "pseudo_labels"

    @cached_property
    def shelf(self) -> PseudoLabelShelf:
        """The pseudo-labels as the datastore shows them."""
        labels = PseudoLabels(self.bench.store, next(row.name for row in CATALOGUE.values() if row.pseudo_labels))
        return PseudoLabelShelf(labels, self._masks, self.bench.options.labels, self.bench.strategy.pseudo_labels)

    def settle(self, datastore: StudiesFolder) -> None:
        """Pseudo-labels: compare those that people have labelled since, show the current ones."""
        try:
            self.shelf.settle(datastore)
        except Exception:  # must not fail the request that brought a label; the loop tries again soon
            logger.exception("pseudo-labels could not be brought in line")

    def unfinished_scoring(self) -> bool:
        """Whether pseudo-labels of the serving model version are due."""
        return self.shelf.wanted and bool(self.shelf.labels.due())
