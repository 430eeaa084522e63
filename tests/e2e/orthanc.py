"""A real Orthanc with DICOMweb."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pydicom
import requests

from tests.server import free_port, wait_for

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """Debian's Orthanc on a port of its own, with an empty archive."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("Orthanc")
        if program is None or not DICOMWEB.is_file():
            raise RuntimeError("these tests need Orthanc: apt-get install orthanc orthanc-dicomweb")
        self.program, self.folder = program, folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings = {
            "StorageDirectory": str(folder / "archive"),
            "IndexDirectory": str(folder / "archive"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(DICOMWEB)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.start()

    def start(self) -> None:
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([self.program, str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        wait_for(self._ready, 60)

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/system", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def upload(self, files: list[bytes]) -> None:
        for content in files:
            requests.post(f"{self.url}/instances", data=content, timeout=30).raise_for_status()

    def instances(self, modality: str) -> list[pydicom.Dataset]:
        """All instances of a modality."""
        everything = requests.get(f"{self.url}/series?expand", timeout=30).json()
        uids = [uid for row in everything if row["MainDicomTags"]["Modality"] == modality for uid in row["Instances"]]
        files = (requests.get(f"{self.url}/instances/{uid}/file", timeout=30).content for uid in uids)
        return [pydicom.dcmread(io.BytesIO(content)) for content in files]

    def series(self, modality: str) -> list[dict[str, Any]]:
        """Main tags of all series of a modality."""
        everything = requests.get(f"{self.url}/series?expand", timeout=30).json()
        return [row["MainDicomTags"] for row in everything if row["MainDicomTags"]["Modality"] == modality]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
