"""The MONAI Label strategy over rounds and leases."""

from __future__ import annotations

import logging
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from strategies.assignment import Assignment, Assigns, OrdersAhead
from strategies.catalogue import QueryStrategy

logger = logging.getLogger(__name__)

ANONYMOUS = "anonymous"


class NextSample(Strategy):
    """Serves the next image of one query strategy; ``MONAILabelApp.next_sample`` calls it.

    Args:
        strategy: row of the catalogue.
        rounds: rounds and leases shared by all strategies of the app.
        preparation: orders the pool for the next round while annotators are busy with this one.
    """

    def __init__(self, strategy: QueryStrategy, rounds: Assigns, preparation: OrdersAhead) -> None:
        super().__init__(strategy.description)
        self.strategy = strategy
        self.rounds = rounds
        self.preparation = preparation

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Lease the next image.

        Args:
            request: ``client_id`` names the annotator; without it all callers share one anonymous name.
            datastore: not read; the store knows which images are labelled.

        Returns:
            ``id`` and the fields of :class:`strategies.assignment.Assignment`; empty if nothing is left.
        """
        client_id = str(request.get("client_id") or ANONYMOUS)
        assignment = self.rounds.next_image(self.strategy, client_id)
        if assignment is None:
            logger.info("%s: no image left for %s", self.strategy.name, client_id)
            return {}
        self.preparation.ask(self.strategy, urgent=True)
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
