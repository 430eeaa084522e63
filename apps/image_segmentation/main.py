"""2D segmentation: Monte Carlo dropout and pseudo-labels (Jethaliya 2022), flip consistency (PCDAL 2023) and others."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask

from apps.routes.pseudo_labels import router as pseudo_label_router
from apps.server.app import ActiveLearningApp
from apps.server.options import ImageOptions
from strategies.catalogue import CATALOGUE
from tasks.image_segmentation.datastore import MaskFolder
from tasks.image_segmentation.inference import ImageInferTask
from tasks.image_segmentation.model_masks import PseudoLabeller, PseudoLabelShelf
from tasks.image_segmentation.networks import ImageArchitecture
from tasks.image_segmentation.presets import PRESETS
from tasks.image_segmentation.scoring import ScoreSlices
from tasks.image_segmentation.training import ImageTrainTask
from tasks.learning.scoring import RECORDS
from tasks.rounds.pseudo_labels import PseudoLabels
from tasks.segmentation.models import BOOTSTRAP, BOOTSTRAP_MEMBERS, SINGLE, segmentation_models
from tasks.segmentation.records import COMMITTEE_SCORES, SCORES

logger = logging.getLogger(__name__)


class ImageSegmentation(ActiveLearningApp, MONAILabelApp):
    """Wires the tasks for images and the pseudo-labels to the server."""

    default_strategy = "ceal"
    default_labels = ("lesion",)
    scores = SCORES + COMMITTEE_SCORES
    embeddings = True
    pseudo_labels = True
    local_only = True
    options_type = ImageOptions
    options: ImageOptions
    presets = PRESETS
    models = staticmethod(partial(segmentation_models, architecture=ImageArchitecture))
    routers = (pseudo_label_router,)

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(
            app_dir,
            studies,
            conf,
            name="Image segmentation",
            description="Active learning for 2D segmentation: the most useful image next",
            version="1.0",
        )

    def open_datastore(self, **options: Any) -> MaskFolder:
        """A folder whose labels are masks."""
        return MaskFolder(self.studies, names=self.options.labels, **options)

    def init_trainers(self) -> dict[str, TrainTask]:
        """One model, and a committee on bootstrap samples."""

        def trainer(name: str, description: str, members: int) -> ImageTrainTask:
            return ImageTrainTask(
                name,
                f"{description}, preset {self.preset}",
                self.registry,
                PRESETS[self.preset],
                self.options.labels,
                self.options.seed,
                members,
                self.options.weights,
                self.grouping,
            )

        return {
            SINGLE: trainer(SINGLE, "U-Net", 1),
            BOOTSTRAP: trainer(BOOTSTRAP, "Committee of U-Nets", BOOTSTRAP_MEMBERS),
        }

    def init_infers(self) -> dict[str, InferTask]:
        """The current model, and the mean of the committee."""
        common = (self.registry, self.options.labels)
        return {
            SINGLE: ImageInferTask(SINGLE, "U-Net trained on the labels so far", *common),
            BOOTSTRAP: ImageInferTask(BOOTSTRAP, "Mean of the bootstrap committee", *common),
        }

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """All scores in one pass, then the pseudo-labels if the app's strategy wants them."""
        strategy = self.query_strategies[0]
        labeller = PseudoLabeller(self.rounds, strategy, self.registry, self._masks) if strategy.pseudo_labels else None
        return {RECORDS: ScoreSlices(self.registry, self.store, labeller, seed=self.options.seed)}

    def loop_trainers(self) -> Sequence[str]:
        """The committee is trained only where the default strategy asks for it: it costs as much as four models."""
        return (SINGLE, BOOTSTRAP) if self.query_strategies[0].score in COMMITTEE_SCORES else (SINGLE,)

    @property
    def _masks(self) -> Path:
        return self.folder / "pseudo_labels"

    @cached_property
    def shelf(self) -> PseudoLabelShelf:
        """The pseudo-labels as the datastore shows them."""
        labels = PseudoLabels(self.store, next(row.name for row in CATALOGUE.values() if row.pseudo_labels))
        return PseudoLabelShelf(labels, self._masks, self.options.labels, self.query_strategies[0].pseudo_labels)

    def settle(self) -> None:
        """Pseudo-labels: compare those that people have labelled since, show the current ones."""
        try:
            self.shelf.settle(self._datastore)
        except Exception:  # must not fail the request that brought a label; the loop tries again soon
            logger.exception("pseudo-labels could not be brought in line")

    def unfinished_scoring(self) -> bool:
        """Whether pseudo-labels of the serving model version are due."""
        return self.shelf.wanted and bool(self.shelf.labels.due())
