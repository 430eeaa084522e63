"""The trainers ``segmentation`` (one model) and ``segmentation_bootstrap`` (a committee) for images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.transforms import Compose, RandRotate90d, SpatialPadd
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import Context

from tasks.common.files import ImageError
from tasks.geometry.slices import preprocessing, read_mask, read_slice
from tasks.image_segmentation.loss import WeightedLoss
from tasks.image_segmentation.model_masks import pseudo_labelled
from tasks.image_segmentation.networks import IMAGENET_ENCODERS, ImageArchitecture, start_from
from tasks.image_segmentation.presets import ImagePreset
from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.groups import Grouping, hold_out_by_name
from tasks.learning.pretrained import Pretrained, Start, WeightsError
from tasks.learning.training import VALIDATION_SHARE, TrainingError, parameters
from tasks.segmentation.inferer import WindowInferer, whole_image
from tasks.segmentation.training import SegmentationTrainTask, augmentation
from tasks.store.label_names import LabelNames

logger = logging.getLogger(__name__)


class ImageTrainTask(SegmentationTrainTask):
    """Trains one segmentation model of images or a bootstrap committee, continuing from the current model.

    Images that the model labelled itself are trained on with a weight. Validation sees labels of people only; an
    image stays on its side of the split for good, so that no round validates on what another has trained on.

    Args:
        name: name under which the model is published, also the trainer's name.
        description: one line for people.
        registry: where the result is published.
        preset: default hyper-parameters; requests may change each of them.
        labels: foreground label names, value 1 first.
        seed: makes split, sampling and initial weights reproducible.
        members: 1 for a single model; more for a committee, each on a sample with replacement.
        weights: file with ImageNet weights; empty takes torchvision's.
        grouping: images that must be on the same side of the validation split.
    """

    # Images without any finding are ordinary here, and finding nothing in them is right.
    ignore_empty = False

    def __init__(
        self,
        name: str,
        description: str,
        registry: ModelRegistry,
        preset: ImagePreset,
        labels: Sequence[str],
        seed: int = 0,
        members: int = 1,
        weights: str = "",
        grouping: Grouping | None = None,
    ) -> None:
        super().__init__(name, description, registry, preset, labels, seed, members, grouping)
        self._config["pretrained"] = True
        self.start = Start(weights)

    def check_item(self, item: dict[str, Any]) -> None:
        """Read the image and its mask: size and values must fit."""
        read_slice(item["image"])
        read_mask(item["label"], len(self.label_names) + 1, item["image"])
        item.setdefault("weight", 1.0)
        item.setdefault("score", 0.0)

    def extra_items(self, datastore: Datastore, preset: ImagePreset) -> list[dict[str, Any]]:
        """Images that the model labelled itself; unusable ones are left out with a warning."""
        usable = []
        at_first = LabelNames(self.registry.store).first_count()
        for item in pseudo_labelled(datastore) if preset.pseudo_weight > 0 else ():
            known = self.registry.known_names(item.pop("model_version")) or at_first
            item["known"] = min(len(self.label_names), known or len(self.label_names))
            try:
                self.check_item(item)
                self.keep_label(item)
            except (ImageError, FileNotFoundError) as error:
                logger.warning("pseudo-label left out: %s", error)
            else:
                usable.append({**item, "weight": preset.pseudo_weight})
        return usable

    def additional_stats(self, preset: ImagePreset) -> dict[str, Any]:
        """What the network started from, and how many pseudo-labels were used, with which scores."""
        pseudo: dict[str, Any] = {"used": len(self._extra), "weight": preset.pseudo_weight}
        if self._extra:
            scores = [item["score"] for item in self._extra]
            pseudo["scores"] = [min(scores), max(scores)]
        logger.info("pseudo-labels: %s", pseudo)
        return {"start": "the current model" if self._start else self._initial(preset).origin, "pseudo_labels": pseudo}

    def architecture(self, preset: ImagePreset) -> ImageArchitecture:
        """The network."""
        return preset.architecture(len(self.label_names) + 1)

    def inference_settings(self, preset: ImagePreset) -> Mapping[str, Any]:
        """The size of images."""
        return preset.inference_settings

    def continuing(self, preset: ImagePreset) -> ImagePreset:
        """Fewer epochs than the first training."""
        return replace(preset, max_epochs=preset.epochs_per_round)

    def initial_network(self, preset: ImagePreset) -> torch.nn.Module:
        """ImageNet weights for the encoder where they can be had, the rest random."""
        network = super().initial_network(preset)
        try:
            start_from(network, self._initial(preset))
        except WeightsError as error:
            raise TrainingError(str(error)) from error
        return network

    def _initial(self, preset: ImagePreset) -> Pretrained:
        return self.start(IMAGENET_ENCODERS.get(preset.network, preset.network), preset.imagenet)

    def held_out(self, items: Sequence[Mapping[str, Any]], seed: int) -> list[int]:
        """A choice that neither more labels nor another training's seed change."""
        return hold_out_by_name([item["group_name"] for item in items], VALIDATION_SHARE, self.seed)

    def loss_function(self, context: Context) -> WeightedLoss:
        """The preset's loss with a weight per image."""
        return WeightedLoss(parameters(context).loss)

    def prepare_batch(self, batch: dict[str, Any], device: Any, non_blocking: bool, **options: Any) -> Any:
        """Images, and masks with the weight of each image."""
        image, label = super().prepare_batch(batch, device, non_blocking, **options)
        return image, (label, torch.as_tensor(batch["weight"], dtype=torch.float32).to(device))

    def train_pre_transforms(self, context: Context) -> Compose:
        """Preprocessing, padding to a square and augmentation."""
        preset: ImagePreset = parameters(context)
        keys = ["image", "label"]
        steps: list[Any] = [*self._preprocessing(context).transforms, SpatialPadd(keys, [preset.image_size] * 2)]
        if preset.augmentation:
            steps += [RandRotate90d(keys, prob=0.5), *augmentation(2)]
        return Compose(steps)

    def val_pre_transforms(self, context: Context) -> Compose:
        """Preprocessing only."""
        return self._preprocessing(context)

    def _preprocessing(self, context: Context) -> Compose:
        return preprocessing(len(self.label_names) + 1, parameters(context).image_size, labels=True)

    def val_inferer(self, context: Context) -> WindowInferer:
        """The whole image at once."""
        preset: ImagePreset = parameters(context)
        return whole_image(preset.image_size, self.architecture(preset).divisor)
