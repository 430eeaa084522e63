"""Small MR series, made up."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = tuple(Rotation.from_euler("xyz", [20, -10, 7], degrees=True).as_matrix()[:, :2].T.ravel().tolist())


def mr_series(
    patient: str,
    voxels: np.ndarray,
    description: str = "T1 post",
    study: str | None = None,
    frame: str | None = None,
    orientation: tuple[float, ...] = AXIAL,
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
    spacing: tuple[float, float, float] = (1.0, 1.0, 3.0),
    downwards: bool = False,
) -> list[bytes]:
    """An MR series, its files shuffled.

    Args:
        patient: patient id.
        voxels: ``[slices, rows, columns]`` uint16.
        description: of the series.
        study: UID of the study, a new one if not given.
        frame: UID of the frame of reference, a new one if not given.
        orientation: direction of the rows and of the columns (LPS).
        origin: of the first pixel of the first slice, in mm (LPS).
        spacing: of rows, columns and slices in mm.
        downwards: number the slices against their normal.
    """
    study, series, frame = study or generate_uid(), generate_uid(), frame or generate_uid()
    normal = np.cross(orientation[:3], orientation[3:])
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
        image.Modality, image.SeriesDescription, image.SeriesNumber = "MR", description, 1
        image.InstanceNumber = len(voxels) - number if downwards else number + 1
        image.ImagePositionPatient = [round(float(v), 6) for v in np.asarray(origin) + normal * spacing[2] * number]
        image.ImageOrientationPatient = [round(float(value), 9) for value in orientation]
        image.PixelSpacing, image.SliceThickness, image.SpacingBetweenSlices = list(spacing[:2]), spacing[2], spacing[2]
        image.Rows, image.Columns = plane.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.PixelData = plane.astype(np.uint16).tobytes()
        buffer = io.BytesIO()
        image.save_as(buffer, write_like_original=False)
        files.append(buffer.getvalue())
    order = np.random.default_rng(len(files)).permutation(len(files))
    return [files[place] for place in order]


def enhanced(files: list[bytes], slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """A series as one multi-frame instance whose frames are in no order."""
    slices = datasets(files)
    for one in slices:
        one.PatientSex, one.ImageType, one.Manufacturer = "O", ["ORIGINAL", "PRIMARY", "M"], "none"
        one.PositionReferenceIndicator, one.Laterality = "", ""
    whole = LegacyConvertedEnhancedMRImage(slices, generate_uid(), 1, generate_uid(), 1)
    whole.SeriesDescription, scale = slices[0].SeriesDescription, Dataset()
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = slope, intercept, "US"
    whole.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [scale]
    buffer = io.BytesIO()
    whole.save_as(buffer, write_like_original=False)
    return buffer.getvalue()


def datasets(files: list[bytes]) -> list[Dataset]:
    """The instances of a series."""
    return [pydicom.dcmread(io.BytesIO(content)) for content in files]


def dcmqi_seg(label: Path, slices: list[Dataset], names: tuple[str, ...], creator: str, folder: Path) -> Path:
    """A label map as DICOM SEG, written by dcmqi as 3D Slicer's export does.

    Args:
        label: file with the values 1 to the number of names.
        slices: of the image.
        names: segment labels, value 1 first.
        creator: name of the reader.
        folder: for files.
    """
    images = folder / "dcmqi"
    images.mkdir()
    for number, one in enumerate(slices):
        one.save_as(images / f"{number}.dcm", write_like_original=False)

    def code(value: str, meaning: str) -> dict[str, str]:
        return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}

    segments = [
        {
            "labelID": number,
            "SegmentLabel": name,
            "SegmentDescription": name,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": code("123037004", "Anatomical Structure"),
            "SegmentedPropertyTypeCodeSequence": code("85756007", "Tissue"),
        }
        for number, name in enumerate(names, start=1)
    ]
    about = {"ContentCreatorName": creator, "SeriesDescription": "Segmentation", "segmentAttributes": [segments]}
    (folder / "dcmqi.json").write_text(json.dumps({**about, "SeriesNumber": "300", "InstanceNumber": "1"}))
    command = [Path(sys.executable).with_name("itkimage2segimage"), "--inputImageList", label]
    command += ["--inputDICOMDirectory", images, "--inputMetadata", folder / "dcmqi.json"]
    subprocess.run([*command, "--outputDICOM", folder / "seg.dcm"], check=True, capture_output=True)
    return folder / "seg.dcm"
