"""Routes of every app that stand before MONAI Label's own.

MONAI Label's are coroutines that work in the event loop: while one of them reads a file or runs a network, the whole
server stands still, the viewer's pages included. These run in threads, and check what comes from outside.
"""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import Response, StreamingResponse
from monailabel.config import settings
from monailabel.endpoints import datastore, infer
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import file_checksum

from apps.routes.inference import Inference
from apps.server.bodies import FormRoute
from apps.server.lanes import INFERENCES
from apps.server.transfers import Download, ending_of, saved
from strategies.next_sample import ANONYMOUS
from tasks.common.files import LONGEST_NAME
from tasks.common.strict_json import parse_object
from tasks.datastore.checksums import CHECKSUM
from tasks.datastore.folder import ORIGINAL
from tasks.datastore.rules import FINAL
from tasks.jobs.options import inference_options
from tasks.rounds.answers import Answers
from tasks.store.store import Store

READER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
ADMIN = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

REMOVER: ContextVar[str] = ContextVar("remover", default="")
"""Who removes an image or a label, for what the datastore tells meanwhile."""

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR, route_class=FormRoute)


def client_of(given: Any, user: User, request: Request) -> str:
    """The annotator: the authenticated user, else the ``client_id`` given, else one anonymous name per address."""
    if settings.MONAI_LABEL_AUTH_ENABLE:
        return user.username
    address = request.client.host if request.client else "unknown"
    return str(given or f"{ANONYMOUS}@{address}")


def answers() -> Answers:
    """Skips and undos of the running app."""
    return Answers(app_instance().rounds)


@router.get("/info/", tags=["App"])
def info(user: User = READER) -> Any:
    """What MONAI Label's clients want to know of the app."""
    return app_instance().info()


@router.post("/activelearning/{strategy}", tags=["ActiveLearning"])
def next_sample(
    strategy: str, request: Request, params: dict[str, Any] | None = None, user: User = READER
) -> dict[str, Any]:
    """Lease the next image of a strategy.

    MONAI Label's own would walk the datastore twice and rewrite its index. The annotator is the authenticated user,
    else ``client_id``, else one anonymous name per client address.
    """
    options = dict(params or {})
    _check_names(options)
    client_id = client_of(options.get("client_id"), user, request)
    try:
        return dict(app_instance().next_sample({**options, "strategy": strategy, "client_id": client_id}))
    except MONAILabelException as error:
        raise HTTPException(status_code=404, detail=error.msg) from error


@router.get("/datastore/", tags=["Datastore"])
def contents(output: datastore.ResultType | None = None, user: User = READER) -> Any:
    """Counts, the list of labelled images, or everything."""
    return datastore.datastore(output)


@router.put("/datastore/label", tags=["Datastore"])
def save_label(
    image: str,
    params: str = Form("{}"),
    tag: str = FINAL,
    label: UploadFile = File(...),  # noqa: B008
    user: User = ANNOTATOR,
) -> dict[str, Any]:
    """Store a label of an image.

    Returns:
        ``image`` and ``label`` (ids), and for a final label what was stored: ``segments`` (voxels of each), ``notes``
        (what was changed to make it fit), ``previous`` (where the label it replaced is kept), ``archive`` (whether the
        archive has it or it waits to be sent).
    """
    info = parse_object(params, "params")
    _check_names(info)
    app_instance().store.check_writable()  # else the label would be stored and not be noted
    if settings.MONAI_LABEL_AUTH_ENABLE:
        info["client_id"] = user.username
    model = app_instance().registry.current(str(info.get("model") or ""))
    if model is not None:
        info.setdefault("model_version", model.version)
    app, tag = app_instance(), tag or FINAL
    with saved(label) as file:
        label_id = app.datastore().save_label(image, str(file), tag, info)
        return {**app.on_save_label(image, label_id), "image": image, "label": label_id}


@router.put("/datastore/image", tags=["Datastore"])
@router.put("/datastore/", tags=["Datastore"], include_in_schema=False)
def add_image(
    image: str | None = None,
    params: str = Form("{}"),
    file: UploadFile = File(...),  # noqa: B008
    user: User = ANNOTATOR,
) -> dict[str, Any]:
    """Add an image to the datastore."""
    info = parse_object(params, "params")
    if user.username:
        info["user"] = user.username
    name = PurePosixPath(file.filename or "").name
    with saved(file) as path:
        image_id = image or name.removesuffix(path.suffix and ending_of(name))
        return {"image": app_instance().datastore().add_image(image_id, str(path), info)}


@router.delete("/datastore/image", tags=["Datastore"])
@router.delete("/datastore/", tags=["Datastore"], include_in_schema=False)
def remove_image(id: str, request: Request, user: User = ADMIN) -> dict[str, Any]:
    """Remove an image and its labels; the final one is kept in ``labels/history``."""
    with _removing(user, request):
        app_instance().datastore().remove_image(id)
    return {}


@router.delete("/datastore/label", tags=["Datastore"])
def remove_label(id: str, tag: str, request: Request, user: User = ADMIN) -> dict[str, Any]:
    """Remove a label; a final one is kept in ``labels/history``."""
    with _removing(user, request):
        app_instance().datastore().remove_label(id, tag)
    return {}


@contextmanager
def _removing(user: User, request: Request) -> Iterator[None]:
    """The history names who removes what."""
    app_instance().store.check_writable()
    before = REMOVER.set(client_of("", user, request))
    try:
        yield
    finally:
        REMOVER.reset(before)


@router.get("/datastore/image", tags=["Datastore"])
def download_image(image: str, user: User = READER) -> Any:
    """An image's file."""
    return datastore.download_image(image)


@router.head("/datastore/image", tags=["Datastore"])
def check_image(image: str, check_sum: str | None = None, user: User = READER) -> Any:
    """Whether there is an image, with this content if a checksum is given."""
    algorithm = (check_sum or "").split(":")[0] if ":" in (check_sum or "") else "SHA256"
    if algorithm not in ("SHA256", "SHA512", "MD5"):
        raise HTTPException(status_code=400, detail="check_sum must start with SHA256:, SHA512: or MD5:")
    found = datastore.download_image(image, check_only=True)
    if check_sum and check_sum.rpartition(":")[2].lower() != _digest(image, algorithm):
        raise HTTPException(status_code=404, detail="the image has another checksum")
    return found


def _digest(image: str, algorithm: str) -> str:
    """Digest of an image's file in hexadecimal: the one that is kept, else computed."""
    kept = str(app_instance().datastore().get_image_info(image).get(CHECKSUM, ""))
    if not kept.startswith(f"{algorithm}:"):
        kept = str(file_checksum(app_instance().datastore().get_image_uri(image), algorithm))
    return kept.partition(":")[2]


@router.get("/datastore/label", tags=["Datastore"])
def download_label(label: str, tag: str, user: User = READER) -> Any:
    """A label's file."""
    return datastore.download_label(label, tag)


@router.head("/datastore/label", tags=["Datastore"])
def check_label(image: str, tag: str, user: User = READER) -> Any:
    """Whether there is a label."""
    return datastore.download_label(image, tag, check_only=True)


@router.put("/datastore/image/info", tags=["Datastore"])
def update_image_info(image: str, info: str = Form("{}"), user: User = ANNOTATOR) -> dict[str, Any]:
    """Merge values into what is kept with an image."""
    app_instance().datastore().update_image_info(image, parse_object(info, "info"))
    return {}


@router.put("/datastore/label/info", tags=["Datastore"])
def update_label_info(label: str, tag: str, info: str = Form("{}"), user: User = ANNOTATOR) -> dict[str, Any]:
    """Merge values into what is kept with a label."""
    app_instance().datastore().update_label_info(label, tag, parse_object(info, "info"))
    return {}


@router.get("/datastore/dataset", tags=["Datastore"])
def download_dataset(limit_cases: Annotated[int | None, Query(ge=1)] = None, user: User = ANNOTATOR) -> Any:
    """All labelled images with their labels, as ZIP."""
    folder = app_instance().datastore()
    if not folder.get_labeled_images():
        raise HTTPException(status_code=404, detail="no image is labelled yet")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())  # has no name: nothing is left after a kill
        folder.write_dataset(file, limit_cases)
        size = file.tell()
        file.seek(0)
        stack.pop_all()
    return Download(file, size, "application/zip", {"Content-Disposition": 'attachment; filename="dataset.zip"'})


@router.post("/infer/{model}", tags=["Infer"])
async def run_inference(
    request: Request,
    model: str,
    image: str = "",
    session_id: str = "",
    params: str = Form("{}"),
    file: UploadFile = File(None),  # noqa: B008
    label: UploadFile = File(None),  # noqa: B008
    output: infer.ResultType | None = None,
    user: User = READER,
) -> Any:
    """Run a model on an image of the datastore, of a session, or on one that comes with the request."""
    if not (file or image or session_id):
        raise HTTPException(status_code=400, detail="say which image: image, session_id or file")
    if output == infer.ResultType.dicom_seg:
        raise HTTPException(status_code=400, detail="output must be image, json or all")
    options = _inference(model, parse_object(params, "params"))
    asked = Inference(model, image, session_id, options, file, label, output)
    return await INFERENCES.run(request, asked.answer)


def _inference(model: str, params: dict[str, Any]) -> dict[str, Any]:
    """The options of an inference that are known, checked; what names no file, model or stored label."""
    try:
        options = inference_options(params, {ORIGINAL, *app_instance().options.tags})
    except ValueError as error:
        raise HTTPException(status_code=400, detail=str(error)) from error
    if options.pop("model", model) != model:
        raise HTTPException(status_code=400, detail=f"model: the address asks for {model!r}")
    return options


@router.post("/al/refresh", tags=["ActiveLearning"])
def refresh(user: User = ANNOTATOR) -> dict[str, int]:
    """Look now for images and labels that others have added; returns counts of all."""
    app = app_instance()
    app.datastore().refresh()
    status = app.datastore().status()
    return {"total": status["total"], "completed": status["completed"]}


@router.get("/al/history", tags=["ActiveLearning"])
def history(user: User = ADMIN) -> Response:
    """Who was given, labelled, skipped or took back which image, when, under which model: a CSV file."""
    headers = {"Content-Disposition": 'attachment; filename="history.csv"'}
    return StreamingResponse(_rows(app_instance().store), media_type="text/csv; charset=utf-8", headers=headers)


def _rows(store: Store) -> Iterator[str]:
    columns = store.history_columns
    for row in (dict(zip(columns, columns, strict=True)), *store.history()):
        text = io.StringIO()
        csv.DictWriter(text, columns, restval="").writerow({name: _for_a_table(value) for name, value in row.items()})
        yield text.getvalue()


def _for_a_table(value: Any) -> str:
    """A value as a spreadsheet should show it: what looks like a formula stays text."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def _check_names(values: dict[str, Any]) -> None:
    for name in ("client_id", "answer_id"):
        if not isinstance(values.get(name, ""), str) or len(values.get(name, "")) > LONGEST_NAME:
            raise HTTPException(status_code=400, detail=f"{name} must be text of at most {LONGEST_NAME} characters")
