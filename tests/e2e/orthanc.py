"""A real Orthanc with DICOMweb, and small MR series made for it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import requests
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.server import free_port, wait_for

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """Debian's Orthanc on a port of its own, with an empty archive."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("Orthanc")
        if program is None or not DICOMWEB.is_file():
            raise RuntimeError("these tests need Orthanc: apt-get install orthanc orthanc-dicomweb")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "StorageDirectory": str(folder / "archive"),
            "IndexDirectory": str(folder / "archive"),
            "HttpPort": port,
            "DicomServerEnabled": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(DICOMWEB)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        with (folder / "orthanc.log").open("wb") as log:
            self.process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
        wait_for(self._ready, 60)

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/system", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def upload(self, files: list[bytes]) -> None:
        for content in files:
            requests.post(f"{self.url}/instances", data=content, timeout=30).raise_for_status()

    def series(self, modality: str) -> list[dict[str, Any]]:
        """Main tags of all series of a modality."""
        everything = requests.get(f"{self.url}/series?expand", timeout=30).json()
        return [row["MainDicomTags"] for row in everything if row["MainDicomTags"]["Modality"] == modality]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def mr_series(patient: str, voxels: np.ndarray) -> list[bytes]:
    """An axial MR series.

    Args:
        patient: patient id.
        voxels: ``[slices, rows, columns]`` uint16.
    """
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    for number, plane in enumerate(voxels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
        image.is_little_endian, image.is_implicit_VR = True, False
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientID = image.PatientName = patient
        image.StudyDate = image.SeriesDate = "20260101"
        image.StudyTime = image.SeriesTime = "120000"
        image.StudyID, image.AccessionNumber, image.PatientBirthDate, image.PatientSex = "1", "1", "", ""
        image.Modality, image.SeriesDescription, image.SeriesNumber = "MR", "T1 post", 1
        image.InstanceNumber = number + 1
        image.ImagePositionPatient = [0, 0, 3 * number]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness, image.SpacingBetweenSlices = [1, 1], 3, 3
        image.Rows, image.Columns = plane.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.PixelData = plane.astype(np.uint16).tobytes()
        buffer = io.BytesIO()
        image.save_as(buffer, write_like_original=False)
        files.append(buffer.getvalue())
    return files
