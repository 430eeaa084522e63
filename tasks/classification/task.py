"""Images to grade."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask

from tasks.classification.datastore import GradedFolder
from tasks.classification.inference import ClassifierInferTask
from tasks.classification.models import CLASSIFIER, COMMITTEE, classification_models
from tasks.classification.oracle import ClassificationOracle
from tasks.classification.presets import PRESETS
from tasks.classification.scoring import COMMITTEE_SCORES, SCORES, ScoreImages
from tasks.classification.training import ClassifierTrainTask
from tasks.datastore.folder import StudiesFolder
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.scoring import RECORDS
from tasks.store.store import Store
from tasks.task import Task


class ClassificationTask(Task):
    """2D classification: the next image by committee disagreement (Hao et al. 2021), flip consistency and others."""

    name = "image_classification"
    title = "Image classification"
    description = "Active learning for grading images: the most useful image next"
    default_strategy = "entropy_kl"
    default_labels = ("no_tumor", "tumor")
    first_label_value = 0
    fewest_labels = 2
    scores = SCORES + COMMITTEE_SCORES
    committee_scores = COMMITTEE_SCORES
    local_only = True
    presets = PRESETS
    oracle = ClassificationOracle()
    samples = "slices"

    @staticmethod
    def models(folder: Path, store: Store, labels: Sequence[str]) -> ModelRegistry:
        """A committee and a single classifier."""
        return classification_models(folder, store, labels)

    def datastore(self, studies: str, **options: Any) -> StudiesFolder:
        """A folder whose labels are class names."""
        return GradedFolder(studies, classes=self.bench.options.labels, **options)

    def trainers(self) -> dict[str, TrainTask]:
        """One model, and a committee with one member per learning rate."""

        def trainer(name: str, description: str, committee: bool) -> ClassifierTrainTask:
            bench = self.bench
            return ClassifierTrainTask(
                name,
                f"{description}, preset {bench.preset}",
                bench.registry,
                PRESETS[bench.preset],
                bench.options.labels,
                bench.options.seed,
                committee,
                bench.options.weights,
                bench.grouping,
            )

        return {
            COMMITTEE: trainer(COMMITTEE, "Committee of classifiers with different learning rates", True),
            CLASSIFIER: trainer(CLASSIFIER, "One classifier", False),
        }

    def inferers(self) -> dict[str, InferTask]:
        """The mean of the committee, and the single model."""
        common = (self.bench.registry, self.bench.options.labels)
        return {
            COMMITTEE: ClassifierInferTask(COMMITTEE, "Mean of the committee", *common),
            CLASSIFIER: ClassifierInferTask(CLASSIFIER, "The single classifier", *common),
        }

    def scorers(self) -> dict[str, ScoringMethod]:
        """All scores in one pass."""
        return {RECORDS: ScoreImages(self.bench.registry, self.bench.store, seed=self.bench.options.seed)}

    def loop_trainers(self) -> Sequence[str]:
        """The committee where the default strategy asks for it; else one model, for a third of the time."""
        return (COMMITTEE,) if self._needs_committee else (CLASSIFIER,)
