"""Label maps to DICOM SEG and back: every voxel where it was, on slices that lie askew."""

import io

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import generate_uid

from tasks.common.files import ImageError, LabelError
from tasks.dicom.seg import Authorship, made_at, may_be_mirrored, read_seg, referenced_series, write_seg
from tasks.dicom.series import to_volume
from tasks.geometry.grid import read_grid
from tests.dicom import AXIAL, OBLIQUE, datasets, dcmqi_seg, enhanced, mr_series

NAMES = ("tumor", "liver")
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


@pytest.fixture(params=[AXIAL, OBLIQUE, SAGITTAL], ids=["axial", "oblique", "sagittal"])
def series(request):
    """Slices whose voxels tell where they are: value = 100 slice + 10 row + column."""
    k, r, c = np.mgrid[:5, :6, :7]
    files = mr_series("p", 100 * k + 10 * r + c, orientation=request.param, origin=(11, -22, 33), spacing=(0.8, 1.1, 4))
    return datasets(files)


@pytest.fixture
def grid(series, tmp_path):
    file = tmp_path / "image.nii.gz"
    SimpleITK.WriteImage(to_volume(series, "s"), str(file))
    return read_grid(file), np.asarray(nibabel.load(file).dataobj)


def author() -> Authorship:
    return Authorship("Ann Reader", "segmentation", "0123456789ab")


def written(seg) -> pydicom.Dataset:
    """Through a file, as an archive gives it back."""
    buffer = io.BytesIO()
    seg.save_as(buffer)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def label_of(image: np.ndarray) -> np.ndarray:
    """Asymmetric, chosen by the values of the image and so by slice, row and column."""
    label = np.zeros(image.shape, np.uint8)
    label[np.isin(image, [100 + 10 * 2 + 3, 100 + 10 * 2 + 4, 300 + 10 * 5 + 6])] = 1
    label[np.isin(image, [0, 400 + 10 * 1 + 2])] = 2
    return label


def test_frames_lie_on_the_pixels_they_were_drawn_on(series, grid):
    space, image = grid
    seg = written(write_seg(label_of(image), space.affine, NAMES, series, author(), generate_uid()))
    by_position = {tuple(map(float, slice.ImagePositionPatient)): slice for slice in series}
    found = {1: set(), 2: set()}
    for frame, own in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = tuple(map(float, own.PlanePositionSequence[0].ImagePositionPatient))
        slice = by_position[position]
        source = own.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source == slice.SOPInstanceUID
        number = own.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[number].update(slice.pixel_array[frame > 0].tolist())
    assert found == {1: {123, 124, 356}, 2: {0, 412}}


def test_frames_of_an_enhanced_image_are_referred_to_one_by_one(tmp_path):
    k, r, c = np.mgrid[:5, :6, :7]
    files = mr_series("p", 100 * k + 10 * r + c, orientation=OBLIQUE, origin=(11, -22, 33), spacing=(0.8, 1.1, 4))
    (whole,) = datasets([enhanced(files)])
    file = tmp_path / "image.nii.gz"
    SimpleITK.WriteImage(to_volume([whole], "s"), str(file))
    space, label = read_grid(file), label_of(np.asarray(nibabel.load(file).dataobj))
    seg = written(write_seg(label, space.affine, NAMES, [whole], author(), generate_uid()))
    found = {1: set(), 2: set()}
    for frame, own in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = own.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == whole.SOPInstanceUID
        number = own.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[number].update(whole.pixel_array[int(source.ReferencedFrameNumber) - 1][frame > 0].tolist())
    assert found == {1: {123, 124, 356}, 2: {0, 412}}
    np.testing.assert_array_equal(read_seg(seg, space.shape, space.affine, 3)[0], label)


def test_segmentations_of_3d_slicer_are_read_voxel_by_voxel(series, grid, tmp_path):
    space, image = grid
    label = label_of(image)
    nibabel.save(nibabel.Nifti1Image(label, space.affine), tmp_path / "label.nii.gz")
    seg = pydicom.dcmread(dcmqi_seg(tmp_path / "label.nii.gz", series, ("liver", "tumor"), "Reader^Sam", tmp_path))
    found, segments, creator = read_seg(seg, space.shape, space.affine, 3)
    np.testing.assert_array_equal(found, label)
    assert (segments[0], creator) == ({"name": "liver", "idx": 1}, "Reader^Sam")
    assert referenced_series(seg) == series[0].SeriesInstanceUID


@pytest.mark.parametrize(
    ("downwards", "by_ohif", "suspect"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_what_ohif_may_have_put_on_the_wrong_slices_is_known(downwards, by_ohif, suspect):
    slices = datasets(mr_series("p", np.zeros((5, 6, 7)), orientation=OBLIQUE, downwards=downwards))
    seg = pydicom.Dataset()
    seg.Manufacturer = "Unspecified" if by_ohif else "QIICR"
    seg.ManufacturerModelName, seg.SoftwareVersions = "Unspecified", "0"
    assert may_be_mirrored(seg, slices) is suspect
    if not downwards:
        assert may_be_mirrored(seg, datasets([enhanced(mr_series("p", np.zeros((5, 6, 7))))])) is by_ohif


def test_names_authors_colours_and_references_are_right(series, grid):
    space, image = grid
    uid = generate_uid()
    seg = written(write_seg(label_of(image), space.affine, NAMES, series, author(), uid))
    assert [item.SegmentLabel for item in seg.SegmentSequence] == list(NAMES)
    tumor, liver = seg.SegmentSequence
    assert (tumor.SegmentAlgorithmType, tumor.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "segmentation")
    assert tumor.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "0123456789ab"
    assert tumor.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert str(seg.ContentCreatorName) == "Ann Reader"
    assert tumor.RecommendedDisplayCIELabValue != liver.RecommendedDisplayCIELabValue
    assert referenced_series(seg) == series[0].SeriesInstanceUID
    assert seg.SeriesInstanceUID == uid
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert seg[name].value == series[0][name].value
    assert made_at(seg) is not None
    again = write_seg(label_of(image), space.affine, NAMES, series, author(), uid)
    assert again.SOPInstanceUID == seg.SOPInstanceUID


def test_a_label_drawn_from_nothing_is_manual_and_absent_labels_are_no_segments(series, grid):
    space, image = grid
    label = np.where(label_of(image) == 2, 2, 0)
    seg = written(write_seg(label, space.affine, NAMES, series, Authorship(), generate_uid()))
    (liver,) = seg.SegmentSequence
    assert (liver.SegmentNumber, liver.SegmentLabel, liver.SegmentAlgorithmType) == (1, "liver", "MANUAL")
    back, segments, _ = read_seg(seg, space.shape, space.affine, 3)
    assert segments == [{"name": "liver", "idx": 1}]
    np.testing.assert_array_equal(back, label // 2)


def test_what_was_written_is_read_back_voxel_by_voxel(series, grid):
    space, image = grid
    label = label_of(image)
    seg = written(write_seg(label, space.affine, NAMES, series, author(), generate_uid()))
    back, segments, creator = read_seg(seg, space.shape, space.affine, 3)
    np.testing.assert_array_equal(back, label)
    assert segments == [{"name": "tumor", "idx": 1}, {"name": "liver", "idx": 2}]
    assert creator == "Ann Reader"


def test_what_is_no_segmentation_of_the_image_is_refused(series, grid):
    space, image = grid
    seg = written(write_seg(label_of(image), space.affine, NAMES, series, author(), generate_uid()))
    moved = space.affine.copy()
    moved[0, 3] += 0.4
    with pytest.raises(LabelError, match="not on the grid"):
        read_seg(seg, space.shape, moved, 3)
    with pytest.raises(LabelError, match="not on the grid"):
        read_seg(seg, (3, 3, 3), space.affine, 9)
    with pytest.raises(LabelError, match="cannot be read as DICOM SEG"):
        read_seg(series[0], space.shape, space.affine, 3)
    seg.SegmentationType = "FRACTIONAL"
    with pytest.raises(LabelError, match="fractional"):
        read_seg(seg, space.shape, space.affine, 3)
    with pytest.raises(LabelError, match="empty"):
        write_seg(np.zeros(space.shape), space.affine, NAMES, series, author(), generate_uid())


def test_a_segmentation_with_more_pixels_than_its_image_in_all_layers_is_refused_before_one_is_decoded(series, grid):
    space, image = grid
    seg = written(write_seg(label_of(image), space.affine, NAMES, series, author(), generate_uid()))
    read_seg(seg, space.shape, space.affine, 2)
    seg.NumberOfFrames = 2 * 5 + 1
    with pytest.raises(ImageError, match=r"claims 11x6x7x1 voxels: its image has .*, and the declared labels allow 2"):
        read_seg(seg, space.shape, space.affine, 2)
