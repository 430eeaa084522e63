"""Volumes to segment."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask

from tasks.datastore.archive import ArchiveFolder
from tasks.datastore.folder import StudiesFolder
from tasks.dicom.client import Archive, is_remote
from tasks.dicom.series_filter import SeriesFilter
from tasks.geometry.volumes import check_image
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.scoring import RECORDS
from tasks.segmentation.models import BOOTSTRAP, BOOTSTRAP_MEMBERS, SINGLE, segmentation_models
from tasks.segmentation.records import COMMITTEE_SCORES, SCORES
from tasks.store.store import Store
from tasks.task import Task
from tasks.volume_segmentation.acceptance import VolumeRule
from tasks.volume_segmentation.bundle import read_bundle
from tasks.volume_segmentation.inference import VolumeInferTask
from tasks.volume_segmentation.oracle import VolumeOracle
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.scoring import ScoreVolumes
from tasks.volume_segmentation.training import VolumeTrainTask


class VolumeTask(Task):
    """3D segmentation: the next volume by dropout uncertainty and its companions (Kim et al. 2024; PCDAL 3D)."""

    name = "volume_segmentation"
    title = "Volume segmentation"
    description = "Active learning for 3D segmentation: the most useful volume next"
    default_strategy = "dropout_variance"
    default_labels = ("tumor",)
    scores = SCORES + COMMITTEE_SCORES
    committee_scores = COMMITTEE_SCORES
    presets = PRESETS
    oracle = VolumeOracle()
    samples = "volumes"

    @staticmethod
    def models(folder: Path, store: Store, labels: Sequence[str]) -> ModelRegistry:
        """One model and a committee of 3D U-Nets."""
        return segmentation_models(folder, store, labels=labels)

    def datastore(self, studies: str, **options: Any) -> StudiesFolder:
        """A folder, or an archive, whose labels are label maps on the grid of their volume."""
        labels, channels = self.bench.options.labels, self.bench.options.channels
        options["rule"] = VolumeRule(labels, self.bench.options.allow_empty)
        options["look"] = functools.partial(check_image, channels=channels)
        if is_remote(studies):
            archive, wanted = Archive(studies, settings), SeriesFilter.parse(self.bench.options.series)
            return ArchiveFolder(str(self.bench.folder / "studies"), archive, wanted, labels, channels, **options)
        return StudiesFolder(studies, extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT, **options)

    def trainers(self) -> dict[str, TrainTask]:
        """One model, and a committee on bootstrap samples."""
        preset, network = PRESETS[self.bench.preset], self.bench.options.network
        preset, kind = (preset.with_network(network), network) if network else (preset, "3D U-Net")
        bundle = read_bundle(Path(self.bench.options.bundle)) if self.bench.options.bundle else None
        if bundle is not None:
            preset, kind = bundle.fitted(preset), f"bundle {bundle.folder.name}"

        def trainer(name: str, description: str, members: int) -> VolumeTrainTask:
            bench = self.bench
            task = VolumeTrainTask(
                name,
                f"{description}, preset {bench.preset}",
                bench.registry,
                preset,
                bench.options.labels,
                bench.options.channels,
                bench.options.seed,
                members=members,
                grouping=bench.grouping,
            )
            task.bundle = bundle
            task.start_from = str(bundle.weights) if bundle is not None and bundle.weights is not None else ""
            return task

        return {
            SINGLE: trainer(SINGLE, kind, 1),
            BOOTSTRAP: trainer(BOOTSTRAP, f"Committee: {BOOTSTRAP_MEMBERS} x {kind}", BOOTSTRAP_MEMBERS),
        }

    def inferers(self) -> dict[str, InferTask]:
        """The current model, and the mean of the committee."""
        common = (self.bench.registry, self.bench.options.labels, self.bench.options.channels)
        return {
            SINGLE: VolumeInferTask(SINGLE, "Model trained on the labels so far", *common),
            BOOTSTRAP: VolumeInferTask(BOOTSTRAP, "Mean of the bootstrap committee", *common),
        }

    def scorers(self) -> dict[str, ScoringMethod]:
        """All scores in one pass."""
        options = self.bench.options
        return {RECORDS: ScoreVolumes(self.bench.registry, self.bench.store, options.channels, seed=options.seed)}

    def loop_trainers(self) -> Sequence[str]:
        """The committee only where the default strategy asks for it."""
        return (SINGLE, BOOTSTRAP) if self._needs_committee else (SINGLE,)
