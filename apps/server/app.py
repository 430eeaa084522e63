"""What all apps share: options, store, datastore, rounds, the loop, and the next-sample route."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException
from monailabel.config import settings
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask
from sqlalchemy import orm
from sqlalchemy.exc import SQLAlchemyError

from apps.auth.access import Row
from apps.auth.origins import OwnHosts
from apps.auth.readers import REMOVER
from apps.auth.realm import accept_tokens
from apps.http.lanes import DECODES, REQUESTS_AT_ONCE
from apps.http.sessions import Sessions
from apps.routes import every
from apps.routes.inference import BROUGHT
from apps.server.entry import MAIN, check_entry, check_main
from apps.server.options import ConfigurationError, Options, refuse
from apps.server.protection import listens_on, protect, warn_if_open
from apps.server.start import check_settings, check_studies, say_what_is_lost
from apps.upstream import application, share_threads
from strategies.catalogue import QueryStrategy
from strategies.next_sample import NextSample
from strategies.registry import offered
from tasks.common.files import reason
from tasks.common.memory import lacks_memory
from tasks.common.temporary import TEMPORARY, use_temporary_folder
from tasks.datastore.folder import Changes, ImageNow, StudiesFolder
from tasks.datastore.names import is_found, label_ref
from tasks.datastore.rules import FINAL
from tasks.dicom.client import is_remote
from tasks.geometry.sizes import LIMITS
from tasks.jobs.queue import JOB_PROCESS, Job, JobQueue
from tasks.learning.checkpoints import ModelError
from tasks.learning.groups import DUPLICATES_TABLE, Grouping, read_grouping
from tasks.learning.hyperparameters import default_preset
from tasks.learning.training import MembersTrainTask
from tasks.rounds.answers import Answers, Undone
from tasks.rounds.loop import ActiveLearningLoop
from tasks.rounds.planning_process import LARGE_POOL, PlanningProcess
from tasks.rounds.preparation import Preparation
from tasks.rounds.reconciliation import ImageState, Label
from tasks.rounds.rounds import Rounds
from tasks.store.claims import SCORING, TRAIN, Claims, new_owner
from tasks.store.database import PATIENCE_SECONDS
from tasks.store.label_names import LabelNames
from tasks.store.repair import mend
from tasks.store.store import Store
from tasks.store.tables import Model
from tasks.task import Bench, Task

logger = logging.getLogger(__name__)

JOB_PATIENCE_SECONDS = 60.0
"""How long a job waits for a database that another process holds: nobody waits for its answer."""


def _kept_for(studies: str, app_dir: str) -> Path:
    """Where models, store and, for an archive, labels and fetched images are kept."""
    if not is_remote(studies):
        return Path(studies) / "active_learning"
    given = settings.MONAI_LABEL_DATASTORE_CACHE_PATH or settings.MONAI_LABEL_DICOMWEB_CACHE_PATH
    return (Path(given) if given else Path(app_dir) / "model") / f"{zlib.crc32(studies.encode()):08x}"


KEPT_IN_HISTORY = (
    "model",
    "model_version",
    "label",
    "answer_id",
    "probabilities_shown",
    "segments",
    "notes",
    "previous",
    "source",
)
"""What is kept with a label that the history keeps too."""
TOLD = ("segments", "notes", "previous", "archive")
"""What is kept with a label that its sender is told."""


class ActiveLearningApp:
    """Mixin before ``MONAILabelApp``: ``class App(ActiveLearningApp, MONAILabelApp)``.

    MONAI Label takes the first class with ``MONAILabelApp`` among its direct bases, so this class must not be one; see
    :mod:`apps.server.entry`.

    An app names its kind of work in :attr:`task_type`.
    """

    task_type: type[Task]
    options_type: type[Options] = Options
    options: Options
    routers: tuple[APIRouter, ...] = ()
    """Routes of the app besides those that all have."""
    access: tuple[Row, ...] = ()
    """Rows of those routes that are not in the table of this repository, see :mod:`apps.auth.access`."""

    # Set by MONAILabelApp.__init__.
    app_dir: str
    studies: str
    _datastore: StudiesFolder
    _listening = False
    _taken_back: dict[str, str]
    _trainers: dict[str, TrainTask]
    _infers: dict[str, Any]
    _scoring_methods: dict[str, Any]
    _infers_threadpool: ThreadPoolExecutor | None
    _strategies: dict[str, NextSample]
    sessions: Callable[[], Any]

    def __init_subclass__(cls, **options: Any) -> None:
        """Stop a start that MONAI Label would end with a traceback: a ``main.py`` without a class that it takes."""
        super().__init_subclass__(**options)
        frame = inspect.currentframe()
        file = Path(str(frame.f_back.f_globals.get("__file__", ""))) if frame and frame.f_back else Path()
        if file.name == MAIN and file.is_file():
            try:
                check_main(cls, file)
            except ConfigurationError as error:
                refuse(error)

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        kind = self.task_type
        try:
            check_entry(type(self), Path(app_dir))
            check_settings()
            if kind.local_only and is_remote(studies):
                raise ConfigurationError(f"studies {studies} must be a local folder: this app works on image files")
            check_studies(studies)
            self.options = self.options_type.parse(conf or {}, labels=kind.default_labels)
            LIMITS.max_voxels, LIMITS.max_pixels = self.options.max_voxels, self.options.max_pixels
            self.query_strategies = self._offered()
            self.folder = _kept_for(studies, app_dir)
            self.grouping = self._grouping(studies)
            self.preset = self.options.preset or default_preset()
            if self.preset not in kind.presets:
                raise ConfigurationError(f"option preset must be one of {', '.join(kind.presets)}; got {self.preset!r}")
            if len(self.options.labels) < kind.fewest_labels:
                raise ConfigurationError(
                    f"option labels must be at least {kind.fewest_labels} names, got {', '.join(self.options.labels)}"
                )
            self.store = self._open_store()
            LabelNames(self.store).declare(self.options.labels, kind.first_label_value, self.options.relabel)
        except ValueError as error:
            refuse(ConfigurationError(str(error)))
        use_temporary_folder(self.folder / TEMPORARY)
        self.registry = kind.models(self.folder / "models", self.store, self.options.labels)
        if JOB_PROCESS in os.environ:
            # A job's datastore does not follow the studies: what comes from here on is new to the next training.
            self.registry.shown_revision = self.store.label_revision()
        self._taken_back = {}
        self.rounds = Rounds(self.store, self.options.batch_size, self.options.lease_minutes, self.options.seed)
        self.preparation = Preparation(self.rounds)
        self.task = kind(
            Bench(
                self.options,
                self.folder,
                self.store,
                self.registry,
                self.rounds,
                self.grouping,
                self.preset,
                self.query_strategies[0],
            )
        )
        try:
            super().__init__(  # type: ignore[call-arg]
                app_dir=app_dir,
                studies=studies,
                conf=conf,
                labels=list(self.options.labels),
                name=kind.title,
                description=kind.description,
                version="1.0",
            )
        except (OSError, SQLAlchemyError) as error:
            refuse(ConfigurationError(f"studies {studies} cannot be opened: {reason(error)}"))
        # Our loop decides when to score; MONAI Label would at every request.
        self._auto_update_scoring = False
        # Requests come in threads: without a limit, twenty annotators would run twenty networks at once.
        self._infers_threadpool = self._infers_threadpool or ThreadPoolExecutor(1, thread_name_prefix="infer")
        self.jobs = JobQueue(ended=self._job_ended)
        self.loop = ActiveLearningLoop(
            self.store,
            self.rounds,
            self.registry,
            self.options.train_after or self.options.batch_size,
            self.task.loop_trainers() if self.options.auto_train else (),
            self.run_job,
            self.settle,
            self.task.unfinished_scoring,
        )
        if JOB_PROCESS not in os.environ:
            say_what_is_lost(self.store, self.registry.folder, self._datastore.status()["completed"])
            try:
                self.sync_images()
            except (OSError, SQLAlchemyError) as error:
                refuse(ConfigurationError(f"store {self.store} cannot be written: {reason(error)}"))

    def _open_store(self) -> Store:
        location, job = self.options.store or str(self.folder / "store.sqlite"), JOB_PROCESS in os.environ
        if not job and "://" not in location:
            mend(Path(location), ours=not self.options.store)
        return Store(location, JOB_PATIENCE_SECONDS if job else PATIENCE_SECONDS)

    def _offered(self) -> list[QueryStrategy]:
        kind = self.task_type
        return offered(self.options.strategy or kind.default_strategy, kind.scores, kind.embeddings, kind.pseudo_labels)

    def _grouping(self, studies: str) -> Grouping:
        if not is_remote(studies):
            return read_grouping(Path(studies), self.options.group_by, self.folder / DUPLICATES_TABLE)
        if self.options.group_by:
            raise ConfigurationError("option group_by needs a local studies folder")
        return Grouping()

    def init_datastore(self) -> StudiesFolder:
        """The guarded datastore."""
        job = JOB_PROCESS in os.environ
        return self.task.datastore(
            self.studies,
            store=self.store,
            note=self._note,
            on_change=self._changed,
            tags=self.options.tags,
            # A job only reads: what it knows may be older than what annotators have saved since.
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD and not job,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY or job,
            turn=DECODES.turn,
        )

    def _load_sessions(self, load: bool = False) -> Sessions | None:
        """The readers' sessions; MONAI Label's lie in the home folder, without a bound."""
        folder = Path(settings.MONAI_LABEL_SESSION_PATH.strip() or self.folder / "sessions")
        return Sessions(folder, settings.MONAI_LABEL_SESSION_EXPIRY) if load else None

    def init_strategies(self) -> dict[str, NextSample]:
        """The strategies this app can serve, the default first."""
        return {row.name: NextSample(row, self.rounds, self.preparation) for row in self.query_strategies}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Those of the kind of work."""
        trainers = self.task.trainers()
        for trainer in trainers.values():
            if isinstance(trainer, MembersTrainTask) and self.options.start_from:
                trainer.start_from = self.options.start_from
        return trainers

    def init_infers(self) -> dict[str, InferTask]:
        """Those of the kind of work."""
        return self.task.inferers()

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Those of the kind of work."""
        return self.task.scorers()

    def trainers(self) -> Sequence[TrainTask]:
        """All trainers."""
        return list(self._trainers.values())

    def inferers(self) -> Mapping[str, Any]:
        """Name -> inference."""
        return self._infers

    def usable_models(self) -> list[str]:
        """Names of the models that inference can use now."""
        return [name for name, task in self._infers.items() if task.is_valid()]

    def scoring_methods(self) -> list[str]:
        """Names of the methods that score the pool."""
        return list(self._scoring_methods)

    def current_model(self) -> Model | None:
        """The newest model that scoring uses, None before the first training."""
        return next(iter(self.registry.scoring_models()), None)

    def sync_images(self) -> None:
        """Tell the store which images there are and which have a final label; from now on, follow changes.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be written.
        """
        with self._datastore.at_rest():
            self._datastore.follow_edits(self.store.noted_labels())
            there = self._datastore.images_now()
            gone = dict.fromkeys(set(self.store.image_ids()) - there.keys(), ImageNow(present=False))
            self._listening = True
            noted = self.rounds.note(self._states({**there, **gone}))
        self._taken_back.update(noted.taken_back)
        self.settle()

    def _note(self, session: orm.Session, images: Mapping[str, ImageNow]) -> None:
        """Images or final labels change in the datastore, in this very transaction."""
        if self._listening:  # the first look tells of all that came before
            self.rounds.note_within(session, self._states(images))

    def _changed(self, _: Changes) -> None:
        """Images or labels came or went."""
        if self._listening:
            self.settle()

    def _states(self, images: Mapping[str, ImageNow]) -> list[ImageState]:
        remover = REMOVER.get()
        return [
            ImageState(name, image.present, None, remover) if image.label is None else self._labelled(name, image)
            for name, image in images.items()
        ]

    def _labelled(self, image_id: str, image: ImageNow) -> ImageState:
        info = image.label or {}
        details = {name: info[name] for name in KEPT_IN_HISTORY if name in info}
        if is_found(info):
            details["source"] = "the studies, not a viewer"
        label = Label(label_ref(info), str(info.get("client_id") or ""), details, image.stamp)
        return ImageState(image_id, label=label, found_anew=self._datastore.is_new and is_found(info))

    def settle(self) -> None:
        """Finish what could not be done at once: labels that were taken back, and what the kind of work keeps."""
        try:
            self._remove_taken_back()
        except (OSError, SQLAlchemyError) as error:
            logger.error("a label that was taken back is removed later: %s", reason(error))
        self.task.settle(self._datastore)

    def _remove_taken_back(self) -> None:
        for image_id, ref in list(self._taken_back.items()):
            self._datastore.take_back(image_id, ref)
            self._taken_back.pop(image_id, None)

    def undo(self, client_id: str, undo_id: str = "") -> Undone:
        """Take back a reader's last answer, and remove its label.

        Raises:
            AnswerError: it cannot be taken back.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be written. What was taken back stays so: the label is
                removed later.
        """
        undone = Answers(self.rounds).undo(client_id, undo_id)
        if undone.taken_back is not None:
            self._taken_back[undone.image_id] = undone.taken_back
        self._remove_taken_back()
        return undone

    def info(self) -> dict[str, Any]:
        """What MONAI Label's clients want to know of the app; of the trainers, the one that runs comes first."""
        found: dict[str, Any] = super().info()  # type: ignore[misc]
        running = Claims(self.store).running(TRAIN)
        stats = found["train_stats"]
        found["train_stats"] = {name: stats[name] for name in sorted(stats, key=lambda name: name not in running)}
        return found

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next image for an annotator.

        Args:
            request: ``strategy`` (default the app's) and ``client_id``.

        Returns:
            Stock fields and those of the assignment; empty if nothing is left.

        Raises:
            MONAILabelException: unknown strategy.
        """
        name = request.get("strategy") or self.query_strategies[0].name
        task = self._strategies.get(name)
        if task is None:
            raise MONAILabelException(
                MONAILabelError.INVALID_INPUT,
                f"unknown strategy {name!r}; offered are {', '.join(self._strategies)}",
            )
        sample: dict[str, Any] = task(request, self._datastore)
        if not sample:
            return {}
        self._datastore.prefetch(sample["id"])
        return {**self._datastore.get_image_info(sample["id"]), **sample}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run inference.

        Raises:
            HTTPException: 400 with the reason for an image or option that cannot be used or a model that is not there;
                404 for an image that is neither in the datastore nor uploaded.
            ModelError: the model cannot be used.
            RuntimeError: the network fails, or there is too little memory.
        """
        image = request.get("image")
        if image not in self._datastore and image != request.get(BROUGHT):
            raise HTTPException(status_code=404, detail=f"there is no image {image!r}")
        try:
            result: dict[str, Any] = super().infer(request, datastore)  # type: ignore[misc]
        except (ValueError, RuntimeError) as error:
            of_the_request = _is_of_the_request(error) or image == request.get(BROUGHT)
            if isinstance(error, ModelError) or lacks_memory(error) or not of_the_request:
                raise
            raise HTTPException(status_code=400, detail=reason(error)) from error
        return result

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """A viewer stored a label: a final one ends the lease and may make a training due.

        Returns:
            What the sender is told.
        """
        if FINAL not in self._datastore.get_labels_by_image_id(image_id):
            return {}
        info = self._datastore.get_label_info(label_id, FINAL)
        logger.info("%s labelled by %s", image_id, info.get("client_id") or "an unknown annotator")
        self.settle()
        self._prepare_rounds()
        self.loop.wake()
        return {name: info[name] for name in TOLD if name in info}

    def on_init_complete(self) -> None:
        """Server start: routes, environment of the jobs, and the loop."""
        accept_tokens()
        new_owner()  # the jobs are this server's
        self.registry.tidy()
        self.registry.problems()  # no request has to wait until the checkpoints are read
        routers = [*every.routers(), *self.routers]
        protect(application(), routers, self.access, self.options.max_upload_mb << 20, self._own_hosts())
        share_threads(REQUESTS_AT_ONCE)
        warn_if_open(sys.argv[1:])
        super().on_init_complete()  # type: ignore[misc]
        if self._datastore.status()["total"] >= LARGE_POOL:
            self.rounds.planner = PlanningProcess(self.store, self.options.batch_size, self.options.seed)
        self.preparation.order(self.query_strategies[0])
        self._prepare_rounds()
        self._datastore.compute_checksums()
        self.loop.start()

    def _own_hosts(self) -> OwnHosts:
        origins = [*self.options.origins, *map(str, settings.MONAI_LABEL_CORS_ORIGINS)]
        try:
            hosts = OwnHosts.of(self.options.hosts, origins, listens_on(sys.argv[1:]))
        except ValueError as error:
            refuse(ConfigurationError(f"MONAI_LABEL_CORS_ORIGINS: {error}"))
        logger.info("reached as %s, or by address", ", ".join(sorted(hosts.names)))
        logger.info(
            "pages of other websites may use it: %s (MONAI Label's own rule, printed as Allow Origins, is taken out)",
            ", ".join(map(str, hosts.friends)) or "none",
        )
        return hosts

    def _prepare_rounds(self) -> None:
        """Have the pool ordered for every strategy, in the background: the first request of none should wait."""
        for strategy in self.query_strategies:
            self.preparation.ask(strategy)

    def run_job(self, kind: str, name: str) -> bool:
        """Run a job in a process of its own; wait for its end. True if it succeeded."""
        busy = [job for job in (self.jobs.running(kind), *self.jobs.waiting(kind)) if job is not None]
        if busy:  # somebody else has started it: afterwards the loop looks again at what is due
            busy[-1].ended.wait()
            return True
        job = self.jobs.submit(kind, {"model" if kind == TRAIN else "method": name})
        job.ended.wait()
        return job.succeeded

    def _job_ended(self, job: Job) -> None:
        """Whoever has asked for it: the pool may be in another order now."""
        if job.kind == SCORING:
            self.rounds.forget_plans()
        self._prepare_rounds()
        self.loop.wake()


def _is_of_the_request(error: BaseException | None) -> bool:
    """Whether an image or option that cannot be used is behind an error, such as MONAI's "applying transform ..."."""
    while error is not None and not isinstance(error, ValueError):
        error = error.__cause__
    return error is not None
