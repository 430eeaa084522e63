"""Label maps as DICOM SEG, and back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import highdicom
import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from monailabel.datastore.utils.colors import GENERIC_ANATOMY_COLORS
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import PersonName
from skimage.color import rgb2lab

from tasks.common.files import ImageError, LabelError
from tasks.dicom.frames import GROUPS, Frame, claimed, frames_of, group
from tasks.geometry.sizes import check_layers

MANUFACTURER = "Active learning for MONAI Label"
_PALETTE = ((230, 60, 60), (70, 160, 240), (250, 200, 60), (90, 200, 110), (190, 110, 230), (250, 140, 60))
_LESIONS = ("tumor", "tumour", "lesion", "nodule", "metastas", "cancer")
_AI = Code("123110", "DCM", "Artificial Intelligence")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
_NEOPLASM = Code("108369006", "SCT", "Neoplasm")
_TISSUE = Code("85756007", "SCT", "Tissue")
_DCMJS = {"Manufacturer": "Unspecified", "ManufacturerModelName": "Unspecified", "SoftwareVersions": "0"}
"""What dcmjs, with which OHIF exports, says of itself."""
_STRAIGHT = 0.1
"""Voxels that a pixel of a SEG may be off the image's grid."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Authorship:
    """Who made a label, and from what.

    Attributes:
        reader: the person.
        model: name of the model whose proposal it started from, empty if it was drawn from nothing.
        model_version: version of that model.
    """

    reader: str = ""
    model: str = ""
    model_version: str = ""


def write_seg(
    label: np.ndarray,
    affine: np.ndarray,
    names: Sequence[str],
    headers: Sequence[Dataset],
    author: Authorship,
    series_uid: str,
) -> Segmentation:
    """A label map as DICOM SEG that refers to the slices it was drawn on.

    Args:
        label: ``[X, Y, Z]``, 0 background, value ``i`` is ``names[i - 1]``.
        affine: ``[4, 4]``, voxel index to RAS mm.
        names: foreground label names.
        headers: of the image's slices, or of one enhanced instance with all of them.
        author: who made it.
        series_uid: of the new series; the same gives the same instance, so that sending it twice does no harm.

    Raises:
        LabelError: no segment, or the slices are not on the label's grid.
    """
    present = [value for value in range(1, len(names) + 1) if (label == value).any()]
    if not present:
        raise LabelError("an empty label map cannot be a DICOM SEG")
    number = np.zeros(len(names) + 1, dtype=np.uint8)
    number[present] = np.arange(1, len(present) + 1)
    planes = np.stack([_plane(label, affine, frame) for header in headers for frame in _frames(header)])
    segments = [_segment(place, names[value - 1], author) for place, value in enumerate(present, start=1)]
    seg = Segmentation(
        source_images=list(headers),
        pixel_array=number[planes.astype(np.int64)],
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=series_uid,
        series_number=300,
        sop_instance_uid=generate_uid(entropy_srcs=[series_uid, "1"]),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="Segmentation",
        software_versions=version("monailabel"),
        device_serial_number="1",
        content_label="SEGMENTATION",
        content_description=", ".join(names[value - 1] for value in present)[:64],
        content_creator_name=PersonName(author.reader.replace("\\", " ").replace("=", " ")[:60] or "unknown"),
        series_description=f"Segmentation {' '.join(names[value - 1] for value in present)}"[:64],
    )
    for item, value in zip(seg.SegmentSequence, present, strict=True):
        item.RecommendedDisplayCIELabValue = _lab(colour(names[value - 1], value))
    return seg


def colour(name: str, value: int) -> tuple[int, int, int]:
    """RGB of a label: MONAI Label's for a known name, else one of a few by value."""
    known = GENERIC_ANATOMY_COLORS.get(name.lower())
    red, green, blue = known if known else _PALETTE[(value - 1) % len(_PALETTE)]
    return red, green, blue


def _segment(number: int, name: str, author: Authorship) -> SegmentDescription:
    lesion = any(word in name.lower() for word in _LESIONS)
    algorithm = None
    if author.model:
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name=author.model[:64],
            family=_AI,
            version=author.model_version or "unknown",
        )
    return SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=_ABNORMAL if lesion else _STRUCTURE,
        segmented_property_type=_NEOPLASM if lesion else _TISSUE,
        algorithm_type="SEMIAUTOMATIC" if author.model else "MANUAL",
        algorithm_identification=algorithm,
    )


def _lab(rgb: tuple[int, int, int]) -> list[int]:
    """CIELab as DICOM scales it: 0 to 65535 for L* 0 to 100 and for a*, b* -128 to 127 (PS3.3 C.10.7.1.1)."""
    lightness, a, b = rgb2lab(np.array(rgb, dtype=float)[None, None] / 255)[0, 0]
    scaled = (lightness / 100, (a + 128) / 255, (b + 128) / 255)
    return [round(65535 * float(np.clip(value, 0, 1))) for value in scaled]


def _frames(header: Dataset) -> list[Frame]:
    try:
        return frames_of(header)
    except ValueError as error:
        raise LabelError(f"its image has {error}") from error


def _plane(label: np.ndarray, affine: np.ndarray, frame: Frame) -> np.ndarray:
    """``[rows, columns]`` of the label map on a slice."""
    return label[_voxels(label.shape, affine, frame)]


def _voxels(shape: tuple[int, ...], affine: np.ndarray, frame: Frame) -> tuple[np.ndarray, ...]:
    """Voxel indices of every pixel of a frame.

    Raises:
        LabelError: the frame is not on the grid.
    """
    to_voxels = np.linalg.inv(affine) @ _LPS_TO_RAS
    origin = to_voxels[:3, :3] @ frame.position + to_voxels[:3, 3]
    down = to_voxels[:3, :3] @ (frame.orientation[3:] * frame.spacing[0])
    right = to_voxels[:3, :3] @ (frame.orientation[:3] * frame.spacing[1])
    row, column = np.mgrid[: frame.rows, : frame.columns]
    exact = origin[:, None, None] + down[:, None, None] * row + right[:, None, None] * column
    voxels = np.rint(exact).astype(np.int64)
    if np.abs(exact - voxels).max() > _STRAIGHT or (voxels < 0).any() or (voxels.max((1, 2)) >= shape).any():
        raise LabelError("its frames are not on the grid of the image")
    return tuple(voxels)


def read_seg(
    seg: Dataset, shape: tuple[int, ...], affine: np.ndarray, layers: int
) -> tuple[np.ndarray, list[dict[str, object]], str]:
    """A DICOM SEG as a label map on the grid of its image.

    Args:
        seg: the instance.
        shape: ``[X, Y, Z]`` of the image.
        affine: of the image, voxel index to RAS mm.
        layers: segments that may each have all voxels of the image.

    Returns:
        The label map by segment number, ``label_info`` (name and ``idx`` of each segment), and who made it.

    Raises:
        LabelError: no SEG, no pixels, fractional segments, or frames elsewhere than on the image's grid.
        ImageError: it claims more pixels than its image has voxels in all layers.
    """
    try:
        if seg.SegmentationType not in ("BINARY", "LABELMAP"):
            raise LabelError(f"it is a {str(seg.SegmentationType).lower()} segmentation")
        check_layers("it", claimed(seg), shape, layers)
        planes = np.asarray(seg.pixel_array)
        planes = planes[None] if planes.ndim == 2 else planes
        label = np.zeros(shape, dtype=np.uint8)
        for plane, frame, own in zip(planes, frames_of(seg), seg[GROUPS].value, strict=True):
            voxels = _voxels(shape, affine, frame)
            if seg.SegmentationType == "LABELMAP":
                values = plane
            else:
                number = int(group(seg, own, "SegmentIdentificationSequence").ReferencedSegmentNumber)
                values = np.where(plane > 0, number, 0)
            there = values > 0
            label[tuple(axis[there] for axis in voxels)] = values[there]
        segments: list[dict[str, object]] = [
            {"name": str(item.get("SegmentLabel", "")), "idx": int(item.SegmentNumber)} for item in seg.SegmentSequence
        ]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, LabelError | ImageError):
            raise
        raise LabelError(f"it cannot be read as DICOM SEG: {error}") from error
    return label, segments, str(seg.get("ContentCreatorName", "") or "")


def referenced_series(header: Dataset) -> str:
    """UID of the series that a SEG refers to, empty if it does not say."""
    sequence = header.get("ReferencedSeriesSequence")
    return str(sequence[0].get("SeriesInstanceUID", "")) if sequence else ""


def may_be_mirrored(seg: Dataset, headers: Sequence[Dataset]) -> bool:
    """Whether a SEG is one of those whose frames OHIF may have put on the wrong slices.

    OHIF's export (dcmjs, seen in the version that MONAI Label ships) takes the slices in the order they are shown, by
    instance number, and writes the places in descending order along their normal. Unless both are the same order, the
    segmentation lies mirrored in the archive. Nothing in it tells whether the version that wrote it is a mended one.

    Args:
        seg: the instance.
        headers: of the image's slices, or of one enhanced instance with all of them.
    """
    if any(str(seg.get(name, "")) != value for name, value in _DCMJS.items()):
        return False
    shown = sorted(headers, key=lambda header: int(header.get("InstanceNumber") or 0))
    along = [frame.along for header in shown for frame in _frames(header)]
    return bool((np.diff(along) >= 0).any())


def made_at(header: Dataset) -> dt.datetime | None:
    """When a SEG was made, by the clock of the machine that made it; None if it does not say."""
    for kind in ("Content", "Series"):
        date, time = (str(header.get(f"{kind}{part}") or "").partition(".")[0] for part in ("Date", "Time"))
        try:
            return dt.datetime.strptime(f"{date}{time or '000000'}", "%Y%m%d%H%M%S")
        except ValueError:
            continue
    return None
