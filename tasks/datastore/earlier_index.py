"""The index of versions 0.4.0 and 0.5.0, a SQLite file in the studies folder, read once; it stays where it is."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from monailabel.datastore.local import DataModel

from tasks.common.strict_json import sendable
from tasks.store.upgrade import copy_before_upgrade

logger = logging.getLogger(__name__)

EARLIER_INDEX = "datastore.sqlite"


def read_earlier_index(folder: Path) -> tuple[dict[str, DataModel], dict[tuple[str, str], DataModel]]:
    """What the file knows of images and labels, from a copy of it; nothing if there is none or it is damaged.

    Raises:
        OSError: the copy cannot be written.
    """
    file = folder / EARLIER_INDEX
    if not file.is_file():
        return {}, {}
    try:
        copy = copy_before_upgrade(file)
        with closing(sqlite3.connect(copy)) as connection:
            images = {name: _model(*row) for name, *row in connection.execute("SELECT image_id, ext, info FROM images")}
            query = "SELECT image_id, tag, ext, info FROM labels"
            labels = {(name, tag): _model(*row) for name, tag, *row in connection.execute(query)}
    except (sqlite3.Error, ValueError) as error:
        logger.error("%s is damaged (%s); images and labels are found again by their files", file, error)
        return {}, {}
    logger.info("%s: took over what it knows of %d images; it is not used any longer", file, len(images))
    return images, labels


def _model(ext: str, info: str) -> DataModel:
    return DataModel(ext=ext, info=sendable(json.loads(info)))
