"""Which label maps are taken for a volume, and what is stored of them."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from tasks.common.files import LabelError
from tasks.geometry.grid import read_grid
from tasks.volume_segmentation.acceptance import VolumeRule

SHAPE = (7, 6, 5)
TURN = Rotation.from_euler("xyz", [15, -5, 7], degrees=True).as_matrix()
OBLIQUE = nibabel.affines.from_matvec(TURN @ np.diag([0.8, 0.8, 4.0]), [10, -20, 30])


def segments(*names: str) -> dict:
    return {"label_info": [{"name": name, "idx": index} for index, name in enumerate(names, start=1)]}


@pytest.fixture
def values() -> np.ndarray:
    """No symmetry anywhere."""
    values = np.zeros(SHAPE, np.uint8)
    values[1:4, 2, 0] = 1
    values[5, 1:3, 3] = 2
    return values


@pytest.fixture(params=[".nii.gz", ".nrrd"])
def image(request, tmp_path) -> Path:
    file = tmp_path / f"image{request.param}"
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.float32), OBLIQUE), tmp_path / "image.nii.gz")
    if request.param == ".nrrd":
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "image.nii.gz")), str(file))
    return file


@pytest.fixture
def look(image, tmp_path):
    """Send a label map; returns what is stored, and what is told."""

    def send(values, affine=OBLIQUE, info=None, name="label.nii.gz", **options):
        file = tmp_path / "sent" / name
        file.parent.mkdir(exist_ok=True)
        if name.endswith(".bin"):
            file.write_bytes(np.asarray(values).tobytes(order="F"))
        elif name.endswith(".nrrd"):
            nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "sent" / "x.nii.gz")
            SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "sent" / "x.nii.gz")), str(file))
        else:
            nibabel.save(nibabel.Nifti1Image(values, affine), file)
        accepted = VolumeRule(("anterior", "posterior"), **options)(file, image, info or {}, tmp_path)
        stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(accepted.file))).T
        assert read_grid(accepted.file).is_like(read_grid(image))
        return stored, dict(accepted.about)

    return send


@pytest.mark.parametrize("name", ["label.nii.gz", "label.nii", "label.nrrd", "label.seg.nrrd", "label.bin"])
def test_a_label_that_fits_is_taken_in_any_format(look, values, name):
    stored, about = look(values, name=name)
    np.testing.assert_array_equal(stored, values)
    assert about == {"segments": {"anterior": 3, "posterior": 2}, "notes": []}


def test_segments_are_recognised_by_name(look, values):
    stored, about = look(values, info=segments("Posterior", "anterior"))
    np.testing.assert_array_equal(stored, np.array([0, 2, 1])[values])
    assert about["segments"] == {"anterior": 2, "posterior": 3}
    np.testing.assert_array_equal(look(values, info=segments("anterior", "posterior", "background"))[0], values)
    three = np.where(values == 0, 3, values).astype(np.uint8)
    np.testing.assert_array_equal(look(three, info=segments("anterior", "posterior", "background"))[0], values)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR", "SLA"])
def test_other_axis_orders_are_reordered_and_said(look, values, codes):
    turn = ornt_transform(io_orientation(OBLIQUE), axcodes2ornt(codes))
    turned = nibabel.orientations.apply_orientation(values, turn)
    stored, about = look(turned, OBLIQUE @ inv_ornt_aff(turn, SHAPE))
    np.testing.assert_array_equal(stored, values)
    own = "".join(nibabel.aff2axcodes(OBLIQUE))
    assert about["notes"] == ([] if codes == own else [f"reordered from {codes} to {own}"])


def test_a_slightly_turned_grid_is_resampled_and_said(look):
    values = np.zeros(SHAPE, np.uint8)
    values[2:6, 1:5, 1:4] = 1
    affine = OBLIQUE.copy()
    affine[:3, :3] = Rotation.from_euler("z", 3, degrees=True).as_matrix() @ OBLIQUE[:3, :3]
    stored, about = look(values, affine)
    assert about["notes"] == ["resampled to the image's direction"]
    assert (stored == values).mean() > 0.9


def moved(axis: int, by: float) -> np.ndarray:
    affine = OBLIQUE.copy()
    affine[axis, 3] += by
    return affine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: (v[:6], OBLIQUE), "6x6x5 voxels, its image 7x6x5"),
        (lambda v: (v, OBLIQUE @ np.diag([1, 1, 0.5, 1])), "voxels of 0.8.* mm, its image"),
        (lambda v: (v, moved(0, 40.0)), "lies elsewhere"),
        (lambda v: (v, moved(2, -3.0)), "lies elsewhere"),
        (lambda v: (v * 4, OBLIQUE), "values 4, 8; declared are 0 to 2 .anterior, posterior."),
        (lambda v: (v * 0, OBLIQUE), "is empty"),
        (lambda v: (np.stack([v, v], -1), OBLIQUE), "not one volume"),
        (lambda v: (np.where(v == 1, 0.5, v).astype(np.float32), OBLIQUE), "values 0.5"),
        (lambda v: (np.where(v == 1, np.nan, v).astype(np.float32), OBLIQUE), "values nan"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_reason(look, values, change, words):
    with pytest.raises(LabelError, match=words):
        look(*change(values))


def test_an_empty_label_is_taken_where_that_is_wanted(look, values):
    assert look(values * 0, allow_empty=True)[1]["segments"] == {"anterior": 0, "posterior": 0}


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (segments("anterior", "liver"), "segment 'liver' is none of anterior, posterior"),
        ({"label_info": "x"}, "label_info must be a list"),
        ({"label_info": [{"name": "x", "idx": "one"}]}, "label_info must be a list"),
        ({"label_info": 3}, "label_info must be a list"),
    ],
)
def test_names_that_are_not_declared_are_refused(look, values, info, words):
    with pytest.raises(LabelError, match=words):
        look(values, info=info)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("label.nii.gz", b"", "the label cannot be read"),
        ("label.nrrd", b"NRRD0004\n", "the label cannot be read"),
        ("label.bin", b"123", "has 3 bytes; one per voxel of the image, 7x6x5"),
        ("label.exe", b"x", "the label is no .nii.gz, .nii, .nrrd, .bin file"),
    ],
)
def test_files_that_cannot_be_read_are_refused(image, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabelError, match=words):
        VolumeRule(("tumor",))(tmp_path / name, image, {}, tmp_path)
