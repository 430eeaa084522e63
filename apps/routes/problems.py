"""What needs a person: trainings that failed, images and labels that cannot be used, what the archive has not got.

Each kind of problem lists its items by name, describes one, and may have something that can be done about it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance
from pydantic import BaseModel, Field

from apps.auth.readers import ANNOTATOR, READER, client_of
from apps.http.words import without_paths
from tasks.common.files import LONGEST_NAME

logger = logging.getLogger(__name__)

router = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/al", tags=["ActiveLearning"])

PAGE = 100
"""Problems in one answer."""
FIRST = 10
"""Problems that ``GET /al/progress`` names."""
KEPT_SECONDS = 5.0
"""Every viewer polls the progress: what it says of problems is looked up this often."""

Described = dict[str, Any]


def _nothing(app: Any, name: str, client_id: str) -> str:
    raise HTTPException(status_code=409, detail="nothing can be done about this here: its reason says what to do")


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        names: of the items there are now.
        describe: an item's ``reason``, and ``at`` and more where they are known.
        act: does what can be done about an item, and says what that was.
    """

    names: Callable[[Any], Sequence[str]]
    describe: Callable[[Any, str], Described]
    act: Callable[[Any, str, str], str] = _nothing


def _failed_trainings(app: Any) -> dict[str, Described]:
    """The last training of every trainer, where it failed."""
    found = {}
    for trainer in app.trainers():
        for last in app.store.trainings(trainer.name, limit=1):
            if last.error:
                found[trainer.name] = {"reason": last.error, "at": f"{last.finished_at.isoformat()}Z"}
    return found


def _train_again(app: Any, name: str, client_id: str) -> str:
    app.loop.retry()
    return "the training is tried again as soon as it is due"


def _damaged_models(app: Any) -> dict[str, Described]:
    return {name: {"reason": f"the checkpoint {why}"} for name, why in app.registry.problems().items()}


def _unusable_images(app: Any) -> dict[str, Described]:
    return {name: {"reason": why} for name, why in app.store.errors(app.store.serving_version()).items()}


def _look_again(app: Any, name: str, client_id: str) -> str:
    app.store.forget_records(app.store.serving_version(), [name])
    app.loop.wake()
    return "the image is scored again"


def _unsent_labels(app: Any) -> dict[str, Described]:
    return {name: {"reason": why} for name, why in app.datastore().unsent().items()}


def _send_again(app: Any, name: str, client_id: str) -> str:
    app.datastore().send_again(name)
    return "the label is sent again"


def _stray_files(app: Any) -> dict[str, Described]:
    return {name: {"reason": why} for name, why in app.datastore().stray_labels().items()}


def _look_at_files(app: Any, name: str, client_id: str) -> str:
    app.datastore().refresh()
    return "the folder was looked at again"


def _by_name(problems: Callable[[Any], Mapping[str, Described]], act: Callable[..., str] = _nothing) -> Kind:
    """A kind whose items are few, or known together."""
    return Kind(lambda app: sorted(problems(app)), lambda app, name: dict(problems(app).get(name, {})), act)


KINDS: Mapping[str, Kind] = {
    "training": _by_name(_failed_trainings, _train_again),
    "model": _by_name(_damaged_models),
    "image": _by_name(_unusable_images, _look_again),
    "label": Kind(lambda app: app.datastore().rejected.names(), lambda app, name: app.datastore().rejected.about(name)),
    "segmentation": _by_name(_unsent_labels, _send_again),
    "file": _by_name(_stray_files, _look_at_files),
}
"""Failed trainings, checkpoints that cannot serve, images that cannot be used, labels that were refused, labels that
the archive has not got, and files among the final labels that fit nothing."""

KindName = Literal["training", "model", "image", "label", "segmentation", "file"]


class Summary:
    """How many problems there are and the first of them, looked up every few seconds."""

    def __init__(self) -> None:
        self._known: tuple[float, Any, Described] | None = None

    def of(self, app: Any) -> Described:
        """``counts`` by kind and ``first``: at most :data:`FIRST` problems with their reasons."""
        known, now = self._known, time.monotonic()
        if known is None or known[1] is not app or now - known[0] > KEPT_SECONDS:
            known = self._known = (now, app, self._look(app))
        return known[2]

    def _look(self, app: Any) -> Described:
        names = {kind: KINDS[kind].names(app) for kind in KINDS}
        every = ((kind, name) for kind in KINDS for name in names[kind][:FIRST])
        first = [_described(app, kind, name) for (kind, name), _ in zip(every, range(FIRST), strict=False)]
        return {"counts": {kind: len(found) for kind, found in names.items()}, "first": first}


SUMMARY = Summary()


class Act(BaseModel, extra="forbid"):
    """One problem that something is to be done about."""

    kind: KindName
    id: Annotated[str, Field(max_length=2 * LONGEST_NAME)]
    client_id: Annotated[str, Field(max_length=LONGEST_NAME)] = ""


@router.get("/problems")
def problems(
    kind: KindName | None = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
    user: User = READER,
) -> Described:
    """What needs a person, page by page.

    Returns:
        ``counts`` by kind; ``problems`` from ``offset`` on, each with ``kind``, ``id``, ``reason`` and, where known,
        ``at``; and ``next``, the offset of the next page, null on the last one.
    """
    app = app_instance()
    counts, page, left, skipped = {}, [], limit, offset
    for each in KINDS:
        names = KINDS[each].names(app)
        counts[each] = len(names)
        if kind in (None, each):
            here = names[skipped : skipped + left]
            page += [_described(app, each, name) for name in here]
            left, skipped = left - len(here), max(0, skipped - len(names))
    total = sum(counts[each] for each in KINDS if kind in (None, each))
    more = offset + len(page)
    return {"counts": counts, "problems": page, "next": more if page and more < total else None}


@router.post("/problems")
def act(body: Act, request: Request, user: User = ANNOTATOR) -> dict[str, str]:
    """Do what can be done about a problem: try again, send again, look again.

    Returns:
        ``done``: what that was.
    """
    app = app_instance()
    if body.id not in KINDS[body.kind].names(app):
        raise HTTPException(status_code=404, detail=f"there is no such problem of the kind {body.kind}: {body.id!r}")
    client_id = client_of(body.client_id, user, request)
    done = KINDS[body.kind].act(app, body.id, client_id)
    logger.info("%s on the problem %s %s: %s", client_id, body.kind, body.id, done)
    return {"done": done}


def _described(app: Any, kind: str, name: str) -> Described:
    about = KINDS[kind].describe(app, name)
    return {"kind": kind, "id": name, **about, "reason": without_paths(str(about.get("reason", "")))}
