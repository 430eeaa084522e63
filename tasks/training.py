"""The trainers ``segmentation`` (one model) and ``segmentation_bootstrap`` (a committee)."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.data import DataLoader, ThreadDataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanDice, ValidationHandler, from_engine, stopping_fn_from_metric
from monai.losses import DiceCELoss
from monai.transforms import (
    AsDiscreted,
    Compose,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
)
from monai.utils import set_determinism
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from monailabel.utils.others.generic import device_list

from tasks.inferer import VolumeInferer
from tasks.models import Checkpoint, ModelRegistry
from tasks.networks import UNet3d
from tasks.presets import Preset, voxels
from tasks.volumes import ImageError, preprocessing, read_label, read_volume, write_json

logger = logging.getLogger(__name__)

MINIMUM_LABELS = 2
MINIMUM_FOR_VALIDATION = 5
VALIDATION_SHARE = 0.2
_WORK = "work"


class TrainingError(ValueError):
    """Training cannot start; the message names the image or option."""


class VolumeTrainTask(BasicTrainTask):
    """Trains one model or a bootstrap committee on all final labels and publishes it when done.

    Args:
        name: name under which the model is published, also the trainer's name.
        description: one line for people.
        registry: where the result is published.
        preset: default hyper-parameters; requests may change each of them.
        labels: foreground label names, value 1 first.
        channels: channel names, empty for single files.
        seed: makes split, sampling and initial weights reproducible.
        members: 1 for a single model; more for a committee, each on a sample with replacement.
    """

    def __init__(
        self,
        name: str,
        description: str,
        registry: ModelRegistry,
        preset: Preset,
        labels: Sequence[str],
        channels: Sequence[str] = (),
        seed: int = 0,
        members: int = 1,
    ) -> None:
        folder = registry.folder / name
        super().__init__(
            str(folder),
            description,
            amp=torch.cuda.is_available(),
            stats_path=str(folder / "train_stats.json"),
            labels=list(labels),
            tracking=None,
        )
        self.name = name
        self.registry = registry
        self.preset = preset
        self.label_names = list(labels)
        self.channels = list(channels)
        self.seed = seed
        self._config = {
            "device": device_list(),
            "pretrained": False,
            "multi_gpu": True,
            "gpus": "all",
            "seed": seed,
            **preset.as_dict(),
            "dataset": _choices(preset.dataset),
            "val_batch_size": 1,
        }
        if members > 1:
            self._config["members"] = members
        self._default_members = members
        self._items: list[dict[str, Any]] = []
        self._in_channels = 1
        self._member = 0

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Validate the labelled images, train every member, publish the result.

        Args:
            request: hyper-parameters that differ from the preset's; ``pretrained`` continues from the current model.
            datastore: gives the images with a final label.

        Returns:
            Train stats, see :meth:`stats`.

        Raises:
            TrainingError: too few labels, or an option out of range.
            ImageError: an image or label that cannot be used, named in the message.
        """
        start = time.time()
        try:
            preset = self.preset.with_options(request)
            members = _whole(request, "members", self._default_members, 1) if self._default_members > 1 else 1
            seed = _whole(request, "seed", self.seed, 0)
        except ValueError as error:
            raise TrainingError(str(error)) from error
        self._items = self._validated(datastore)
        Path(self._model_dir).mkdir(parents=True, exist_ok=True)
        # Cached images of a training that was killed.
        shutil.rmtree(Path(self._model_dir) / _WORK, ignore_errors=True)
        states = []
        for self._member in range(members):
            options = {
                **request,
                **preset.as_dict(),
                "name": _WORK,
                "member": self._member,
                "members": members,
                "seed": seed,
                "preset": preset,
                "dataloader": "ThreadDataLoader",
                "total_items": len(self._items),
            }
            super().__call__(options, datastore)
            states.append(torch.load(self._weights_path, map_location="cpu", weights_only=True))
            self._weights_path.unlink()
        checkpoint = Checkpoint(
            architecture=preset.architecture(self._in_channels, len(self.label_names) + 1),
            members=states,
            preprocessing=preset.inference_settings,
            labels=self.label_names,
        )
        stats = self.stats()
        version = self.registry.publish(
            self.name, checkpoint, len(self._items), {"best_metric": stats.get("best_metric")}
        )
        stats |= {"model_version": version, "total_time": str(dt.timedelta(seconds=int(time.time() - start)))}
        write_json(Path(self._stats_path), stats)
        return stats

    @property
    def _weights_path(self) -> Path:
        return Path(self._model_dir) / "member.pt"

    def pre_process(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        """The validated images and labels (read once for all members)."""
        return self._items

    def _validated(self, datastore: Datastore) -> list[dict[str, Any]]:
        items = sorted(datastore.datalist(), key=lambda item: str(item["image"]))
        if len(items) < MINIMUM_LABELS:
            raise TrainingError(f"training needs at least {MINIMUM_LABELS} labelled images, there are {len(items)}")
        shapes = []
        for item in items:
            image = read_volume(item["image"], self.channels)
            read_label(item["label"], len(self.label_names) + 1, like=image.shape[1:])
            shapes.append(image.shape[0])
            if image.shape[0] != shapes[0]:
                raise ImageError(f"{item['image']} has {image.shape[0]} channels, {items[0]['image']} has {shapes[0]}")
        self._in_channels = shapes[0]
        return items

    def partition_datalist(self, context: Context, shuffle: bool = False) -> tuple[list[Any], list[Any]]:
        """20 % of the images for validation by the seed; committee members then draw with replacement."""
        items = list(context.datalist)
        order = np.random.default_rng(context.request["seed"]).permutation(len(items))
        held_out = round(VALIDATION_SHARE * len(items)) if len(items) >= MINIMUM_FOR_VALIDATION else 0
        validation = [items[i] for i in order[:held_out]]
        training = [items[i] for i in sorted(order[held_out:])]
        if context.request["members"] > 1:
            rng = np.random.default_rng([context.request["seed"], context.request["member"]])
            training = [training[i] for i in rng.integers(0, len(training), len(training))]
        return training, validation

    def network(self, context: Context) -> UNet3d:
        """The network, with the current model's weights if the request says ``pretrained``."""
        request = context.request
        set_determinism(request["seed"] * 1000 + request["member"])
        network = UNet3d(request["preset"].architecture(self._in_channels, len(self.label_names) + 1))
        if str(request.get("pretrained", False)).lower() == "true":
            current = self.registry.load(self.name)
            if current is None:
                logger.warning("no model to continue from: starting from scratch")
            elif current.architecture != network.architecture:
                raise TrainingError("pretrained: the current model has another architecture; train from scratch")
            else:
                network.load_state_dict(current.members[request["member"] % len(current.members)])
        return network

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum or AdamW, with gradient clipping before every step."""
        preset: Preset = context.request["preset"]
        parameters = list(context.network.parameters())
        optimizer: torch.optim.Optimizer
        if preset.optimizer == "adamw":
            optimizer = torch.optim.AdamW(parameters, preset.learning_rate, weight_decay=preset.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                parameters,
                preset.learning_rate,
                momentum=preset.momentum,
                nesterov=preset.momentum > 0,
                weight_decay=preset.weight_decay,
            )
        if preset.gradient_clipping > 0:

            def clip(*_: Any) -> None:
                torch.nn.utils.clip_grad_norm_(parameters, preset.gradient_clipping)

            optimizer.register_step_pre_hook(clip)
        return optimizer

    def loss_function(self, context: Context) -> DiceCELoss:
        """Dice + cross entropy, one to one."""
        return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)

    def lr_scheduler_handler(self, context: Context) -> LrScheduleHandler:
        """Cosine with restarts (every tenth of the training), cosine, or polynomial; stepped every iteration."""
        preset: Preset = context.request["preset"]
        per_epoch = preset.iterations_per_epoch or -(-len(context.train_datalist) // preset.train_batch_size)
        total = max(1, per_epoch * preset.max_epochs)
        scheduler: torch.optim.lr_scheduler.LRScheduler
        if preset.schedule == "cosine_restarts":
            scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(context.optimizer, max(1, total // 10))
        elif preset.schedule == "cosine":
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(context.optimizer, total)
        else:
            scheduler = torch.optim.lr_scheduler.PolynomialLR(context.optimizer, total, power=0.9)
        return LrScheduleHandler(scheduler, print_lr=False, epoch_level=False)

    def train_pre_transforms(self, context: Context) -> Compose:
        """Preprocessing, then foreground-aware patches and augmentation."""
        preset: Preset = context.request["preset"]
        patch = voxels(preset.patch_size, "patch_size")
        keys = ["image", "label"]
        steps: list[Any] = [*self._preprocessing(context).transforms, SpatialPadd(keys, patch)]
        steps.append(
            RandCropByPosNegLabeld(
                keys,
                "label",
                patch,
                pos=preset.foreground_ratio,
                neg=1 - preset.foreground_ratio,
                num_samples=preset.patches_per_image,
            )
        )
        if preset.augmentation:
            steps += [RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)]
            steps += [
                RandAffined(
                    keys,
                    prob=0.5,
                    rotate_range=[np.pi / 12] * 3,
                    scale_range=[0.15] * 3,
                    mode=["bilinear", "nearest"],
                    padding_mode="zeros",
                ),
                RandScaleIntensityd("image", factors=0.2, prob=0.5),
                RandShiftIntensityd("image", offsets=0.2, prob=0.5),
            ]
        return Compose(steps)

    def val_pre_transforms(self, context: Context) -> Compose:
        """Preprocessing only: validation sees whole images."""
        return self._preprocessing(context)

    def _preprocessing(self, context: Context) -> Compose:
        spacing = context.request["preset"].spacing
        return preprocessing(self.channels, len(self.label_names) + 1, self._in_channels, spacing, labels=True)

    def train_post_transforms(self, context: Context) -> None:
        """None: training patches are not evaluated."""

    def val_post_transforms(self, context: Context) -> Compose:
        """Predictions and labels as one-hot maps."""
        classes = len(self.label_names) + 1
        return Compose([AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=[classes, classes])])

    def val_inferer(self, context: Context) -> VolumeInferer:
        """Sliding windows over whole images."""
        preset: Preset = context.request["preset"]
        roi = voxels(preset.roi_size, "roi_size")
        return VolumeInferer(roi, preset.overlap, preset.divisor)

    def val_key_metric(self, context: Context) -> dict[str, MeanDice]:
        """Mean foreground Dice."""
        return {self.VAL_METRIC_MEAN_DICE: _dice("mean")}

    def val_additional_metrics(self, context: Context) -> dict[str, MeanDice]:
        """Dice per label."""
        return {"dice_per_label": _dice("mean_batch")}

    def _dataloader(
        self, context: Context, dataset: Any, batch_size: int, num_workers: int, shuffle: bool = False
    ) -> DataLoader:
        request = context.request
        preset: Preset = request["preset"]
        generator = torch.Generator().manual_seed(request["seed"] * 1000 + request["member"])
        sampler: torch.utils.data.Sampler[int] | None = None
        if shuffle and preset.iterations_per_epoch > 0:
            draws = preset.iterations_per_epoch * batch_size
            sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=draws, generator=generator)
        elif shuffle:
            sampler = torch.utils.data.RandomSampler(dataset, generator=generator)
        return ThreadDataLoader(
            dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, generator=generator
        )

    def train_handlers(self, context: Context) -> list[Any]:
        """Learning rate and validation."""
        handlers: list[Any] = [self.lr_scheduler_handler(context)]
        if context.evaluator:
            interval = min(context.request["preset"].val_interval, context.max_epochs)
            handlers.append(ValidationHandler(interval, validator=context.evaluator, epoch_level=True))
        return handlers

    def _create_evaluator(self, context: Context) -> SupervisedEvaluator | None:
        # Not MONAI Label's: its checkpoint saver writes files at every epoch; the best weights stay in memory here.
        if not context.val_datalist:
            return None
        return SupervisedEvaluator(
            device=context.device,
            val_data_loader=self.val_data_loader(context),
            network=context.network,
            inferer=self.val_inferer(context),
            postprocessing=self.val_post_transforms(context),
            key_val_metric=self.val_key_metric(context),
            additional_metrics=self.val_additional_metrics(context),
            amp=self._amp,
        )

    def _create_trainer(self, context: Context) -> SupervisedTrainer:
        return SupervisedTrainer(
            device=context.device,
            max_epochs=context.max_epochs,
            train_data_loader=self.train_data_loader(context),
            network=context.network,
            optimizer=context.optimizer,
            loss_function=self.loss_function(context),
            train_handlers=self.train_handlers(context),
            amp=self._amp,
            decollate=False,
        )

    def finalize(self, context: Context) -> None:
        """Attach progress, best weights and early stopping."""
        if context.local_rank == 0:
            _Progress(context, self.label_names, Path(self._stats_path), self._weights_path).attach()
        patience = context.request["preset"].early_stop_patience
        if patience > 0 and context.evaluator:
            stop = EarlyStopping(
                patience=patience,
                score_function=stopping_fn_from_metric(self.VAL_METRIC_MEAN_DICE),
                trainer=context.trainer,
            )
            context.evaluator.add_event_handler(Events.EPOCH_COMPLETED, stop)


class _Progress:
    """Writes train stats after every epoch, and the best weights (the last ones without validation) at the end."""

    def __init__(self, context: Context, labels: Sequence[str], stats_path: Path, weights_path: Path) -> None:
        self.context = context
        self.labels = labels
        self.stats_path = stats_path
        self.weights_path = weights_path
        self.best_metric: float | None = None
        self.best_epoch = 0
        self.best_state: dict[str, torch.Tensor] | None = None
        self.dice: dict[str, float] = {}

    def attach(self) -> None:
        # The trainer's own validation handler was attached before, so an epoch is reported with its validation.
        if self.context.evaluator:
            self.context.evaluator.add_event_handler(Events.COMPLETED, self._validated)
        self.context.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        self.context.trainer.add_event_handler(Events.COMPLETED, self._save)

    def _validated(self, evaluator: Engine) -> None:
        per_label = np.nan_to_num(np.asarray(torch.as_tensor(evaluator.state.metrics["dice_per_label"])).reshape(-1))
        metric = float(np.nan_to_num(evaluator.state.metrics[BasicTrainTask.VAL_METRIC_MEAN_DICE]))
        self.dice = {name: round(float(value), 4) for name, value in zip(self.labels, per_label, strict=True)}
        if self.best_metric is None or metric > self.best_metric:
            self.best_metric, self.best_epoch = metric, self.context.trainer.state.epoch
            self.best_state = _weights(self.context.network)

    def _epoch(self, trainer: Engine) -> None:
        stats = self._stats(trainer)
        write_json(self.stats_path, stats)
        logger.info(
            "member %d of %d, epoch %d of %d: loss %.4f, Dice %s",
            self.context.request["member"] + 1,
            self.context.request["members"],
            trainer.state.epoch,
            trainer.state.max_epochs,
            stats["loss"],
            self.dice or "not validated yet",
        )

    def _save(self, trainer: Engine) -> None:
        state = self.best_state if self.best_state is not None else _weights(self.context.network)
        torch.save(state, self.weights_path)
        write_json(self.stats_path, self._stats(trainer) | {"total_time": self._elapsed()})

    def _elapsed(self) -> str:
        return str(dt.timedelta(seconds=int(time.time() - self.context.start_ts)))

    def _stats(self, trainer: Engine) -> dict[str, Any]:
        request = self.context.request
        total = trainer.state.max_epochs
        share = f"{len(self.context.val_datalist)} of {request['total_items']} labelled images"
        return {
            "epoch": request["member"] * total + trainer.state.epoch,
            "total_epochs": request["members"] * total,
            "start_ts": int(self.context.start_ts),
            "current_time": self._elapsed(),
            "loss": float(trainer.state.output["loss"]),
            "best_metric": 0.0 if self.best_metric is None else round(self.best_metric, 4),
            "best_epoch": self.best_epoch,
            "dice": self.dice,
            "validation": share if self.context.evaluator else f"none: fewer than {MINIMUM_FOR_VALIDATION} labels",
            "labelled": request["total_items"],
            "member": request["member"] + 1,
            "members": request["members"],
        }


def _whole(request: dict[str, Any], name: str, default: int, low: int) -> int:
    value = request.get(name, default)
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from error
    if number < low:
        raise ValueError(f"{name} must be at least {low}, got {number}")
    return number


def _dice(reduction: str) -> MeanDice:
    return MeanDice(include_background=False, reduction=reduction, output_transform=from_engine(["pred", "label"]))


def _weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    module = network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def _choices(first: str) -> list[str]:
    return [
        first,
        *(name for name in ("CacheDataset", "PersistentDataset", "SmartCacheDataset", "Dataset") if name != first),
    ]
