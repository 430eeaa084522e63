"""Workers end with their parent."""

import os
import subprocess
import sys
from pathlib import Path

from tests.server import ROOT, wait_for


def test_workers_of_a_killed_process_end_too(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from tasks.simulation.processes import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    executor = ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)\n"
        "    print(executor.submit(os.getpid).result(), flush=True)\n"
        "    executor.submit(time.sleep, 600).result()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(process.stdout.readline())
    os.kill(worker, 0)  # is there
    process.kill()
    process.wait()

    def ended() -> bool:
        status = Path(f"/proc/{worker}/stat")
        return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"

    wait_for(ended, 30)
