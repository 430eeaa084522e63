"""What all apps share: options, store, datastore, rounds, the loop, and the next-sample route."""

from __future__ import annotations

import logging
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from fastapi import APIRouter, Depends, HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import processes

from strategies.catalogue import QueryStrategy, offered
from strategies.next_sample import ANONYMOUS, NextSample
from strategies.rounds import Rounds
from strategies.store import Store
from tasks.datastore import StudiesFolder
from tasks.files import reason
from tasks.groups import DUPLICATES_TABLE, Grouping, read_grouping
from tasks.hyperparameters import default_preset
from tasks.loop import TRAIN, ActiveLearningLoop
from tasks.models import ModelRegistry

logger = logging.getLogger(__name__)

JOB_PROCESS = "ACTIVE_LEARNING_JOB"
"""Environment variable that the server sets for the training and scoring processes it starts."""


class ConfigurationError(ValueError):
    """A ``--conf`` option that is unknown or has a wrong value; the message names it."""


@dataclass(frozen=True)
class Options:
    """The ``--conf`` options of every app.

    Attributes:
        strategy: query strategy preselected in the viewers; empty is the app's default.
        batch_size: images per round.
        train_after: new labels after which training starts; 0 is ``batch_size``.
        lease_minutes: how long an image is promised to one annotator.
        seed: makes every random choice reproducible.
        preset: hyper-parameters; empty is the best for this machine.
        labels: foreground label names, comma separated, value 1 first.
        channels: channel names, comma separated, the file in the studies root first; empty for single files.
        group_by: column of ``labels.csv`` or regular expression on image ids; training validates on whole groups.
        store: SQLite file or SQLAlchemy URL; empty is a file beside the models.
        auto_train: start trainings in the background; scoring follows every training, whoever started it.
    """

    strategy: str = ""
    batch_size: int = 10
    train_after: int = 0
    lease_minutes: float = 60.0
    seed: int = 0
    preset: str = ""
    labels: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    group_by: str = ""
    store: str = ""
    auto_train: bool = True

    @classmethod
    def parse(cls, conf: Mapping[str, str], **defaults: Any) -> Options:
        """Options from the text values of the command line.

        Args:
            conf: ``--conf`` pairs.
            **defaults: the app's own defaults.

        Raises:
            ConfigurationError: unknown option or wrong value.
        """
        known = {item.name: item for item in fields(cls)}
        for name in conf:
            if name not in known:
                raise ConfigurationError(f"unknown option {name!r}; known are {', '.join(known)}")
        values: dict[str, Any] = dict(defaults)
        for name, text in conf.items():
            kind = type(getattr(cls, name))
            try:
                values[name] = _CONVERT[kind](str(text))
            except ValueError as error:
                raise ConfigurationError(f"option {name} must be {_KINDS[kind]}, got {text!r}") from error
        options = cls(**values)
        for name, low in (("batch_size", 1), ("train_after", 0), ("seed", 0)):
            if getattr(options, name) < low:
                raise ConfigurationError(f"option {name} must be at least {low}, got {getattr(options, name)}")
        if not options.lease_minutes > 0:
            raise ConfigurationError(f"option lease_minutes must be positive, got {options.lease_minutes}")
        for name in ("labels", "channels"):
            names = getattr(options, name)
            if len(set(names)) != len(names) or not all(_is_name(part) for part in names):
                raise ConfigurationError(
                    f"option {name} must be different names of letters, digits, '_', '-', got {names}"
                )
        return options


def _is_remote(studies: str) -> bool:
    return studies.startswith(("http://", "https://"))


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _is_name(part: str) -> bool:
    return part.replace("_", "").replace("-", "").replace(" ", "").isalnum()


_CONVERT: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str, bool: _boolean, tuple: _names}
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list of names"}


class ActiveLearningApp:
    """Mixin before ``MONAILabelApp``: ``class App(ActiveLearningApp, MONAILabelApp)``.

    MONAI Label takes the first class with ``MONAILabelApp`` among its direct bases, so this class must not be one.

    An app gives :attr:`default_strategy`, :attr:`scores`, :attr:`default_labels`, :attr:`presets` and :attr:`models`,
    and builds its tasks from :attr:`options`, :attr:`store`, :attr:`registry` and :attr:`grouping` in MONAI Label's
    ``init_...`` methods.
    """

    models: Callable[[Path, Store], ModelRegistry]
    presets: Mapping[str, Any]

    default_strategy = "random"
    default_labels: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    embeddings = False
    pseudo_labels = False

    # Set by MONAILabelApp.__init__.
    app_dir: str
    studies: str
    _datastore: Datastore
    _strategies: dict[str, Strategy]

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str], **about: Any) -> None:
        try:
            self.options = Options.parse(conf or {}, labels=self.default_labels)
            self.query_strategies = self._offered()
            self.folder = (
                Path(app_dir) / "model" / f"{zlib.crc32(studies.encode()):08x}"
                if _is_remote(studies)
                else Path(studies) / "active_learning"
            )
            self.grouping = self._grouping(studies)
            self.preset = self.options.preset or default_preset()
            if self.preset not in self.presets:
                raise ConfigurationError(f"option preset must be one of {', '.join(self.presets)}; got {self.preset!r}")
            self.store = Store(self.options.store or self.folder / "store.sqlite")
        except ValueError as error:
            refuse(ConfigurationError(str(error)))
        self.registry = type(self).models(self.folder / "models", self.store)
        self.rounds = Rounds(self.store, self.options.batch_size, self.options.lease_minutes, self.options.seed)
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, labels=list(self.options.labels), **about)  # type: ignore[call-arg]
        # Our loop decides when to score; MONAI Label would at every request.
        self._auto_update_scoring = False
        self.loop = ActiveLearningLoop(
            self.store,
            self.rounds,
            self.registry,
            self.options.train_after or self.options.batch_size,
            self.loop_trainers() if self.options.auto_train else (),
            self.run_job,
        )
        if JOB_PROCESS not in os.environ:
            self.sync_images()

    def loop_trainers(self) -> Sequence[str]:
        """Names of the trainers that the loop runs, in order."""
        raise NotImplementedError

    def _offered(self) -> list[QueryStrategy]:
        return offered(self.options.strategy or self.default_strategy, self.scores, self.embeddings, self.pseudo_labels)

    def _grouping(self, studies: str) -> Grouping:
        if not _is_remote(studies):
            return read_grouping(Path(studies), self.options.group_by, self.folder / DUPLICATES_TABLE)
        if self.options.group_by:
            raise ConfigurationError("option group_by needs a local studies folder")
        return Grouping()

    def init_datastore(self) -> Datastore:
        """A guarded folder for local studies, MONAI Label's own datastore for servers."""
        if _is_remote(self.studies):
            return super().init_datastore()  # type: ignore[misc]
        job = JOB_PROCESS in os.environ
        return StudiesFolder(
            self.studies,
            on_change=self.sync_images,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            # A job only reads: written back, its copy of the index would undo labels saved in the meantime.
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD and not job,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY or job,
        )

    def init_strategies(self) -> dict[str, Strategy]:
        """The strategies this app can serve, the default first."""
        return {row.name: NextSample(row, self.rounds) for row in self.query_strategies}

    def sync_images(self) -> None:
        """Tell the store which images there are and which have a final label."""
        datastore = self._datastore
        labelled = set(datastore.get_labeled_images())
        self.store.sync_images({image_id: image_id in labelled for image_id in datastore.list_images()})

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
        # A DICOMweb datastore knows an image's study and patient once it has fetched it.
        path = self._datastore.get_image_uri(sample["id"])
        return {**self._datastore.get_image_info(sample["id"]), **sample, "path": path}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run inference; an image that cannot be used or a model that is not there is an HTTP 400 with the reason."""
        try:
            result: dict[str, Any] = super().infer(request, datastore)  # type: ignore[misc]
        except (ValueError, RuntimeError) as error:
            logger.exception("inference failed")
            raise HTTPException(status_code=400, detail=reason(error)) from error
        return result

    def on_save_label(self, image_id: str, label_id: str) -> None:
        """A viewer stored a label: a final one ends the lease and may make a training due."""
        final = DefaultLabelTag.FINAL.value
        if final not in {str(getattr(tag, "value", tag)) for tag in self._datastore.get_labels_by_image_id(image_id)}:
            return
        info = self._datastore.get_label_info(label_id, final)
        annotator = self.rounds.take_label(image_id, info.get("client_id"), {"model": info.get("model")})
        logger.info("%s labelled by %s", image_id, annotator or "an unknown annotator")
        self.loop.wake()

    def on_init_complete(self) -> None:
        """Server start: route, environment of the jobs, and the loop."""
        os.environ[JOB_PROCESS] = "1"
        from monailabel.app import app as server

        server.router.routes.insert(0, _router.routes[0])
        super().on_init_complete()  # type: ignore[misc]
        self.loop.start()

    def run_job(self, kind: str, name: str) -> bool:
        """Run a job as MONAI Label does, in a process of its own; wait for its end. True if it succeeded."""
        task, _ = AsyncTask.run(kind, request={"model" if kind == TRAIN else "method": name})
        if task is None:  # somebody else started one: afterwards the loop looks again at what is due
            while processes(kind):
                time.sleep(0.5)
            return True
        while task["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        return bool(task["status"] == "DONE")


_router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)


@_router.post("/activelearning/{strategy}", tags=["ActiveLearning"])
def next_sample(
    strategy: str,
    request: Request,
    params: dict[str, Any] | None = None,
    user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
) -> dict[str, Any]:
    """Lease the next image of a strategy.

    Stands before MONAI Label's own route, which would block all other requests while it works, walk the datastore
    twice and rewrite its index. The annotator is ``client_id``, else the authenticated user, else one anonymous name
    per client address.
    """
    address = request.client.host if request.client else "unknown"
    signed_in = user.username if settings.MONAI_LABEL_AUTH_ENABLE else None
    options = dict(params or {})
    client_id = options.get("client_id") or signed_in or f"{ANONYMOUS}@{address}"
    try:
        sample: dict[str, Any] = app_instance().next_sample({**options, "strategy": strategy, "client_id": client_id})
    except MONAILabelException as error:
        raise HTTPException(status_code=404, detail=error.msg) from error
    return sample


def refuse(error: ConfigurationError) -> NoReturn:
    """Stop a starting server or job with one clear line; anywhere else, raise."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is not None and main.name in ("monailabel.main", "monailabel.interfaces.utils.app"):
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    raise error
