"""The MONAI Label strategy over rounds and leases."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Executor, Future
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from strategies.catalogue import QueryStrategy
from strategies.rounds import Assignment, Rounds

logger = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
ANSWER_FIRST_SECONDS = 0.1
"""Ordering a pool begins this much later than the request before it, so as not to slow down its answer."""


class NextSample(Strategy):
    """Serves the next image of one query strategy; ``MONAILabelApp.next_sample`` calls it.

    Args:
        strategy: row of the catalogue.
        rounds: rounds and leases shared by all strategies of the app.
        background: orders the pool for the next round while annotators are busy with this one.
    """

    def __init__(self, strategy: QueryStrategy, rounds: Rounds, background: Executor) -> None:
        super().__init__(strategy.description)
        self.strategy = strategy
        self.rounds = rounds
        self._background = background
        self._preparing: Future[None] | None = None

    def prepare(self) -> None:
        """Have the pool ordered for the next round, unless that is done or on its way."""
        if not self.rounds.is_prepared(self.strategy) and (self._preparing is None or self._preparing.done()):
            self._preparing = self._background.submit(self._prepare)

    def _prepare(self) -> None:
        time.sleep(ANSWER_FIRST_SECONDS)
        try:
            self.rounds.prepare(self.strategy)
        except Exception:  # the request that needs the round will meet it again
            logger.exception("the next round of %s could not be prepared", self.strategy.name)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Lease the next image.

        Args:
            request: ``client_id`` names the annotator; without it all callers share one anonymous name.
            datastore: not read; the store knows which images are labelled.

        Returns:
            ``id`` and the fields of :class:`strategies.rounds.Assignment`; empty if nothing is left.
        """
        client_id = str(request.get("client_id") or ANONYMOUS)
        assignment = self.rounds.next_image(self.strategy, client_id)
        if assignment is None:
            logger.info("%s: no image left for %s", self.strategy.name, client_id)
            return {}
        self.prepare()
        return reply(assignment)


def reply(assignment: Assignment) -> dict[str, Any]:
    """An assignment as the viewers get it."""
    return {
        "id": assignment.image_id,
        "strategy": assignment.strategy,
        "score": assignment.score,
        "rank": assignment.rank,
        "group": assignment.group,
        "round": assignment.round,
        "round_size": assignment.round_size,
        "remaining": assignment.remaining,
        "model_version": assignment.model_version,
        "reason": assignment.reason,
        "lease_expires": assignment.lease_expires.isoformat() + "Z",
    }
