"""The trainers ``classifier`` (one model) and ``classifier_committee`` (one member per learning rate)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ignite.metrics import EpochMetric
from monai.handlers import from_engine
from monai.inferers import SimpleInferer
from monai.transforms import (
    Activationsd,
    Compose,
    RandAffined,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monailabel.tasks.train.basic_train import Context

from tasks.classification.labels import read_class
from tasks.classification.networks import ClassifierArchitecture, ImageClassifier, start_from
from tasks.classification.presets import ClassifierPreset
from tasks.classification.transforms import preprocessing
from tasks.geometry.images import read_image
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.groups import Grouping
from tasks.learning.metrics import classification_metrics
from tasks.learning.pretrained import Start, WeightsError
from tasks.learning.training import MembersTrainTask, TrainingError, parameters


class ClassifierTrainTask(MembersTrainTask):
    """Trains one classifier, or a committee whose members differ in their learning rate (Hao et al. 2021, 2.2.4).

    The epoch with the best validation AUC is kept (of equal ones, that with the smaller cross entropy).

    Args:
        name: name under which the model is published, also the trainer's name.
        description: one line for people.
        registry: where the result is published.
        preset: default hyper-parameters; requests may change each of them.
        classes: class names, in the order of the network's outputs.
        seed: makes split, sampling and initial weights reproducible.
        committee: train one member per number in ``learning_rates``.
        weights: file with ImageNet weights; empty takes torchvision's.
        grouping: images that must be on the same side of the validation split.
    """

    key_metric = "auc"
    same_start = True

    def __init__(
        self,
        name: str,
        description: str,
        registry: ModelRegistry,
        preset: ClassifierPreset,
        classes: Sequence[str],
        seed: int = 0,
        committee: bool = False,
        weights: str = "",
        grouping: Grouping | None = None,
    ) -> None:
        super().__init__(name, description, registry, preset, classes, seed, grouping=grouping)
        del self._config["learning_rate" if committee else "learning_rates"]
        self._config["val_batch_size"] = preset.train_batch_size
        self.committee = committee
        self.start = Start(weights)

    def check_item(self, item: dict[str, Any]) -> None:
        """Read the image and its class."""
        read_image(item["image"])
        item["label"] = read_class(item["label"], self.label_names)

    def check_together(self, items: Sequence[Mapping[str, Any]]) -> None:
        """There must be two classes at least."""
        found = {item["label"] for item in items}
        if len(found) < 2:
            name = self.label_names[found.pop()]
            raise TrainingError(f"all {len(items)} labelled images are {name!r}: training needs two classes at least")

    def architecture(self, preset: ClassifierPreset) -> ClassifierArchitecture:
        """The classifier."""
        return preset.architecture(len(self.label_names))

    def inference_settings(self, preset: ClassifierPreset) -> Mapping[str, Any]:
        """The size of images."""
        return preset.inference_settings

    def member_count(self, request: Mapping[str, Any], preset: ClassifierPreset) -> int:
        """One member per learning rate."""
        return len(preset.member_learning_rates) if self.committee else 1

    def member_parameters(self, preset: ClassifierPreset, member: int) -> ClassifierPreset:
        """The member's learning rate."""
        return replace(preset, learning_rate=preset.member_learning_rates[member]) if self.committee else preset

    def classes(self, items: Sequence[Mapping[str, Any]]) -> list[int]:
        """Class of each item: validation should hold all of them."""
        return [item["label"] for item in items]

    def initial_network(self, preset: ClassifierPreset) -> ImageClassifier:
        """ImageNet weights where they can be had, and a random last layer."""
        network = preset.architecture(len(self.label_names)).build()
        try:
            start_from(network, self.start(preset.network, preset.imagenet))
        except WeightsError as error:
            raise TrainingError(str(error)) from error
        return network

    def additional_stats(self, preset: ClassifierPreset) -> dict[str, Any]:
        """What the network started from."""
        return {"start": self.start(preset.network, preset.imagenet).origin}

    def loss_function(self, context: Context) -> torch.nn.CrossEntropyLoss:
        """Cross entropy; a class counts the more, the rarer it is among the training images."""
        counts = np.bincount([item["label"] for item in context.train_datalist], minlength=len(self.label_names))
        present = counts > 0
        weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
        return torch.nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float32, device=context.device))

    def train_pre_transforms(self, context: Context) -> Compose:
        """Preprocessing and augmentation."""
        preset: ClassifierPreset = parameters(context)
        steps: list[Any] = list(preprocessing(preset.image_size).transforms)
        if preset.augmentation:
            steps += [RandFlipd("image", prob=0.5, spatial_axis=axis) for axis in range(2)]
            steps += [
                RandAffined(
                    "image",
                    prob=0.5,
                    rotate_range=np.pi / 12,
                    scale_range=[0.1] * 2,
                    mode="bilinear",
                    padding_mode="border",
                ),
                RandScaleIntensityd("image", factors=0.2, prob=0.5),
                RandShiftIntensityd("image", offsets=0.2, prob=0.5),
            ]
        return Compose(steps)

    def val_pre_transforms(self, context: Context) -> Compose:
        """Preprocessing only."""
        return preprocessing(parameters(context).image_size)

    def val_post_transforms(self, context: Context) -> Compose:
        """Class probabilities."""
        return Compose([Activationsd("pred", softmax=True)])

    def val_inferer(self, context: Context) -> SimpleInferer:
        """The network as it is."""
        return SimpleInferer()

    def val_key_metric(self, context: Context) -> dict[str, EpochMetric]:
        """Area under the ROC curve, one against the rest, mean over classes."""
        return {self.key_metric: _metric(self.key_metric)}

    def val_additional_metrics(self, context: Context) -> dict[str, EpochMetric]:
        """Accuracy, precision and cross entropy."""
        return {name: _metric(name) for name in ("accuracy", "precision", "cross_entropy")}

    def judge(self, metrics: Mapping[str, Any]) -> tuple[float, ...]:
        """AUC, then cross entropy; without two classes in the validation images the cross entropy alone."""
        return float(np.nan_to_num(metrics["auc"])), -float(metrics["cross_entropy"])

    def report(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """AUC (None with a single class among the validation images), accuracy and precision."""
        names = ("auc", "accuracy", "precision")
        return {name: round(float(metrics[name]), 4) if np.isfinite(metrics[name]) else None for name in names}


def _metric(name: str) -> EpochMetric:
    def compute(probs: torch.Tensor, classes: torch.Tensor) -> float:
        return classification_metrics(probs, classes)[name]

    return EpochMetric(compute, output_transform=_stacked, check_compute_fn=False)


_both: Callable[..., Any] = from_engine(["pred", "label"])


def _stacked(output: Any) -> tuple[torch.Tensor, torch.Tensor]:
    probs, classes = _both(output)
    return torch.stack([torch.as_tensor(p) for p in probs]), torch.as_tensor([int(c) for c in classes])
