"""A DICOMweb archive that may be slow, restarting or away: every call ends within its time, and says what is wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.session_utils import create_session_from_gcp_credentials, create_session_from_user_pass
from monailabel.config import Settings
from monailabel.datastore.dicom import DICOMwebClientX
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter

from tasks.common.files import ArchiveError, reason

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
READ_SECONDS = 60.0
"""Longest silence of the archive in one answer."""
PAGE = 500
"""Series asked for at once."""
SEG = "SEG"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_google(studies: str) -> bool:
    """Whether an archive is Google's."""
    name = urlsplit(studies).hostname or ""
    return name == "googleapis.com" or name.endswith(".googleapis.com")


def is_remote(studies: str) -> bool:
    """Whether the studies are an archive."""
    return studies.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Series:
    """A series as a search finds it; the fields have DICOM's names, as the viewers expect them."""

    SeriesInstanceUID: str
    StudyInstanceUID: str
    Modality: str
    SeriesDescription: str = ""
    PatientID: str = ""
    StudyDate: str = ""
    StudyTime: str = ""
    SeriesDate: str = ""
    SeriesTime: str = ""
    RetrieveURL: str = ""

    def info(self) -> dict[str, str]:
        """The fields as a dictionary."""
        return asdict(self)


class Archive:
    """A DICOMweb service.

    Args:
        url: its root.
        settings: MONAI Label's settings, for credentials and prefixes.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url.rstrip("/")
        self._said: set[str] = set()
        self._client = DICOMwebClientX(
            url=self.url,
            session=_session(self.url, settings),
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        self._client.set_http_retry_params(retry=False)  # who calls decides whether there is time to try again

    def search(self, modality: str) -> list[Series]:
        """All series of a modality.

        Raises:
            ArchiveError: the archive does not answer.
        """
        found: dict[str, Series] = {}
        seen: set[str] = set()
        offset = 0
        while True:
            page = self._ask(
                "search for series",
                self._client.search_for_series,
                search_filters={"Modality": modality},
                fields=["SeriesDescription", "StudyDate", "StudyTime", "PatientID", "SeriesDate", "SeriesTime"],
                limit=PAGE,
                offset=offset,
            )
            known = len(seen)
            for place, item in enumerate(page, start=offset):
                series = self._understood(item)
                seen.add(series.SeriesInstanceUID if series else str(place))
                if series is not None and series.Modality == modality:  # some archives know no such filter
                    found[series.SeriesInstanceUID] = series
            offset += len(page)
            # An archive without paging sends the same again and again.
            if len(page) < PAGE or len(seen) == known:
                return list(found.values())

    def _understood(self, item: Any) -> Series | None:
        """A series of an answer; None, with the reason in the log, for one that cannot be used."""
        try:
            series = _series(Dataset.from_json(item))
        except Exception as error:  # pydicom raises many kinds, and the other series are needed
            self._say_once(f"a series of the archive {self.url} cannot be understood: {reason(error)}")
            return None
        for uid in (series.SeriesInstanceUID, series.StudyInstanceUID):
            if not _UID.fullmatch(uid):  # it becomes a file name
                self._say_once(f"a series of the archive {self.url} is left out: {uid!r} is no UID")
                return None
        return series

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            logger.warning("%s", words)

    def metadata(self, series: Series) -> list[Dataset]:
        """Headers of a series' instances."""
        uids = (series.StudyInstanceUID, series.SeriesInstanceUID)
        answer = self._ask("read headers", self._client.retrieve_series_metadata, *uids)
        return [Dataset.from_json(item) for item in answer]

    def retrieve(self, series: Series) -> list[Dataset]:
        """All instances of a series."""
        uids = (series.StudyInstanceUID, series.SeriesInstanceUID)
        return list(self._ask("retrieve a series", self._client.retrieve_series, *uids))

    def store(self, dataset: Dataset) -> None:
        """Store an instance; one that is there already stays as it is.

        Raises:
            ArchiveError: the archive does not answer, or it refuses the instance.
        """
        answer = self._ask("store", self._client.store_instances, [dataset])
        failed = answer.get("FailedSOPSequence")
        if failed:
            raise ArchiveError(f"the archive {self.url} refused the instance: reason {failed[0].get('FailureReason')}")

    def _ask(self, what: str, call: Callable[..., Any], *values: Any, **options: Any) -> Any:
        with _explaining(f"the archive {self.url} cannot be asked to {what}"):
            return call(*values, **options)


@contextmanager
def _explaining(words: str) -> Iterator[None]:
    try:
        yield
    except (requests.RequestException, OSError) as error:
        raise ArchiveError(f"{words}: {reason(error)}") from error
    except (ValueError, KeyError, TypeError) as error:  # what it sent is no DICOMweb: a proxy's page, half an answer
        raise ArchiveError(f"{words}: its answer cannot be understood: {reason(error)}") from error


class _Timeouts(HTTPAdapter):
    """Gives every request its time limits."""

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        options["timeout"] = options.get("timeout") or (CONNECT_SECONDS, READ_SECONDS)
        return super().send(request, **options)


def credentials(settings: Settings) -> tuple[str, str] | None:
    """Name and password for the archive, None where it asks for none."""
    name = settings.MONAI_LABEL_DICOMWEB_USERNAME or settings.MONAI_LABEL_DATASTORE_USERNAME
    password = settings.MONAI_LABEL_DICOMWEB_PASSWORD or settings.MONAI_LABEL_DATASTORE_PASSWORD
    return (name, password) if name and password else None


def _session(url: str, settings: Settings) -> requests.Session:
    signed_in = credentials(settings)
    make: Callable[[], requests.Session] = requests.Session
    if is_google(url):
        make = create_session_from_gcp_credentials
    elif signed_in is not None:
        make = partial(create_session_from_user_pass, *signed_in)
    session = make()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Timeouts())
    return session


def _series(found: Dataset) -> Series:
    def text(name: str) -> str:
        value = found.get(name)
        return "" if value is None else str(value)

    return Series(**{name: text(name) for name in Series.__dataclass_fields__})
