"""MONAI Label's own index file, read once when a studies folder is taken over."""

from __future__ import annotations

import logging
from pathlib import Path

from monailabel.datastore.local import DataModel, LocalDatastoreModel
from pydantic import ValidationError

from tasks.common.strict_json import sendable

logger = logging.getLogger(__name__)

STOCK_INDEX = "datastore_v2.json"


def read_stock_index(folder: Path) -> tuple[dict[str, DataModel], dict[tuple[str, str], DataModel]]:
    """What ``datastore_v2.json`` knows of images and labels; nothing if there is none or it is damaged."""
    file = folder / STOCK_INDEX
    if not file.is_file():
        return {}, {}
    try:
        objects = LocalDatastoreModel.model_validate_json(file.read_bytes()).objects
    except (OSError, ValidationError) as error:
        logger.error("%s is damaged (%s); images and labels are found again by their files", file, error)
        return {}, {}
    logger.info("%s: took over what it knows of %d images", file, len(objects))
    images = {name: image.image for name, image in objects.items()}
    labels = {(name, tag): label for name, image in objects.items() for tag, label in image.labels.items()}
    for model in (*images.values(), *labels.values()):
        model.info = sendable(model.info)
    return images, labels
