"""One image promised to one annotator, and who makes such promises."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Protocol

from strategies.catalogue import QueryStrategy


@dataclass(frozen=True)
class Assignment:
    """One image promised to one annotator.

    Attributes:
        image_id: id in the datastore.
        strategy: query strategy of the round.
        score: acquisition score, None where the strategy or a cold start has none.
        rank: place in the round, 1 first.
        round: number of the round among those of its strategy, 1 first.
        round_size: images in the round.
        remaining: images of the round not yet labelled, this one included.
        model_version: checkpoints that ordered the round, empty in a cold start.
        reason: ``"scored"``, ``"cold_start"``, or ``"score_missing"`` where the serving models lack the score.
        lease_expires: end of the promise, UTC.
        group: part of the strategy's split that the image is of, None where there is no split.
    """

    image_id: str
    strategy: str
    score: float | None
    rank: int
    round: int
    round_size: int
    remaining: int
    model_version: str
    reason: str
    lease_expires: dt.datetime
    group: str | None = None


class Assigns(Protocol):
    """Rounds and leases, as a strategy needs them."""

    def next_image(self, strategy: QueryStrategy, client_id: str) -> Assignment | None:
        """The next image of a query strategy for an annotator; None if nothing is left."""


class OrdersAhead(Protocol):
    """Has pools ordered before the requests that will need it."""

    def ask(self, strategy: QueryStrategy, urgent: bool = False) -> None:
        """Have the pool ordered for the strategy's next round, unless that is done."""
