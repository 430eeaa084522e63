"""Jobs run one after another in processes of their own; what waits is bounded and can be taken back."""

import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.jobs.queue import KEPT, LONGEST_QUEUE, JobQueue, QueueFullError, monai_label_command
from tasks.store.claims import SCORING, TRAIN

SECONDS = 60


def python(kind, request):
    return [sys.executable, "-c", request["code"], kind]


@pytest.fixture
def queue():
    queue = JobQueue(python)
    yield queue
    for kind in (TRAIN, SCORING):
        queue.stop(kind)


def sleeping(file: Path) -> dict:
    """A job that starts a process of its own, says so in a file, and sleeps."""
    child = "import time; time.sleep(600)"
    code = f"import os,subprocess,sys,time; c = subprocess.Popen([sys.executable, '-c', {child!r}]); "
    return {"code": f"{code} open({str(file)!r}, 'w').write(f'{{os.getpid()}} {{c.pid}} '); time.sleep(600)"}


def written(file: Path) -> list[int]:
    end = time.monotonic() + SECONDS
    while not (file.exists() and file.read_text().endswith(" ")):
        assert time.monotonic() < end, "the job did not start"
        time.sleep(0.02)
    return [int(number) for number in file.read_text().split()]


def test_a_job_ends_with_its_output_and_status(queue):
    good = queue.submit(TRAIN, {"code": "print('one'); print(); print('two')"})
    bad = queue.submit(TRAIN, {"code": "print(bytes([255])); raise SystemExit('no')"}, "ann")
    assert good.ended.wait(SECONDS)
    assert bad.ended.wait(SECONDS)
    assert (good.status, good.as_task()["details"]) == ("DONE", ["one", "two"])
    assert (bad.status, bad.lines[-1], bad.asked_by) == ("ERROR", "no", "ann")
    assert set(bad.as_task()) == {"id", "status", "request", "start_ts", "end_ts", "details"}
    assert queue.running(TRAIN) is None or queue.running(TRAIN) is bad


def test_jobs_of_a_kind_run_one_after_another_and_kinds_side_by_side(queue, tmp_path):
    queue.submit(TRAIN, sleeping(tmp_path / "first"))
    written(tmp_path / "first")
    second = queue.submit(TRAIN, sleeping(tmp_path / "second"))
    assert queue.submit(SCORING, {"code": ""}).ended.wait(SECONDS)
    assert second.status == "SUBMITTED"
    assert queue.waiting(TRAIN) == [second]
    assert not (tmp_path / "second").exists()


def test_stopping_ends_all_processes_of_the_job_and_empties_the_queue(queue, tmp_path):
    job = queue.submit(TRAIN, sleeping(tmp_path / "first"))
    pids = written(tmp_path / "first")
    waiting = [queue.submit(TRAIN, sleeping(tmp_path / f"later{number}")) for number in range(3)]
    assert queue.stop(TRAIN) == [job, *waiting]
    assert {each.status for each in (job, *waiting)} == {"STOPPED"}
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=SECONDS)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert job.ended.wait(SECONDS)
    after = queue.submit(TRAIN, {"code": "print('after')"})
    assert after.ended.wait(SECONDS)
    assert after.succeeded
    assert not list(tmp_path.glob("later*"))
    assert job.status == "STOPPED"
    assert queue.stop(TRAIN) == []


def test_what_waits_and_what_is_kept_is_bounded(queue, tmp_path):
    queue.submit(TRAIN, sleeping(tmp_path / "first"))
    written(tmp_path / "first")
    for _ in range(LONGEST_QUEUE):
        queue.submit(TRAIN, {"code": ""})
    with pytest.raises(QueueFullError, match=f"{LONGEST_QUEUE} jobs of this kind wait already"):
        queue.submit(TRAIN, {"code": ""})
    queue.stop(TRAIN)
    for _ in range(KEPT):
        queue.submit(TRAIN, {"code": ""})
        queue.stop(TRAIN)
    assert len(queue.jobs(TRAIN)) == KEPT


def test_a_job_that_cannot_be_started_is_an_error_and_the_next_one_runs(tmp_path):
    queue = JobQueue(lambda kind, request: [str(tmp_path / "nothing")] if request else [sys.executable, "-c", ""])
    broken, next_one = queue.submit(TRAIN, {"x": 1}), queue.submit(TRAIN, {})
    assert next_one.ended.wait(SECONDS)
    assert (broken.status, next_one.status) == ("ERROR", "DONE")
    assert "could not be run" in broken.lines[-1]


def test_no_request_decides_on_the_environment(queue, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/server/own")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    names = ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "ACTIVE_LEARNING_JOB")
    code = f"import json, os; print(json.dumps([os.environ.get(name) for name in {names!r}]))"
    request = {"code": code, "bundle_path": str(Path.cwd()), "gpus": "7", "PYTHONPATH": "/evil", "env": {"X": "1"}}
    job = queue.submit(TRAIN, request)
    assert job.ended.wait(SECONDS)
    assert json.loads(job.lines[-1]) == ["/server/own", None, "1"]
    assert "ACTIVE_LEARNING_JOB" not in os.environ


def test_monai_label_runs_the_job():
    assert monai_label_command(TRAIN, {"model": "a b"})[1:] == [
        *("-m", "monailabel.interfaces.utils.app", "-m", "train", "-r", '{"model":"a b"}')
    ]
