"""What all trainers share: members trained one after another, the best epoch kept, one checkpoint published."""

from __future__ import annotations

import datetime as dt
import logging
import os
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer, default_prepare_batch
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.utils import set_determinism
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from monailabel.utils.others.generic import device_list

from tasks.common.files import ImageError, image_id, read_own_json, reason, write_json
from tasks.common.values import shown
from tasks.jobs.options import checked_device, means_default, training_options
from tasks.learning.checkpoints import Architecture, Checkpoint, ModelRegistry
from tasks.learning.groups import Grouping, hold_out
from tasks.learning.hyperparameters import DATASETS, Hyperparameters
from tasks.learning.loading import PrefetchLoader
from tasks.learning.partial_labels import KnownClassesLoss
from tasks.learning.pretrained import WeightsError
from tasks.learning.progress import MemberProgress
from tasks.learning.start_from import load_matching, read_weights
from tasks.learning.trainer import Item, Settings, StatsFile, Trainer, check_checkpoint
from tasks.store.claims import TRAIN, Claims
from tasks.store.label_names import LabelNames
from tasks.store.tables import Training, now

logger = logging.getLogger(__name__)

MINIMUM_LABELS = 2
MINIMUM_FOR_VALIDATION = 5
VALIDATION_SHARE = 0.2
_WORK = "work"
_TRAIN_KEY = "hyperparameters"
_FIXED = {"multi_gpu", "gpus", "val_batch_size"}
"""Settings of MONAI Label's trainer that no request changes."""


class TrainingError(ValueError):
    """Training cannot start; the message names the image or option."""


class MembersTrainTask(BasicTrainTask):
    """Trains one model or the members of a committee on all final labels and publishes them as one checkpoint.

    A kind of trainer says how images and labels are checked and transformed, what network and loss it trains, and
    how a validation is judged.

    Args:
        name: name under which the model is published, also the trainer's name.
        description: one line for people.
        registry: where the result is published.
        preset: default hyper-parameters; requests may change each of them.
        labels: names of the labels or classes, in the order of their values.
        seed: makes split, sampling and initial weights reproducible.
        members: 1 for a single model; more for a committee.
        grouping: images that must be on the same side of the validation split.
    """

    key_metric: str
    """Name of the validation metric shown as ``best_metric``."""

    has_background = False
    """Whether class 0 is what no label marks."""

    same_start = False
    """Whether all members start from the same random weights."""

    def __init__(
        self,
        name: str,
        description: str,
        registry: ModelRegistry,
        preset: Hyperparameters,
        labels: Sequence[str],
        seed: int = 0,
        members: int = 1,
        grouping: Grouping | None = None,
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
        self.declared_names = list(labels)
        # The first of them: those that some label tells of, see _learn_names.
        self.label_names = list(labels)
        self.seed = seed
        self.grouping = grouping or Grouping()
        self._config = {
            "device": device_list(),
            "pretrained": False,
            "multi_gpu": True,
            "gpus": "all",
            "seed": seed,
            **preset.as_dict(),
            "dataset": [preset.dataset, *(name for name in DATASETS if name != preset.dataset)],
            "val_batch_size": 1,
            **({"members": members} if members > 1 else {}),
        }
        self.start_from = ""
        """File with weights that a training starts from which does not continue from the current model."""
        self.trainer: Trainer | None = None
        """A training loop in place of ours."""
        self._default_members = members
        self._items: list[dict[str, Any]] = []
        self._extra: list[dict[str, Any]] = []
        self._left_out: dict[str, str] = {}
        self._start: Checkpoint | None = None

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Check the labelled images, train every member, publish the result.

        A member that fails is reported and left out; only if all fail does the training fail.

        Args:
            request: hyper-parameters that differ from the preset's; ``pretrained`` continues from the current model.
            datastore: gives the images with a final label.

        Returns:
            Train stats, see :meth:`stats`; ``failed_members`` maps a member's number to the reason, ``left_out`` the
            image ids whose image or label was removed meanwhile; ``unchanged`` says that nothing new was published,
            ``partial_labels`` counts labels that were given before the last label name was added.

        Raises:
            TrainingError: too few labels, or an option out of range.
            ImageError: an image or label that cannot be used, named in the message.
        """
        try:
            preset = self.preset.with_options(request)
            given = training_options(request)
            members, seed = self.member_count(given, preset), given.get("seed", self.seed)
        except ValueError as error:
            raise TrainingError(str(error)) from error
        with Claims(self.registry.store).claimed(f"{TRAIN}/{self.name}") as ours:
            if not ours:
                raise TrainingError(f"{self.name} is being trained by another server on these studies")
            return self._recorded(request, datastore, preset, members, seed)

    def _recorded(
        self, request: dict[str, Any], datastore: Datastore, preset: Any, members: int, seed: int
    ) -> dict[str, Any]:
        """Train, and note what came of it: the labels that it saw decide when the next training is due."""
        # Before the labels are read: one that comes meanwhile is new to the next training.
        run = Training(name=self.name, started_at=now(), label_revision=self.registry.label_revision())
        before = self.stats()
        try:
            return self._train(request, datastore, preset, members, seed, run)
        except Exception as error:
            run.error, run.finished_at, run.model_version = reason(error), now(), None
            self.registry.store.add_training(run)
            elapsed = str(dt.timedelta(seconds=int((run.finished_at - run.started_at).total_seconds())))
            write_json(Path(self._stats_path), {"total_time": elapsed, **before, "error": run.error})
            raise
        finally:
            shutil.rmtree(self._labels_folder, ignore_errors=True)

    def _train(
        self, request: dict[str, Any], datastore: Datastore, preset: Any, members: int, seed: int, run: Training
    ) -> dict[str, Any]:
        self._items, self._left_out = [], {}
        self._begin(preset, members, run)
        shutil.rmtree(self._labels_folder, ignore_errors=True)
        self._items, self._extra = self.gather(datastore, preset, seed)
        self._items = self._checked(self._items)
        self._start = self._continued(request, preset)
        if self._start is not None:
            preset = self.continuing(preset)
        self._begin(preset, members, run)
        # Cached images of a training that was killed.
        shutil.rmtree(Path(self._model_dir) / _WORK, ignore_errors=True)
        failed: dict[str, str] = {}
        if self.trainer is not None:
            checkpoint = self._trained_by(self.trainer, request, preset, seed)
        else:
            states, failed = self._train_members(request, datastore, preset, members, seed)
            checkpoint = Checkpoint(
                architecture=self.architecture(preset),
                members=states,
                preprocessing=self.inference_settings(preset),
                labels=self.label_names,
            )
        run.left_out = dict(self._left_out)
        stats = self.stats()
        extra = self.additional_stats(preset)
        metrics = {"best_metric": stats.get("best_metric"), "labels": len(self.label_names), **extra}
        current = self.registry.current(self.name)
        run.finished_at = now()
        version = self.registry.publish(self.name, checkpoint, len(self._items), metrics, run)
        elapsed = str(dt.timedelta(seconds=int((run.finished_at - run.started_at).total_seconds())))
        stats |= {
            "model_version": version,
            "unchanged": current is not None and current.version == version,
            "total_time": elapsed,
            "failed_members": failed,
            "left_out": run.left_out,
            "partial_labels": sum(item["known"] < len(self.label_names) for item in self._items),
            **extra,
        }
        write_json(Path(self._stats_path), stats)
        return stats

    def _trained_by(self, trainer: Trainer, request: Mapping[str, Any], preset: Any, seed: int) -> Checkpoint:
        """What a training loop of somebody else makes of the labelled images."""
        validating = set(self._validating(self._items, seed))
        items = [
            Item(str(item["id"]), Path(item["image"]), item["label"], item["group"], number in validating, item)
            for number, item in enumerate(self._items)
        ]
        transform = self.val_pre_transforms(cast(Context, SimpleNamespace(request={_TRAIN_KEY: preset})))
        given = checked_device(request.get("device"))
        settings = Settings(
            labels=list(self.label_names),
            architecture=self.architecture(preset),
            hyperparameters=preset,
            preprocessing=dict(self.inference_settings(preset)),
            seed=seed,
            device=torch.device(given or ("cuda" if torch.cuda.is_available() else "cpu")),
            folder=Path(self._model_dir),
            start=self._start,
            read=lambda item: transform(dict(item.values)),
        )
        set_determinism(seed)
        checkpoint = trainer.train(items, settings, StatsFile(Path(self._stats_path), len(items), len(validating)))
        try:
            check_checkpoint(checkpoint, settings)
        except ValueError as error:
            raise TrainingError(f"trainer {type(trainer).__name__}: {error}") from error
        return checkpoint

    def _begin(self, preset: Any, members: int, run: Training) -> None:
        """Train stats of a training that has not finished an epoch yet."""
        Path(self._model_dir).mkdir(parents=True, exist_ok=True)
        stats = {
            "epoch": 0,
            "total_epochs": members * preset.max_epochs,
            "start_ts": int(run.started_at.replace(tzinfo=dt.timezone.utc).timestamp()),
            "current_time": "0:00:00",
            "best_metric": 0.0,
            "best_epoch": 0,
            "labelled": len(self._items),
            "member": 1,
            "members": members,
            "failed_members": {},
        }
        write_json(Path(self._stats_path), stats)

    def _train_members(
        self, request: dict[str, Any], datastore: Datastore, preset: Any, members: int, seed: int
    ) -> tuple[list[dict[str, torch.Tensor]], dict[str, str]]:
        """Weights of the members that did not fail, and why the others did, by their number."""
        common = {"name": _WORK, "members": members, "seed": seed, "dataloader": "ThreadDataLoader"}
        states: list[dict[str, torch.Tensor]] = []
        failed: dict[str, str] = {}
        for member in range(members):
            parameters = self.member_parameters(preset, member)
            options = {**request, **parameters.as_dict(), **common, "member": member, _TRAIN_KEY: parameters}
            try:
                states.append(self._train_what_is_there({**options, "failed_members": dict(failed)}, datastore))
            except TrainingError:
                raise
            except Exception as error:
                if member + 1 == members and not states:
                    raise
                logger.exception("member %d of %d failed", member + 1, members)
                failed[str(member + 1)] = reason(error)
        return states, failed

    def stats(self) -> dict[str, Any]:
        """What the newest training has written; empty before the first, and if it cannot be read."""
        return read_own_json(Path(self._stats_path))

    def _train_what_is_there(self, options: dict[str, Any], datastore: Datastore) -> dict[str, torch.Tensor]:
        """Train a member; if files of an image are removed meanwhile, begin again without that image."""
        while True:
            try:
                return self._train_member(options, datastore)
            except Exception:  # whatever the reader, the loader, or a process of several GPUs makes of a missing file
                removed = {str(item["id"]): gone for item in (*self._items, *self._extra) if (gone := self._gone(item))}
                if not removed:
                    raise
                for name, gone in removed.items():
                    self._leave_out(name, gone)
                self._items = [item for item in self._items if str(item["id"]) not in removed]
                self._extra = [item for item in self._extra if str(item["id"]) not in removed]
                _check_count(self._items)

    def _train_member(self, options: dict[str, Any], datastore: Datastore) -> dict[str, torch.Tensor]:
        super().__call__(options, datastore)
        state: dict[str, torch.Tensor] = torch.load(self._weights_path, map_location="cpu", weights_only=True)
        self._weights_path.unlink()
        if not all(value.isfinite().all() for value in state.values() if value.is_floating_point()):
            raise RuntimeError("the weights are not finite: the training diverged, try a smaller learning rate")
        return state

    def gather(self, datastore: Datastore, preset: Any, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The images with a final label, and the extra ones that may be trained on beside them.

        Each has its ``id``, the number of its ``group`` and the ``group_name``, which more labels do not change: the
        first image of the group in the whole datastore. Nothing of a group that validates is among the extra ones.

        Raises:
            TrainingError: too few labels.
        """
        items = self._labelled(datastore)
        self._learn_names(items)
        extra = self.extra_items(datastore, preset)
        together = [*items, *extra]
        names = sorted({*datastore.list_images(), *(item["id"] for item in together)})
        groups = dict(zip(names, self.grouping(names).tolist(), strict=True))
        first = {groups[name]: name for name in reversed(names)}
        for item in together:
            item["group"] = groups[item["id"]]
            item["group_name"] = first[item["group"]]
        validating = {items[index]["group"] for index in self._validating(items, seed)}
        return items, [item for item in extra if item["group"] not in validating]

    def _labelled(self, datastore: Datastore) -> list[dict[str, Any]]:
        items = sorted(datastore.datalist(), key=lambda item: str(item["image"]))
        _check_count(items)
        # The list has the files that links lead to, which may have other names than the images.
        names = {datastore.get_image_uri(name): name for name in datastore.get_labeled_images()}
        for item in items:
            item["id"] = names.get(item["image"]) or image_id(item["image"])
        return items

    def _learn_names(self, items: Sequence[dict[str, Any]]) -> None:
        """Note how many names each label tells of, and train those that some label does."""
        all_names = len(self.declared_names)
        known = LabelNames(self.registry.store).known_names()
        for item in items:
            item["known"] = min(known.get(item["id"], all_names), all_names)
        learnt = max(item["known"] for item in items)
        self.label_names = self.declared_names[:learnt]
        if left := self.declared_names[learnt:]:
            logger.warning("no image is annotated for %s yet: the model does not learn it", ", ".join(left))
        if partial := sum(item["known"] < learnt for item in items):
            logger.info("%d of %d labels do not tell of %s", partial, len(items), ", ".join(self.label_names[1:]))

    def _checked(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The items that are there, with labels as they are now; others are left out.

        Raises:
            ImageError: an image or label that is there and cannot be used.
            TrainingError: too few are left, or together they cannot train anything.
        """
        kept = []
        for item in items:
            try:
                self.check_item(item)
                self.keep_label(item)
            except (ImageError, FileNotFoundError):
                if not (gone := self._gone(item)):
                    raise
                self._leave_out(str(item["id"]), gone)
            else:
                kept.append(item)
        _check_count(kept)
        self.check_together(kept)
        return kept

    def files(self, item: Mapping[str, Any]) -> list[Path]:
        """The files that are read for an item."""
        return [Path(item["image"]), *([Path(item["label"])] if isinstance(item["label"], str) else [])]

    def _gone(self, item: Mapping[str, Any]) -> str:
        """Names of the files of an item that are not there, empty if all are."""
        return ", ".join(file.name for file in self.files(item) if not file.exists())

    def _leave_out(self, image_id: str, gone: str) -> None:
        self._left_out[image_id] = f"{gone} was removed"
        logger.warning("%s is left out: %s", image_id, self._left_out[image_id])

    @property
    def _labels_folder(self) -> Path:
        return Path(self._model_dir) / "labels"

    def keep_label(self, item: dict[str, Any]) -> None:
        """Give the label file a second name, under which it stays for this training whatever becomes of the label.

        Raises:
            FileNotFoundError: it is gone already.
        """
        if not isinstance(item["label"], str):
            return
        self._labels_folder.mkdir(parents=True, exist_ok=True)
        name = Path(item["label"]).name
        kept = self._labels_folder / f"{item['id']}{name[len(image_id(name)) :]}"
        kept.unlink(missing_ok=True)
        try:
            os.link(item["label"], kept)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            shutil.copyfile(item["label"], kept)
        item["label"] = str(kept)

    def _continued(self, request: Mapping[str, Any], preset: Any) -> Checkpoint | None:
        """The checkpoint whose weights the training continues from, if it should and can."""
        if not training_options({**self._config, **request})["pretrained"]:
            return None
        current = self.registry.load(self.name)
        if current is None:
            logger.info("no model to continue from: starting from scratch")
            return None
        if current.architecture != self.architecture(preset):
            if "pretrained" in request:
                raise TrainingError("pretrained: the current model has another architecture; train from scratch")
            logger.warning("the current model has another architecture: starting from scratch")
            return None
        return current

    @abstractmethod
    def check_item(self, item: dict[str, Any]) -> None:
        """Read a labelled image once before training.

        Raises:
            ImageError: an image or label that cannot be used.
        """

    def check_together(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Look at the labelled images as a whole.

        Raises:
            ImageError: one that does not fit the others.
            TrainingError: together they cannot train anything.
        """

    @abstractmethod
    def architecture(self, preset: Any) -> Architecture:
        """The network that these hyper-parameters describe."""

    @abstractmethod
    def inference_settings(self, preset: Any) -> Mapping[str, Any]:
        """What a checkpoint keeps to use its model as it was trained."""

    @abstractmethod
    def report(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """A validation's results for the train stats and the log."""

    def member_count(self, request: Mapping[str, Any], preset: Any) -> int:
        """Number of members to train, by a request's checked options."""
        if self._default_members == 1:
            return 1
        members: int = request.get("members", self._default_members)
        return members

    def member_parameters(self, preset: Any, member: int) -> Hyperparameters:
        """Hyper-parameters of one member."""
        parameters: Hyperparameters = preset
        return parameters

    def member_items(self, items: list[Any], request: Mapping[str, Any]) -> list[Any]:
        """What one member is trained on, of the images not held out."""
        return items

    def extra_items(self, datastore: Datastore, preset: Any) -> list[dict[str, Any]]:
        """Checked images without a final label that are trained on all the same: they never validate nor count."""
        return []

    def continuing(self, preset: Any) -> Any:
        """Hyper-parameters of a training that continues from the current model."""
        return preset

    def judge(self, metrics: Mapping[str, Any]) -> tuple[float, ...]:
        """How good a validation was; the largest wins, by default that of :attr:`key_metric`."""
        return (float(np.nan_to_num(metrics[self.key_metric])),)

    def additional_stats(self, preset: Any) -> dict[str, Any]:
        """Anything else worth knowing about a finished training."""
        return {}

    def classes(self, items: Sequence[Mapping[str, Any]]) -> list[int] | None:
        """Class of each item where the validation split should hold all of them."""
        return None

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that a request gives, as they go to the job.

        Args:
            options: hyper-parameters, ``device``, ``pretrained``, ``members`` and ``seed``.

        Raises:
            ValueError: an unknown option, or a value that does not fit; the message names it.
        """
        known = {**self._config, "members": self._default_members}
        for name in options:
            if name not in known:
                raise ValueError(f"unknown option {shown(name)}; known are {', '.join(sorted(known.keys() - _FIXED))}")
        given = {name: value for name, value in options.items() if not means_default(value, known[name])}
        preset = self.preset.with_options(given)
        checked = {name: value for name, value in preset.as_dict().items() if value != getattr(self.preset, name)}
        return {**checked, **training_options(given)}

    @property
    def _weights_path(self) -> Path:
        return Path(self._model_dir) / "member.pt"

    def pre_process(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        """The checked images and labels (read once for all members)."""
        return self._items

    def partition_datalist(self, context: Context, shuffle: bool = False) -> tuple[list[Any], list[Any]]:
        """20 % of the images for validation, groups kept together; the rest for the member."""
        items = list(context.datalist)
        held = self._validating(items, context.request["seed"])
        training = [item for index, item in enumerate(items) if index not in set(held)]
        # A label that does not tell of all names cannot judge; its image still belongs to the validating side.
        validating = [items[index] for index in held if self._is_complete(items[index])]
        return self.member_items([*training, *self._extra], context.request), validating

    def _is_complete(self, item: Mapping[str, Any]) -> bool:
        return bool(item.get("known", len(self.label_names)) >= len(self.label_names))

    def _validating(self, items: Sequence[Mapping[str, Any]], seed: int) -> list[int]:
        return sorted(self.held_out(items, seed)) if len(items) >= MINIMUM_FOR_VALIDATION else []

    def held_out(self, items: Sequence[Mapping[str, Any]], seed: int) -> list[int]:
        """Indices of the items that validate."""
        rng = np.random.default_rng(seed)
        return hold_out([item["group"] for item in items], VALIDATION_SHARE, rng, self.classes(items))

    def network(self, context: Context) -> torch.nn.Module:
        """The network, with the current model's weights if the training continues from it."""
        request = context.request
        member_seed = request["seed"] * 1000 + request["member"]
        set_determinism(request["seed"] * 1000 if self.same_start else member_seed)
        network = self.initial_network(parameters(context))
        if self.start_from and self._start is None:
            self._load_start(network)
        set_determinism(member_seed)
        if self._start is not None:
            network.load_state_dict(self._start.members[request["member"] % len(self._start.members)])
        return network

    def _load_start(self, network: torch.nn.Module) -> None:
        try:
            matched = load_matching(network, read_weights(self.start_from))
        except WeightsError as error:
            raise TrainingError(f"option start_from: {error}") from error
        if not matched.loaded:
            raise TrainingError(f"option start_from: nothing of {self.start_from} fits the network: {matched}")
        logger.info("%s starts from %s: %s", self.name, self.start_from, matched)

    def initial_network(self, preset: Any) -> torch.nn.Module:
        """The network as a training from scratch starts with it."""
        return self.architecture(preset).build()

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum or AdamW, with gradient clipping before every step."""
        preset = parameters(context)
        weights = list(context.network.parameters())
        optimizer: torch.optim.Optimizer
        if preset.optimizer == "adamw":
            optimizer = torch.optim.AdamW(weights, preset.learning_rate, weight_decay=preset.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                weights,
                preset.learning_rate,
                momentum=preset.momentum,
                nesterov=preset.momentum > 0,
                weight_decay=preset.weight_decay,
            )
        if preset.gradient_clipping > 0:

            def clip(*_: Any) -> None:
                torch.nn.utils.clip_grad_norm_(weights, preset.gradient_clipping)

            optimizer.register_step_pre_hook(clip)
        return optimizer

    def lr_scheduler_handler(self, context: Context) -> LrScheduleHandler:
        """Cosine with restarts (every tenth of the training), cosine, polynomial, constant; stepped every iteration."""
        preset = parameters(context)
        per_epoch = preset.iterations_per_epoch or -(-len(context.train_datalist) // preset.train_batch_size)
        total = max(1, per_epoch * preset.max_epochs)
        scheduler: torch.optim.lr_scheduler.LRScheduler
        if preset.schedule == "cosine_restarts":
            scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(context.optimizer, max(1, total // 10))
        elif preset.schedule == "cosine":
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(context.optimizer, total)
        elif preset.schedule == "polynomial":
            scheduler = torch.optim.lr_scheduler.PolynomialLR(context.optimizer, total, power=0.9)
        else:
            scheduler = torch.optim.lr_scheduler.ConstantLR(context.optimizer, factor=1.0)
        return LrScheduleHandler(scheduler, print_lr=False, epoch_level=False)

    def prepare_batch(self, batch: dict[str, Any], device: Any, non_blocking: bool, **options: Any) -> Any:
        """Inputs and targets of a training batch, on the device."""
        return default_prepare_batch(batch, device, non_blocking, **options)

    def _batch(self, batch: dict[str, Any], device: Any, non_blocking: bool, **options: Any) -> Any:
        """Inputs, and targets with the number of classes that each label tells of."""
        inputs, targets = self.prepare_batch(batch, device, non_blocking, **options)
        return inputs, (targets, torch.as_tensor(batch["known"]) + self.has_background)

    def train_post_transforms(self, context: Context) -> None:
        """None: what is trained on is not evaluated."""

    def _dataloader(
        self, context: Context, dataset: Any, batch_size: int, num_workers: int, shuffle: bool = False
    ) -> DataLoader:
        request = context.request
        preset = parameters(context)
        generator = torch.Generator().manual_seed(request["seed"] * 1000 + request["member"])
        sampler: torch.utils.data.Sampler[int] | None = None
        if shuffle and preset.iterations_per_epoch > 0:
            draws = preset.iterations_per_epoch * batch_size
            sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=draws, generator=generator)
        elif shuffle:
            sampler = torch.utils.data.RandomSampler(dataset, generator=generator)
        return PrefetchLoader(
            dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, generator=generator
        )

    def train_handlers(self, context: Context) -> list[Any]:
        """Learning rate and validation."""
        handlers: list[Any] = [self.lr_scheduler_handler(context)]
        if context.evaluator:
            interval = min(parameters(context).val_interval, context.max_epochs)
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
            prepare_batch=self._batch,
            network=context.network,
            optimizer=context.optimizer,
            loss_function=KnownClassesLoss(self.loss_function(context), self.has_background),
            train_handlers=self.train_handlers(context),
            amp=self._amp,
            decollate=False,
        )

    def finalize(self, context: Context) -> None:
        """Attach progress, best weights and early stopping."""
        if context.local_rank == 0:
            MemberProgress(self, context, Path(self._stats_path), self._weights_path).attach()
        patience = parameters(context).early_stop_patience
        if patience > 0 and context.evaluator:
            stop = EarlyStopping(
                patience=patience,
                score_function=lambda engine: self.judge(engine.state.metrics)[0],
                trainer=context.trainer,
            )
            context.evaluator.add_event_handler(Events.EPOCH_COMPLETED, stop)


def _check_count(items: Sequence[Any]) -> None:
    if len(items) < MINIMUM_LABELS:
        raise TrainingError(f"training needs at least {MINIMUM_LABELS} labelled images, there are {len(items)}")


def parameters(context: Context) -> Any:
    """The hyper-parameters of the member being trained."""
    return context.request[_TRAIN_KEY]
