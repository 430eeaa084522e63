"""2D classification: the next image by committee disagreement (Hao et al. 2021), flip consistency and others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask

from apps.routes import grading
from apps.server.app import ActiveLearningApp
from apps.server.options import ImageOptions
from tasks.classification.datastore import GradedFolder
from tasks.classification.inference import ClassifierInferTask
from tasks.classification.models import CLASSIFIER, COMMITTEE, classification_models
from tasks.classification.presets import PRESETS
from tasks.classification.scoring import COMMITTEE_SCORES, SCORES, ScoreImages
from tasks.classification.training import ClassifierTrainTask
from tasks.learning.scoring import RECORDS


class ImageClassification(ActiveLearningApp, MONAILabelApp):
    """Wires the classification tasks and the grading page to the server."""

    default_strategy = "entropy_kl"
    default_labels = ("no_tumor", "tumor")
    first_label_value = 0
    fewest_labels = 2
    scores = SCORES + COMMITTEE_SCORES
    embeddings = True
    local_only = True
    options_type = ImageOptions
    options: ImageOptions
    presets = PRESETS
    models = staticmethod(classification_models)
    routers = (grading.router,)

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(
            app_dir,
            studies,
            conf,
            name="Image classification",
            description="Active learning for grading images: the most useful image next",
            version="1.0",
        )

    def open_datastore(self, **options: Any) -> GradedFolder:
        """A folder whose labels are class names."""
        return GradedFolder(self.studies, classes=self.options.labels, **options)

    def init_trainers(self) -> dict[str, TrainTask]:
        """One model, and a committee with one member per learning rate."""

        def trainer(name: str, description: str, committee: bool) -> ClassifierTrainTask:
            return ClassifierTrainTask(
                name,
                f"{description}, preset {self.preset}",
                self.registry,
                PRESETS[self.preset],
                self.options.labels,
                self.options.seed,
                committee,
                self.options.weights,
                self.grouping,
            )

        return {
            COMMITTEE: trainer(COMMITTEE, "Committee of classifiers with different learning rates", True),
            CLASSIFIER: trainer(CLASSIFIER, "One classifier", False),
        }

    def init_infers(self) -> dict[str, InferTask]:
        """The mean of the committee, and the single model."""
        common = (self.registry, self.options.labels)
        return {
            COMMITTEE: ClassifierInferTask(COMMITTEE, "Mean of the committee", *common),
            CLASSIFIER: ClassifierInferTask(CLASSIFIER, "The single classifier", *common),
        }

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """All scores in one pass."""
        return {RECORDS: ScoreImages(self.registry, self.store, seed=self.options.seed)}

    def loop_trainers(self) -> Sequence[str]:
        """The committee where the default strategy asks for it; else one model, for a third of the time."""
        return (COMMITTEE,) if self.query_strategies[0].score in COMMITTEE_SCORES else (CLASSIFIER,)
