"""The loop train -> score -> next round, in the background of a server.

The loop keeps no state of its own: what is due follows from the store, so it goes on after a kill or a restart, and
trainings that a viewer started count like its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from strategies.rounds import Rounds
from strategies.store import Store
from tasks.models import ModelRegistry
from tasks.scoring import RECORDS
from tasks.training import MINIMUM_LABELS

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1800.0
"""How long a job that failed is left alone while nothing has changed."""
TRAIN = "train"
SCORING = "scoring"


@dataclass(frozen=True)
class Job:
    """Work that is due.

    Attributes:
        kind: ``"train"`` or ``"scoring"``.
        names: trainers, or the scoring method, to run one after another.
        key: what it is due for; a job that failed is not tried again at once before this changes.
    """

    kind: str
    names: tuple[str, ...]
    key: str


class ActiveLearningLoop:
    """Decides what is due and runs it.

    Args:
        store: says what is labelled, trained and scored.
        rounds: says which rounds are complete.
        registry: the current models.
        train_after: labels since the last training after which the next is due.
        trainers: trained one after another, the single model first.
        run: runs one job of a kind and name to its end; returns whether it succeeded.
        settle: called before every look for work, for whatever follows a job in the server's own process.
        unfinished: whether scoring has something left to do besides records.
    """

    def __init__(
        self,
        store: Store,
        rounds: Rounds,
        registry: ModelRegistry,
        train_after: int,
        trainers: Sequence[str],
        run: Callable[[str, str], bool],
        settle: Callable[[], None] = lambda: None,
        unfinished: Callable[[], bool] = lambda: False,
    ) -> None:
        if train_after < 1:
            raise ValueError(f"train_after must be at least 1, got {train_after}")
        self.store = store
        self.rounds = rounds
        self.registry = registry
        self.train_after = train_after
        self.trainers = tuple(trainers)
        self.run = run
        self.settle = settle
        self.unfinished = unfinished
        self._failed: dict[tuple[str, str], float] = {}
        self._wake = threading.Event()

    def next_job(self) -> Job | None:
        """What is due now: scoring with an unscored model first, then training, else nothing."""
        version = self.registry.scoring_version()
        if version and (self.store.serving_version() != version or self.store.unscored(version) or self.unfinished()):
            job = Job(SCORING, (RECORDS,), f"{version}/{len(self.store.image_ids())}")
            if not self._has_failed(job):
                return job
        labelled = self.store.labelled_count()
        if labelled < MINIMUM_LABELS:
            return None
        due = tuple(name for name in self.trainers if self._training_due(name, labelled))
        job = Job(TRAIN, due, str(labelled))
        return job if due and not self._has_failed(job) else None

    def _has_failed(self, job: Job) -> bool:
        """Whether it failed a short while ago: what was missing, such as an archive, may be back later."""
        return time.monotonic() - self._failed.get((job.kind, job.key), -RETRY_SECONDS) < RETRY_SECONDS

    def step(self) -> bool:
        """Run the next job that is due; returns whether there was one."""
        self.settle()
        job = self.next_job()
        if job is None:
            return False
        logger.info("%s %s is due", job.kind, ", ".join(job.names))
        for name in job.names:
            if not self.run(job.kind, name):
                logger.error("%s %s failed; annotators keep working from the current order", job.kind, name)
                self._failed[job.kind, job.key] = time.monotonic()
                break
        return True

    def start(self, poll_seconds: float = 5.0) -> threading.Thread:
        """Run steps in a background thread until the process ends."""
        thread = threading.Thread(target=self._work, args=(poll_seconds,), name="active-learning-loop", daemon=True)
        thread.start()
        return thread

    def wake(self) -> None:
        """Look for work now instead of at the next poll."""
        self._wake.set()

    def _training_due(self, name: str, labelled: int) -> bool:
        model = self.store.current_model(name)
        trained_on = model.labelled_count if model else 0
        if labelled <= trained_on:
            return False
        return labelled - trained_on >= self.train_after or self.rounds.completed_since(
            model.created_at if model else None
        )

    def _work(self, poll_seconds: float) -> None:
        while True:
            try:
                worked = self.step()
            except Exception:  # the loop must outlive any failure of one step
                logger.exception("the active learning loop could not run a step")
                worked = False
            if not worked:
                self._wake.wait(poll_seconds)
                self._wake.clear()
