"""Trainings, scorings and batch inferences as the viewers start, watch and stop them.

MONAI Label's own routes pass the whole body of a request on to the job, where one of its keys puts a folder on the
Python path. Here a job takes known options only, all of them checked before it is queued.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from fastapi import APIRouter, HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance

from apps.auth.readers import ADMIN, READER, client_of
from apps.http.words import without_paths
from tasks.datastore.folder import ORIGINAL
from tasks.jobs.options import batch_options, scoring_options, without_added
from tasks.jobs.queue import BATCH_INFERENCE, Job, QueueFullError
from tasks.learning.training import MINIMUM_LABELS
from tasks.store.claims import SCORING, TRAIN

logger = logging.getLogger(__name__)

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)

Options = dict[str, Any]


@router.get("/train/", tags=["Train"])
def trainings(all: bool = False, check_if_running: bool = False, user: User = READER) -> Any:
    """The newest training with its status and the last lines of its output; all of them, or the running one."""
    return _status(TRAIN, all, check_if_running)


@router.post("/train/{model}", tags=["Train"])
def train(
    model: str, request: Request, params: Options | None = None, enqueue: bool = False, user: User = ADMIN
) -> Options:
    """Train a model; the options are the trainer's hyper-parameters, see ``config`` of the trainers in ``/info/``."""
    client_id = client_of((params or {}).get("client_id"), user, request)
    checked = _training(model, params or {})
    app_instance().loop.release(client_id)
    return _shown(_submit(TRAIN, checked, client_id, enqueue))


@router.post("/train/", include_in_schema=False)
def update_model(request: Request, params: Options | None = None, user: User = ADMIN) -> Options:
    """OHIF's *Update Model*: train what the server trains by itself.

    OHIF sends the options of every trainer under its name; those of the trainers that run are checked and used.
    """
    app, given = app_instance(), params or {}
    client_id = client_of(given.get("client_id"), user, request)
    common = without_added(given, [trainer.name for trainer in app.trainers()])
    checked = []
    for name in app.task.loop_trainers():
        own = given.get(name)
        checked.append(_training(name, {**common, **(own if isinstance(own, dict) else {})}))
    app.loop.release(client_id)
    jobs = [_submit(TRAIN, each, client_id, enqueue=True) for each in checked]
    return {job.request["model"]: {"result": _shown(job), "detail": None} for job in jobs}


@router.delete("/train/", tags=["Train"])
def stop_training(request: Request, user: User = ADMIN) -> Any:
    """Stop the training and take back those that wait.

    The server trains by itself again once the round is complete, ``batch_size`` labels have come, or somebody starts
    a training.
    """
    return _stop(TRAIN, client_of(None, user, request))


@router.get("/scoring/", tags=["Scoring"])
def scorings(all: bool = False, check_if_running: bool = False, user: User = READER) -> Any:
    """The newest scoring with its status and the last lines of its output; all of them, or the running one."""
    return _status(SCORING, all, check_if_running)


@router.post("/scoring/{method}", tags=["Scoring"])
def score(
    method: str, request: Request, params: Options | None = None, enqueue: bool = False, user: User = ADMIN
) -> Options:
    """Score the pool with the current model."""
    client_id = client_of((params or {}).get("client_id"), user, request)
    return _shown(_submit(SCORING, _scoring(method, params or {}), client_id, enqueue))


@router.post("/scoring/", include_in_schema=False)
def score_all(request: Request, params: Options | None = None, user: User = ADMIN) -> Options:
    """Score the pool with all methods there are."""
    client_id = client_of((params or {}).get("client_id"), user, request)
    checked = [_scoring(method, params or {}) for method in app_instance().scoring_methods()]
    jobs = [_submit(SCORING, each, client_id, enqueue=True) for each in checked]
    return {job.request["method"]: {"result": _shown(job), "detail": None} for job in jobs}


@router.delete("/scoring/", tags=["Scoring"])
def stop_scoring(request: Request, user: User = ADMIN) -> Any:
    """Stop the scoring and take back those that wait; see ``DELETE /train/`` for when the server goes on."""
    return _stop(SCORING, client_of(None, user, request))


@router.get("/batch/infer", tags=["Infer"])
def batch_inferences(all: bool = False, check_if_running: bool = False, user: User = READER) -> Any:
    """The newest batch inference with its status and the last lines of its output; all, or the running one."""
    return _status(BATCH_INFERENCE, all, check_if_running)


@router.post("/batch/infer/{model}", tags=["Infer"])
def infer_many(
    model: str,
    request: Request,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: Options | None = None,
    user: User = ADMIN,
) -> Options:
    """Run a model on many images in the background; the results are stored as ``original`` labels."""
    app, given = app_instance(), params or {}
    client_id = client_of(given.get("client_id"), user, request)
    if model not in app.usable_models():
        raise HTTPException(status_code=404, detail=f"there is no trained model {model!r}")
    options = _checked(batch_options, given, {ORIGINAL, *app.options.tags})
    # MONAI Label divides by the number of CUDA devices where several are to be used.
    several = {"multi_gpu": torch.cuda.is_available(), "gpus": "all", "max_workers": 1}
    job = {"model": model, "images": images.value, **options, **several, "label_tag": ORIGINAL, "save_label": True}
    return _shown(_submit(BATCH_INFERENCE, job, client_id, enqueue=False))


@router.delete("/batch/infer", tags=["Infer"])
def stop_batch(request: Request, user: User = ADMIN) -> Any:
    """Stop the batch inference and take back those that wait."""
    return _stop(BATCH_INFERENCE, client_of(None, user, request))


def _training(model: str, given: Mapping[str, Any]) -> Options:
    """The checked request of a training."""
    app = app_instance()
    trainers = {trainer.name: trainer for trainer in app.trainers()}
    if model not in trainers:
        raise HTTPException(status_code=400, detail=f"unknown trainer {model!r}; known are {', '.join(trainers)}")
    labelled = app.store.labelled_count()
    if labelled < MINIMUM_LABELS:
        words = f"training needs at least {MINIMUM_LABELS} labelled images, there are {labelled}"
        raise HTTPException(status_code=400, detail=words)
    return {"model": model, **_checked(trainers[model].checked, without_added(given, trainers))}


def _scoring(method: str, given: Mapping[str, Any]) -> Options:
    """The checked request of a scoring."""
    app, methods = app_instance(), app_instance().scoring_methods()
    if method not in methods:
        raise HTTPException(status_code=400, detail=f"unknown method {method!r}; known are {', '.join(methods)}")
    if not app.registry.scoring_version():
        raise HTTPException(status_code=400, detail="there is no trained model to score with yet: train one first")
    names = [*methods, *(trainer.name for trainer in app.trainers())]
    return {"method": method, **_checked(scoring_options, without_added(given, names))}


def _checked(check: Any, *values: Any) -> Options:
    try:
        return dict(check(*values))
    except ValueError as error:
        raise HTTPException(status_code=400, detail=str(error)) from error


def _submit(kind: str, checked: Options, client_id: str, enqueue: bool) -> Job:
    """Queue a job; unless it may wait behind others that people have asked for, those are a 429."""
    jobs = app_instance().jobs
    busy = [job for job in (jobs.running(kind), *jobs.waiting(kind)) if job is not None and job.asked_by]
    if busy and not enqueue:
        raise HTTPException(status_code=429, detail=f"a job that {busy[0].asked_by} has started is running already")
    try:
        job: Job = jobs.submit(kind, checked, client_id)
    except QueueFullError as error:
        raise HTTPException(status_code=429, detail=str(error)) from error
    logger.info("%s asked for %s", client_id, checked)
    return job


def _status(kind: str, every: bool, running: bool) -> Any:
    jobs = app_instance().jobs
    found = [jobs.running(kind)] if running else jobs.jobs(kind)
    if not found or found[-1] is None:
        raise HTTPException(status_code=404, detail=f"there is no {kind} job")
    return [_shown(job) for job in found] if every else _shown(found[-1])


def _stop(kind: str, client_id: str) -> Options | None:
    """Stop all jobs of a kind; the answer is the one that was running, as in MONAI Label."""
    app = app_instance()
    if kind in (TRAIN, SCORING):
        app.loop.hold(client_id)
    stopped = app.jobs.stop(kind)
    logger.info("%s stopped %d %s jobs", client_id, len(stopped), kind)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return _shown(stopped[0]) if stopped else None


def _shown(job: Job) -> Options:
    """A job as the viewers see it."""
    task = job.as_task()
    return {**task, "details": [without_paths(line) for line in task["details"]]}
