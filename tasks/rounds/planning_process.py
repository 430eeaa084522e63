"""Order a large pool in a process of its own.

Ordering a hundred thousand images keeps a processor and Python's interpreter lock busy for up to a second: a server
that did it itself would answer everybody late meanwhile.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TypeAlias

from strategies.catalogue import QueryStrategy
from strategies.registry import registered
from tasks.rounds.planning import Plan, Planner
from tasks.store.store import Store

logger = logging.getLogger(__name__)

LARGE_POOL = 5000
"""Images from which ordering them is worth a process."""
_NICE = 5


class PlanningError(RuntimeError):
    """A strategy could not order the pool; the message says why."""


Answer: TypeAlias = "Plan | PlanningError | None"


class PlanningProcess:
    """Orders pools in a process of its own, which keeps the records, and ends with this one.

    Where that process fails, and for a strategy that only this process knows, the pool is ordered here.

    Args:
        store: images, rounds, leases and records; the process opens connections of its own.
        batch_size: images per round.
        seed: makes every random order reproducible.
    """

    def __init__(self, store: Store, batch_size: int, seed: int) -> None:
        self._arguments = (store, batch_size, seed)
        self._process: subprocess.Popen[bytes] | None = None
        self._planner: Planner | None = None
        self._lock = threading.Lock()

    def plan(self, strategy: QueryStrategy) -> Plan | None:
        """The strategy's next round under the serving model version; None if nothing is left.

        Raises:
            PlanningError: the strategy failed.
        """
        if registered().get(strategy.name) != strategy:
            return self._here().plan(strategy)
        with self._lock:
            for _ in range(2):
                try:
                    answer = self._ask(strategy.name)
                    break
                except (EOFError, OSError, pickle.UnpicklingError) as error:
                    logger.warning("the process that orders the pool has ended: %r", error)
                    self._end()
            else:
                logger.error("the pool cannot be ordered in a process of its own: requests may be slow")
                return self._here().plan(strategy)
        if isinstance(answer, PlanningError):
            raise answer
        return answer

    def _here(self) -> Planner:
        if self._planner is None:
            self._planner = Planner(*self._arguments)
        return self._planner

    def _ask(self, name: str) -> Answer:
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _write(self._process.stdin, name)
        answer: Answer = pickle.load(self._process.stdout)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = str(max(1, (os.cpu_count() or 2) // 2))
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": threads,
                "OPENBLAS_NUM_THREADS": threads,
            },
        )
        assert process.stdin is not None
        _write(process.stdin, self._arguments)
        return process

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _write(stream: Any, content: Any) -> None:
    pickle.dump(content, stream)
    stream.flush()


def serve() -> None:
    """Order pools as they are asked for on standard input, until nobody can ask any more."""
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server is stopped with it, and this process ends with the server
    if hasattr(os, "nice"):
        os.nice(_NICE)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    planner = Planner(*pickle.load(requests))
    while True:
        try:
            name = pickle.load(requests)
        except EOFError:
            return
        answer: Answer
        try:
            answer = planner.plan(registered()[name])
        except Exception as error:  # whoever asked is told
            logger.exception("the pool could not be ordered for %s", name)
            answer = PlanningError(f"the pool could not be ordered for {name}: {error}")
        _write(answers, answer)
