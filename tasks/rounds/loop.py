"""The loop train -> score -> next round, in the background of a server.

The loop keeps no state of its own: what is due follows from the store, so it goes on after a kill or a restart, and
trainings that a viewer started count like its own. A training is due once enough final labels have changed (given,
replaced or removed) since the revision that the last one saw.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.learning.checkpoints import ModelRegistry
from tasks.learning.scoring import RECORDS
from tasks.learning.training import MINIMUM_LABELS
from tasks.rounds.holds import Holds
from tasks.rounds.rounds import Rounds
from tasks.store.claims import SCORING, TRAIN, Claims
from tasks.store.retention import Retention
from tasks.store.store import Store
from tasks.store.tables import now

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1800.0
"""How long a job that failed is left alone while nothing has changed."""


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
        train_after: labels changed since the last training after which the next is due.
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
        self.claims = Claims(store)
        self.holds = Holds(rounds)
        self.retention = Retention(store)
        self._untidy = True
        self._failed: dict[tuple[str, str], float] = {}
        self._retried_at: dt.datetime | None = None
        self._wake = threading.Event()

    @property
    def held_by(self) -> str | None:
        """Who has stopped the background jobs, None if nobody has (or it is over): see :class:`Holds`."""
        return self.holds.holder()

    def hold(self, client_id: str) -> None:
        """Start no job until a round is complete, ``batch_size`` labels have changed, or :meth:`release`."""
        self.holds.hold(client_id)

    def release(self, client_id: str = "") -> None:
        """Start jobs again."""
        self.holds.release(client_id)
        self.wake()

    def retry(self) -> None:
        """Try at once what failed a short while ago: somebody has done something about it."""
        self._failed.clear()
        self._retried_at = now()
        self.wake()

    def next_job(self) -> Job | None:
        """What is due now: scoring with an unscored model first, then training, else nothing."""
        if self.held_by is not None:
            return None
        version = self.registry.scoring_version()
        if version and (self.store.serving_version() != version or self.store.unscored(version) or self.unfinished()):
            job = Job(SCORING, (RECORDS,), f"{version}/{len(self.store.image_ids())}")
            if not self._has_failed(job):
                return job
        if self.store.label_count() < MINIMUM_LABELS:
            return None
        due = tuple(name for name in self.trainers if self._training_due(name))
        job = Job(TRAIN, due, str(self.store.label_revision()))
        return job if due and not self._has_failed(job) else None

    def _has_failed(self, job: Job) -> bool:
        """Whether it failed a short while ago: what was missing, such as an archive, may be back later."""
        return time.monotonic() - self._failed.get((job.kind, job.key), -RETRY_SECONDS) < RETRY_SECONDS

    def step(self) -> bool:
        """Run the next job that is due; returns whether there was one."""
        self.settle()
        job = self.next_job()
        if job is None:
            return self._tidy()
        self._untidy = True
        return self._run(job)

    def _run(self, job: Job) -> bool:
        """Run a job unless another server is at it; returns whether anything ran."""
        for name in job.names:
            with self.claims.claimed(f"{job.kind}/{name}") as ours:
                if not ours:
                    return name != job.names[0]
                if not self._is_still_due(job.kind, name):
                    continue
                logger.info("%s %s is due", job.kind, name)
                succeeded = self.run(job.kind, name)
            if succeeded:
                continue
            if (holder := self.held_by) is not None:
                logger.info("%s %s was stopped by %s", job.kind, name, holder or "an unknown user")
            else:
                logger.error("%s %s failed; annotators keep working from the current order", job.kind, name)
                self._failed[job.kind, job.key] = time.monotonic()
            break
        return True

    def _is_still_due(self, kind: str, name: str) -> bool:
        """Whether nobody has stopped it, and no other server has done it, since it was found due."""
        if kind == TRAIN:
            return self.held_by is None and self._training_due(name)
        job = self.next_job()
        return job is not None and job.kind == kind

    def _tidy(self) -> bool:
        """Delete a little of what nothing can ask for any more; returns whether there was anything."""
        if not self._untidy:
            return False
        self._untidy = bool(self.retention.tidy((self.registry.scoring_version(),)))
        return self._untidy

    def start(self, poll_seconds: float = 5.0) -> threading.Thread:
        """Run steps in a background thread until the process ends."""
        thread = threading.Thread(target=self._work, args=(poll_seconds,), name="active-learning-loop", daemon=True)
        thread.start()
        return thread

    def wake(self) -> None:
        """Look for work now instead of at the next poll."""
        self._wake.set()

    def _training_due(self, name: str) -> bool:
        seen = self.store.trained_revision(name) or 0
        if self.registry.current(name) is None:
            seen = 0  # every checkpoint is gone, damaged, or made for other labels
        if self._tried_lately(name):
            return False
        changed = self.store.labels_changed_since(seen)
        if not changed:
            return False
        return changed >= self.train_after or self._is_behind(name, seen) or self._round_completed_since(name)

    def _is_behind(self, name: str, seen: int) -> bool:
        """Whether a model that scores together with another knows fewer labels than that."""
        return name in self.registry.outdated() and seen < self._trained_elsewhere(name)

    def _trained_elsewhere(self, name: str) -> int:
        return max((self.store.trained_revision(other) or 0 for other in self.trainers if other != name), default=0)

    def _round_completed_since(self, name: str) -> bool:
        last = next((row for row in self.store.trainings(name, limit=20) if row.model_version is not None), None)
        return self.rounds.completed_since(last.started_at if last else None)

    def _tried_lately(self, name: str) -> bool:
        """Whether a training with the labels there are ended a short while ago, here or before a restart."""
        last = next(iter(self.store.trainings(name, limit=1)), None)
        if last is None or last.label_revision != self.store.label_revision():
            return False
        if self._retried_at is not None and last.finished_at <= self._retried_at:
            return False
        return (now() - last.finished_at).total_seconds() < RETRY_SECONDS

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
