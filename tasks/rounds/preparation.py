"""Orders pools in the background, before the requests that will need them."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from strategies.catalogue import QueryStrategy
from tasks.rounds.rounds import Rounds

logger = logging.getLogger(__name__)

ANSWER_FIRST_SECONDS = 0.1
"""Ordering a pool begins this much later than the request before it, so as not to slow down its answer."""


class Preparation:
    """What is to be ordered, the most urgent first, and one thread that does it.

    Args:
        rounds: keeps what was ordered.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._waiting: OrderedDict[str, QueryStrategy] = OrderedDict()
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rounds")
        self._busy = False

    def ask(self, strategy: QueryStrategy, urgent: bool = False) -> None:
        """Have the pool ordered for the strategy's next round, unless that is done.

        Args:
            strategy: row of the catalogue.
            urgent: annotators are at work with it: before all others.
        """
        if self._rounds.is_prepared(strategy):
            return
        with self._lock:
            self._waiting.setdefault(strategy.name, strategy)
            if urgent:
                self._waiting.move_to_end(strategy.name, last=False)
            if not self._busy:
                self._busy = True
                self._worker.submit(self._work)

    def _work(self) -> None:
        while True:
            time.sleep(ANSWER_FIRST_SECONDS)
            with self._lock:
                if not self._waiting:
                    self._busy = False
                    return
                _, strategy = self._waiting.popitem(last=False)
            self.order(strategy)

    def order(self, strategy: QueryStrategy) -> None:
        """Order the pool for the strategy's next round now; what fails is logged."""
        try:
            self._rounds.prepare(strategy)
        except Exception:  # the request that needs the round will meet it again
            logger.exception("the next round of %s could not be prepared", strategy.name)
