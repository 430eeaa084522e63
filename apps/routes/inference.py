"""Inference: where its image comes from, and its result as MONAI Label's clients expect it."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder

from apps.auth.readers import READER
from apps.http.bodies import FormRoute
from apps.http.lanes import INFERENCES
from apps.http.transfers import Download, save
from apps.http.words import without_paths
from apps.upstream import InferenceOutput
from tasks.common.strict_json import parse_object, sendable
from tasks.datastore.folder import ORIGINAL
from tasks.jobs.options import inference_options
from tasks.learning.inference import RESULT_FOLDER

logger = logging.getLogger(__name__)

router = APIRouter(prefix=settings.MONAI_LABEL_API_STR, route_class=FormRoute)

BROUGHT = "brought"
"""Key of an inference's request: the file outside of the datastore that it may read."""


@dataclass(frozen=True)
class Inference:
    """What a request asks for.

    Attributes:
        model: name of the model.
        image: id in the datastore; empty if the image comes otherwise.
        session_id: session whose image is meant, before any other.
        options: checked.
        file: image that comes with the request.
        label: label map that comes with it.
        output: what is answered; both the file and JSON if None.
    """

    model: str
    image: str
    session_id: str
    options: Mapping[str, Any]
    file: UploadFile | None
    label: UploadFile | None
    output: InferenceOutput | None

    def answer(self) -> Response:
        """Run it; all files are gone when it returns but that of the result, which has no name any longer.

        Raises:
            HTTPException: 404 for a session that is not there; else see ``infer`` of the app.
        """
        app = app_instance()
        with tempfile.TemporaryDirectory(prefix="inference-") as name:
            folder = Path(name)
            request = {"model": self.model, "image": self.image, **self.options, RESULT_FOLDER: name}
            if self.file:
                request["image"] = request[BROUGHT] = str(save(self.file, folder, "image"))
            if self.label:
                request["label"] = str(save(self.label, folder, "label"))
            if self.session_id:
                sessions = app.sessions()
                session = sessions.get(self.session_id) if sessions else None
                if session is None:
                    raise HTTPException(status_code=404, detail="there is no such session")
                request["image"] = request[BROUGHT] = str(session.image)
            result = app.infer(request)
            return self._reply(result)

    def _reply(self, result: Mapping[str, Any]) -> Response:
        about = _without_paths(sendable(result.get("params") or {}))
        file = result.get("file") or result.get("label")
        if self.output is InferenceOutput.json or (not file and self.output is not InferenceOutput.image):
            return JSONResponse(about)
        if not file:
            raise HTTPException(status_code=400, detail=f"output: {self.model} has no image as its result")
        if not os.path.exists(file):
            file = app_instance().datastore().get_label_uri(file, result.get("tag"))
        path = Path(file)
        content = path.open("rb")
        if path.is_relative_to(tempfile.gettempdir()):
            path.unlink()
        name, kind = path.name, get_mime_type(str(path))
        size = os.fstat(content.fileno()).st_size
        if self.output is InferenceOutput.image:
            return Download(content, size, kind, {"Content-Disposition": f'attachment; filename="{name}"'})
        fields = {"params": (None, json.dumps(about), "application/json"), "image": (name, content, kind)}
        encoder = MultipartEncoder(fields=fields)
        return Download(_Encoded(encoder, content), encoder.len, encoder.content_type)


class _Encoded:
    """A form that is made while it is read, so that large files need no memory."""

    def __init__(self, encoder: MultipartEncoder, content: BinaryIO) -> None:
        self._encoder = encoder
        self._content = content

    def read(self, size: int) -> bytes:
        return bytes(self._encoder.read(size))

    def close(self) -> None:
        self._content.close()


def _without_paths(value: Any) -> Any:
    """JSON in which no text names a folder of the server."""
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


@router.post("/infer/{model}", tags=["Infer"])
async def run_inference(
    request: Request,
    model: str,
    image: str = "",
    session_id: str = "",
    params: str = Form("{}"),
    file: UploadFile = File(None),  # noqa: B008
    label: UploadFile = File(None),  # noqa: B008
    output: InferenceOutput | None = None,
    user: User = READER,
) -> Any:
    """Run a model on an image of the datastore, of a session, or on one that comes with the request."""
    if not (file or image or session_id):
        raise HTTPException(status_code=400, detail="say which image: image, session_id or file")
    if output == InferenceOutput.dicom_seg:
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
