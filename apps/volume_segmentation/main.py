"""3D segmentation: the next volume by dropout uncertainty and its companions (Kim et al. 2024; PCDAL 3D)."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask

from apps.routes import ohif
from apps.server.app import ActiveLearningApp
from apps.server.options import VolumeOptions
from tasks.datastore.archive import ArchiveFolder
from tasks.datastore.folder import StudiesFolder
from tasks.dicom.client import Archive, is_remote
from tasks.dicom.series_filter import SeriesFilter
from tasks.geometry.volumes import check_image
from tasks.learning.scoring import RECORDS
from tasks.segmentation.models import BOOTSTRAP, BOOTSTRAP_MEMBERS, SINGLE, segmentation_models
from tasks.segmentation.records import COMMITTEE_SCORES, SCORES
from tasks.volume_segmentation.acceptance import VolumeRule
from tasks.volume_segmentation.inference import VolumeInferTask
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.scoring import ScoreVolumes
from tasks.volume_segmentation.training import VolumeTrainTask


class VolumeSegmentation(ActiveLearningApp, MONAILabelApp):
    """Wires the volumetric tasks to the server."""

    default_strategy = "dropout_variance"
    default_labels = ("tumor",)
    scores = SCORES + COMMITTEE_SCORES
    embeddings = True
    options_type = VolumeOptions
    options: VolumeOptions
    presets = PRESETS
    models = staticmethod(segmentation_models)
    routers = (ohif.router,)

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(
            app_dir,
            studies,
            conf,
            name="Volume segmentation",
            description="Active learning for 3D segmentation: the most useful volume next",
            version="1.0",
        )

    def open_datastore(self, **options: Any) -> StudiesFolder:
        """A folder, or an archive, whose labels are label maps on the grid of their volume."""
        labels, channels = self.options.labels, self.options.channels
        options["rule"] = VolumeRule(labels, self.options.allow_empty)
        options["look"] = functools.partial(check_image, channels=channels)
        if is_remote(self.studies):
            archive, wanted = Archive(self.studies, settings), SeriesFilter.parse(self.options.series)
            return ArchiveFolder(str(self.folder / "studies"), archive, wanted, labels, channels, **options)
        return StudiesFolder(self.studies, extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT, **options)

    def init_trainers(self) -> dict[str, TrainTask]:
        """One model, and a committee on bootstrap samples."""
        preset, options = PRESETS[self.preset], self.options
        common = (self.registry, preset, options.labels, options.channels, options.seed)
        return {
            SINGLE: VolumeTrainTask(SINGLE, f"3D U-Net, preset {self.preset}", *common, grouping=self.grouping),
            BOOTSTRAP: VolumeTrainTask(
                BOOTSTRAP,
                f"Committee of 3D U-Nets, preset {self.preset}",
                *common,
                members=BOOTSTRAP_MEMBERS,
                grouping=self.grouping,
            ),
        }

    def init_infers(self) -> dict[str, InferTask]:
        """The current model, and the mean of the committee."""
        common = (self.registry, self.options.labels, self.options.channels)
        return {
            SINGLE: VolumeInferTask(SINGLE, "3D U-Net trained on the labels so far", *common),
            BOOTSTRAP: VolumeInferTask(BOOTSTRAP, "Mean of the bootstrap committee", *common),
        }

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """All scores in one pass."""
        return {RECORDS: ScoreVolumes(self.registry, self.store, self.options.channels, seed=self.options.seed)}

    def loop_trainers(self) -> Sequence[str]:
        """The committee is trained only where the default strategy asks for it: it costs as much as four models."""
        return (SINGLE, BOOTSTRAP) if self.query_strategies[0].score in COMMITTEE_SCORES else (SINGLE,)
