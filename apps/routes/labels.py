"""Images and labels: routes that stand before MONAI Label's own.

MONAI Label's are coroutines that work in the event loop: while one of them reads a file or runs a network, the whole
server stands still, the viewer's pages included. These run in threads, and check what comes from outside.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Query, Request, UploadFile
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import file_checksum

from apps import upstream
from apps.auth.readers import ADMIN, ANNOTATOR, READER, REMOVER, check_names, client_of
from apps.http.bodies import FormRoute
from apps.http.transfers import Download, ending_of, saved
from tasks.common.strict_json import parse_object
from tasks.datastore.checksums import CHECKSUM
from tasks.datastore.rules import FINAL

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR, route_class=FormRoute)


@router.get("/datastore/", tags=["Datastore"])
def contents(output: upstream.Listing | None = None, user: User = READER) -> Any:
    """Counts, the list of labelled images, or everything."""
    return upstream.contents(output)


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
    check_names(info)
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
    return upstream.download_image(image)


@router.head("/datastore/image", tags=["Datastore"])
def check_image(image: str, check_sum: str | None = None, user: User = READER) -> Any:
    """Whether there is an image, with this content if a checksum is given."""
    algorithm = (check_sum or "").split(":")[0] if ":" in (check_sum or "") else "SHA256"
    if algorithm not in ("SHA256", "SHA512", "MD5"):
        raise HTTPException(status_code=400, detail="check_sum must start with SHA256:, SHA512: or MD5:")
    found = upstream.download_image(image, check_only=True)
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
    return upstream.download_label(label, tag)


@router.head("/datastore/label", tags=["Datastore"])
def check_label(image: str, tag: str, user: User = READER) -> Any:
    """Whether there is a label."""
    return upstream.download_label(image, tag, check_only=True)


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


@router.get("/datastore/image/info", tags=["Datastore"])
def image_info(image: str, user: User = READER) -> dict[str, Any]:
    """What is kept with an image."""
    return upstream.image_info(image)


@router.get("/datastore/label/info", tags=["Datastore"])
def label_info(label: str, tag: str, user: User = READER) -> dict[str, Any]:
    """What is kept with a label."""
    return upstream.label_info(label, tag)


@router.put("/datastore/updatelabelinfo", include_in_schema=False)
def review(label: str, tag: str, params: str = Form("{}"), user: User = ANNOTATOR) -> dict[str, Any]:
    """Merge values into what is kept with a label, as 3D Slicer's Reviewer sends them."""
    return update_label_info(label, tag, params, user)


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


@router.post("/al/refresh", tags=["ActiveLearning"])
def refresh(user: User = ANNOTATOR) -> dict[str, int]:
    """Look now for images and labels that others have added; returns counts of all."""
    app = app_instance()
    app.datastore().refresh()
    status = app.datastore().status()
    return {"total": status["total"], "completed": status["completed"]}
