"""A real ``monailabel start_server`` as a subprocess, and MONAI Label's own client."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from monailabel.client import MONAILabelClient

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "apps" / "volume_segmentation"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """Starts the server in a process group of its own; ``kill`` takes its jobs with it."""

    def __init__(self, studies: Path | str, folder: Path, app: Path = APP, **conf: str) -> None:
        self.studies, self.folder, self.app, self.conf = studies, folder, app, conf
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        options = [part for name, value in self.conf.items() for part in ("--conf", name, value)]
        return [
            *("monailabel", "start_server"),
            *("--app", str(self.app), "--studies", str(self.studies), "--host", "127.0.0.1", "--port", str(self.port)),
            *options,
        ]

    def environment(self) -> dict[str, str]:
        """As in an activated virtual environment, without settings of the test run."""
        environment = {**os.environ, "PYTHONPATH": "", "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "true"}
        environment.pop("MONAI_LABEL_TRACKING_ENABLED", None)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return environment

    def start(self, seconds: float = 120) -> Server:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for(self._ready, seconds, lambda: self.text()[-3000:])
        except BaseException:
            self.kill()
            raise
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.text()[-3000:]
        try:
            return requests.get(f"{self.url}/info/", timeout=30).status_code in (200, 401)
        except requests.ConnectionError:
            return False

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def memory(self, name: str = "VmRSS") -> int:
        """Bytes of the server's memory: ``VmRSS`` what it uses, ``VmSize`` what it has mapped."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:"))) << 10

    def limit_memory(self, more: int) -> None:
        """Let the server map no more than this beyond what it has mapped now."""
        assert self.process is not None
        most = self.memory("VmSize") + more
        resource.prlimit(self.process.pid, resource.RLIMIT_AS, (most, most))

    def kill(self) -> None:
        """kill -9 of the server and everything it started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def client(self, name: str = "reader") -> MONAILabelClient:
        # A folder of its own: results are saved under the server's file names, which the server deletes afterwards.
        downloads = self.folder / "downloads"
        downloads.mkdir(exist_ok=True)
        return MONAILabelClient(self.url, tmpdir=str(downloads), client_id=name)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=60, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", timeout=60, **options)

    def job(self, kind: str) -> dict[str, Any] | None:
        """The newest training or scoring as the server tells it."""
        response = self.get(f"/{kind}/")
        return response.json() if response.status_code == 200 else None

    def finished(self, kind: str, seconds: float = 240) -> dict[str, Any]:
        """Wait for the end of the newest training or scoring."""

        def ended() -> dict[str, Any] | None:
            job = self.job(kind)
            return job if job and job["status"] in ("DONE", "ERROR") else None

        return wait_for(ended, seconds, lambda: self.text()[-3000:])

    def run(self, kind: str, name: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start a training or scoring as a viewer does and wait for its end."""
        assert self.post(f"/{kind}/{name}", json=options or {}).status_code == 200
        return self.finished(kind)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.kill()


def wait_for(condition: Callable[[], Any], seconds: float, explain: Callable[[], str] = lambda: "") -> Any:
    """Poll until the condition is true; returns its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds:.0f} s\n{explain()}")
