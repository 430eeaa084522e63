"""The page to grade images, and what it needs beside MONAI Label's own routes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from monailabel.interfaces.utils.app import app_instance

from apps.auth.readers import READER
from apps.http.lanes import DECODES
from apps.web.files import FILES, ONLY_OURS
from tasks.common.files import ImageError
from tasks.geometry.images import PERCENTILES, read_image

LARGEST_SIDE = 4096
"""Pixels; a larger image is reduced for the screen."""

_PRIVATE = {"Cache-Control": "no-store"}
router = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/al", tags=["Grading"])


@router.get("/grade", include_in_schema=False)
def page() -> FileResponse:
    """The grading page; everything else it asks for needs the user's role."""
    return FileResponse(FILES["grade.html"], headers=ONLY_OURS)


@router.get("/pixels")
def pixels(image: str, user: User = READER) -> Response:
    """An image for the screen.

    The body is ``[channels, rows, columns]``, one byte each for 8-bit images, else little-endian 16-bit: each channel
    stretched from its minimum to its maximum. The header ``X-Image`` is JSON: ``width, height, channels, bits``, and
    per channel ``slope`` and ``intercept`` (value = slope * stored + intercept) and the first window ``low, high``.
    """
    file = app_instance().datastore().get_image_uri(image)
    if not file:
        raise HTTPException(status_code=404, detail=f"there is no image {image!r}")
    with DECODES.turn():
        try:
            array = read_image(file, LARGEST_SIDE)
        except ImageError as error:
            raise HTTPException(status_code=422, detail=str(error)) from error
        stored, header = for_the_screen(array)
    return Response(
        stored.tobytes(), media_type="application/octet-stream", headers={"X-Image": json.dumps(header), **_PRIVATE}
    )


def for_the_screen(array: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Stored values and description of an image, see :func:`pixels`.

    Args:
        array: ``[C, rows, columns]``, uint8 or float32.
    """
    side = max(array.shape[1:])
    if side > LARGEST_SIDE:
        size = [max(1, round(length * LARGEST_SIDE / side)) for length in array.shape[1:]]
        smaller = torch.nn.functional.interpolate(torch.from_numpy(array)[None].float(), size, mode="area")[0].numpy()
        array = smaller.round().astype(array.dtype)
    if array.dtype == np.uint8:
        slope, intercept, bits, stored = [1.0] * len(array), [0.0] * len(array), 8, array
        low, high = [0.0] * len(array), [255.0] * len(array)
    else:
        flat = array.reshape(len(array), -1).astype(np.float64)
        minimum, span = flat.min(1), np.ptp(flat, axis=1)
        steps = np.where(span > 0, span / 65535, 1.0)
        stored = np.round((flat - minimum[:, None]) / steps[:, None]).astype("<u2").reshape(array.shape)
        slope, intercept, bits = steps.tolist(), minimum.tolist(), 16
        low, high = (np.percentile(flat, share, axis=1).tolist() for share in PERCENTILES)
    header = {
        "width": array.shape[2],
        "height": array.shape[1],
        "channels": array.shape[0],
        "bits": bits,
        "slope": slope,
        "intercept": intercept,
        "low": low,
        "high": high,
    }
    return stored, header
