"""How far the labelling is: what every viewer polls."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance

from apps.auth.readers import READER, client_of
from apps.routes.learning import answers
from apps.routes.problems import SUMMARY
from tasks.common.files import LONGEST_NAME
from tasks.store.claims import SCORING, TRAIN

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR)


@router.get("/al/progress", tags=["ActiveLearning"])
def progress(
    request: Request, client_id: Annotated[str, Query(max_length=LONGEST_NAME)] = "", user: User = READER
) -> dict[str, Any]:
    """How far the labelling is.

    Returns:
        Images in all, labelled, skipped, unreadable and labelled by the reader; the reader's round; the model; the
        running ``job`` with its epochs; ``stopped_by``, who has stopped the background jobs, empty if nobody has; and
        ``problems``: how many there are of each kind, and the first ten.
    """
    app = app_instance()
    model = app.current_model()
    running = {kind: job for kind in (TRAIN, SCORING) if (job := app.jobs.running(kind)) is not None}
    stats: dict[str, Any] = {}
    if TRAIN in running:
        trained = running[TRAIN].request.get("model")
        stats = next((trainer.stats() for trainer in app.trainers() if trainer.name == trained), {})
    return {
        **vars(answers().progress(client_of(client_id, user, request))),
        "model": model.name if model else "",
        "model_version": model.version if model else "",
        "job": next(iter(running), ""),
        "epoch": int(stats.get("epoch") or 0),
        "epochs": int(stats.get("total_epochs") or 0),
        "stopped_by": app.loop.held_by or "",
        "problems": SUMMARY.of(app),
    }
