"""What a start looks at before it makes anything: MONAI Label's settings, the studies, and what was there before."""

from __future__ import annotations

import logging
from pathlib import Path

from monailabel.config import settings

from apps.server.options import ConfigurationError
from apps.upstream import COMMAND, program
from tasks.dicom.client import is_remote
from tasks.store.store import Store

logger = logging.getLogger(__name__)

DATASTORES = ("", "local", "dicom", "dicomweb")
"""Values of ``MONAI_LABEL_DATASTORE`` that mean what the apps have: a folder, or a DICOMweb archive."""


def check_settings() -> None:
    """Refuse settings of MONAI Label that it would take and the apps cannot work with.

    Raises:
        ConfigurationError: naming the environment variable.
    """
    kind = settings.MONAI_LABEL_DATASTORE
    if kind.lower() not in DATASTORES:
        raise ConfigurationError(
            f"MONAI_LABEL_DATASTORE is {kind!r}: the studies must be a folder or a DICOMweb archive; leave it empty"
        )
    if settings.MONAI_LABEL_INFER_CONCURRENCY == 0:
        raise ConfigurationError("MONAI_LABEL_INFER_CONCURRENCY must be at least 1, or negative for the default; got 0")
    if not settings.MONAI_LABEL_DATASTORE_FILE_EXT:
        raise ConfigurationError("MONAI_LABEL_DATASTORE_FILE_EXT must have one pattern at least, such as *.nii.gz")


def check_studies(studies: str) -> None:
    """Refuse a studies folder that is not there.

    MONAI Label's command makes a missing folder before it loads the app, and would then serve an empty pool. So an
    empty folder that is younger than the process was made by the command: it is removed again.

    Raises:
        ConfigurationError: it was not there, or it is no folder.
    """
    if is_remote(studies):
        return
    folder = Path(studies)
    try:
        if not folder.is_dir():
            raise ConfigurationError(f"studies {studies} is not a folder")
        if program() == COMMAND and folder.stat().st_mtime > _started() and not any(folder.iterdir()):
            folder.rmdir()
            raise ConfigurationError(f"studies {studies}: there is no such folder; make it first, also an empty one")
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"studies {studies} cannot be read: {error}") from error


def _started() -> float:
    """When this process started: the time that Python's logging counts from, before any command has run."""
    record = logging.makeLogRecord({})
    return record.created - record.relativeCreated / 1000


def say_what_is_lost(store: Store, models: Path, labels: int) -> None:
    """Say in the log that the database knows nothing although there was work before.

    Args:
        store: the database.
        models: folder of the checkpoints.
        labels: final labels in the datastore.
    """
    checkpoints = len(list(models.glob("*.pt")))
    if not (labels or checkpoints) or store.image_ids():
        return
    logger.warning(
        "the database %s is new or was emptied, although there are %d final labels and %d checkpoints: its history, "
        "rounds, skips and models are not known. If it was lost, stop the server and put a copy back; else go on",
        *(store, labels, checkpoints),
    )
