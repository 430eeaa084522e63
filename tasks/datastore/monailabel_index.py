"""MONAI Label's own index file, read once when a studies folder is taken over."""

from __future__ import annotations

import logging
from pathlib import Path

from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel
from pydantic import ValidationError

from tasks.common.strict_json import sendable

logger = logging.getLogger(__name__)

STOCK_INDEX = "datastore_v2.json"


def read_stock_index(folder: Path) -> dict[str, ImageLabelModel]:
    """What ``datastore_v2.json`` knows, by image id; nothing if there is none or it is damaged."""
    file = folder / STOCK_INDEX
    if not file.is_file():
        return {}
    try:
        objects = LocalDatastoreModel.model_validate_json(file.read_bytes()).objects
    except (OSError, ValidationError) as error:
        logger.error("%s is damaged (%s); images and labels are found again by their files", file, error)
        return {}
    for image in objects.values():
        for model in (image.image, *image.labels.values()):
            model.info = sendable(model.info)
    logger.info("%s: took over what it knows of %d images", file, len(objects))
    return objects
