"""Jobs that a server runs in processes of their own: one of a kind at a time, the others wait in a bounded queue.

MONAI Label has such a queue, but a request decides there on the environment of the process, nothing bounds the queue
or what is kept of finished jobs, and what waits cannot be taken back.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import random
import subprocess
import sys
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from tasks.store.claims import SCORING, TRAIN

logger = logging.getLogger(__name__)

BATCH_INFERENCE = "batch_infer"
KINDS = (TRAIN, SCORING, BATCH_INFERENCE)
"""As MONAI Label names them."""
JOB_PROCESS = "ACTIVE_LEARNING_JOB"
"""Environment variable that tells a process that it is a job of a server."""
LONGEST_QUEUE = 8
"""Jobs of a kind that may wait."""
KEPT = 20
"""Finished jobs of a kind that can be looked up, and lines of output of each."""
_PORTS = (20_000, 30_000)
"""A training on several GPUs lets its processes meet at a port of this range."""


class QueueFullError(RuntimeError):
    """Too many jobs of a kind wait already."""


@dataclass
class Job:
    """One job.

    Attributes:
        kind: one of :data:`KINDS`.
        request: what to do, checked before.
        asked_by: name of the person who asked for it, empty if the server did.
        status: ``SUBMITTED``, ``RUNNING``, ``DONE``, ``ERROR`` or ``STOPPED``.
        lines: the last lines of its output.
        ended: set once it has ended, however.
    """

    kind: str
    request: dict[str, Any]
    asked_by: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "SUBMITTED"
    submitted_at: str = field(default_factory=lambda: _time())
    ended_at: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))
    ended: threading.Event = field(default_factory=threading.Event)
    process: subprocess.Popen[str] | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it has done what it should."""
        return self.status == "DONE"

    def as_task(self) -> dict[str, Any]:
        """The job as MONAI Label's clients know it."""
        task = {
            "id": self.id,
            "status": self.status,
            "request": self.request,
            "start_ts": self.submitted_at,
            "details": list(self.lines),
        }
        return {**task, "end_ts": self.ended_at} if self.ended_at else task

    def end(self, status: str) -> None:
        """Note that it has ended."""
        self.status, self.ended_at = status, _time()
        self.ended.set()


class JobQueue:
    """Runs jobs, those of a kind one after another.

    Args:
        command: kind and request -> the command line of the job's process; default MONAI Label's.
        ended: called with every job that was run to its end or stopped.
    """

    def __init__(
        self,
        command: Callable[[str, Mapping[str, Any]], Sequence[str]] | None = None,
        ended: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self._command = command or monai_label_command
        self._ended = ended
        self._lock = threading.Condition()
        self._waiting: defaultdict[str, deque[Job]] = defaultdict(deque)
        self._running: dict[str, Job] = {}
        self._kept: defaultdict[str, deque[Job]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._workers: set[str] = set()

    def submit(self, kind: str, request: Mapping[str, Any], asked_by: str = "") -> Job:
        """Have a job run after those that wait.

        Raises:
            QueueFullError: too many wait.
        """
        job = Job(kind, dict(request), asked_by)
        with self._lock:
            if len(self._waiting[kind]) >= LONGEST_QUEUE:
                raise QueueFullError(f"{len(self._waiting[kind])} jobs of this kind wait already: stop them, or wait")
            self._waiting[kind].append(job)
            self._kept[kind].append(job)
            if kind not in self._workers:
                self._workers.add(kind)
                threading.Thread(target=self._work, args=(kind,), name=f"jobs-{kind}", daemon=True).start()
            self._lock.notify_all()
        return job

    def stop(self, kind: str) -> list[Job]:
        """End the running job of a kind and take those that wait out of the queue.

        Returns:
            The jobs that this has ended, the running one first.
        """
        with self._lock:
            waiting = list(self._waiting[kind])
            self._waiting[kind].clear()
            running = self._running.get(kind)
            if running is not None:  # it ends once its process has
                running.status, running.ended_at = "STOPPED", _time()
            for job in waiting:
                job.end("STOPPED")
            stopped = [*([running] if running is not None else []), *waiting]
        if running is not None and running.process is not None:
            _kill(running.process)
        return stopped

    def running(self, kind: str) -> Job | None:
        """The running job of a kind."""
        return self._running.get(kind)

    def waiting(self, kind: str) -> list[Job]:
        """The jobs of a kind that wait, the next one first."""
        with self._lock:
            return list(self._waiting[kind])

    def jobs(self, kind: str) -> list[Job]:
        """Finished, running and waiting jobs of a kind, the newest last."""
        with self._lock:
            return list(self._kept[kind])

    def _work(self, kind: str) -> None:
        while True:
            with self._lock:
                while not self._waiting[kind]:
                    self._lock.wait()
                job = self._running[kind] = self._waiting[kind].popleft()
                job.status = "RUNNING"
            try:
                self._run(job)
            except Exception as error:  # the worker must outlive a job that cannot even be started
                logger.exception("a %s job could not be run", kind)
                job.lines.append(f"it could not be run: {error}")
                job.end("ERROR")
            with self._lock:
                del self._running[kind]
            try:
                self._ended(job)
            except Exception:  # nor must a listener end it
                logger.exception("what follows a %s job failed", kind)

    def _run(self, job: Job) -> None:
        command = self._command(job.kind, job.request)
        output = logging.getLogger(f"task_{job.kind}")
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=job_environment(job.kind),
            text=True,
            errors="replace",
        ) as process:
            with self._lock:
                job.process = process
                stopped = job.status == "STOPPED"
            if stopped:  # between its turn and its start
                _kill(process)
            assert process.stdout is not None
            for line in process.stdout:
                if text := line.rstrip():
                    output.info(text)
                    job.lines.append(text)
        job.process = None
        logger.info("%s job %s ended with status %d", job.kind, job.id, process.returncode)
        with self._lock:
            job.end("STOPPED" if job.status == "STOPPED" else _outcome(process.returncode))


def _outcome(status: int) -> str:
    return "DONE" if status == 0 else "ERROR"


def job_environment(kind: str) -> dict[str, str]:
    """The environment of a job's process: the server's own, whatever a request says."""
    environment = {**os.environ, JOB_PROCESS: "1", "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false"}
    if kind == TRAIN:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(random.randint(*_PORTS))}
    return environment


def monai_label_command(kind: str, request: Mapping[str, Any]) -> list[str]:
    """MONAI Label's command that builds the app again and runs one job."""
    text = json.dumps(request, separators=(",", ":"))
    return [sys.executable, "-m", "monailabel.interfaces.utils.app", "-m", kind, "-r", text]


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and all that it has started."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _time() -> str:
    return dt.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
