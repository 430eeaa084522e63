"""Images as a screen shows them, whatever their file format."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from tasks.common.files import ImageError
from tasks.geometry.images import intensities, read_image

# One bright pixel in the top left corner, so that every flip and transposition shows.
CORNER = np.zeros((4, 6), np.uint8)
CORNER[0, 0] = 200


def test_grey_and_colour_pictures_have_rows_and_columns(tmp_path):
    Image.fromarray(CORNER).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), CORNER[None])
    colour = np.stack([CORNER, CORNER // 2, CORNER // 4], -1)
    Image.fromarray(colour).save(tmp_path / "colour.tif")
    read = read_image(tmp_path / "colour.tif")
    assert (read.shape, read.dtype) == ((3, 4, 6), np.uint8)
    assert read[:, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
def test_other_modes_become_grey_or_colour(tmp_path, mode):
    name = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(CORNER).convert("RGB").convert(mode).save(name)
    read = read_image(name)
    assert read.shape[0] in (1, 3)
    assert read.dtype == np.uint8
    assert np.unravel_index(read[0].argmax(), (4, 6)) == (0, 0)


def test_sixteen_bits_are_kept(tmp_path):
    Image.fromarray(CORNER.astype(np.uint16) * 300).save(tmp_path / "a.tif")
    read = read_image(tmp_path / "a.tif")
    assert (read.dtype, read.max()) == (np.float32, 60000)


def test_a_turned_photograph_is_shown_upright(tmp_path):
    picture = Image.fromarray(CORNER)
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png")[0]
    assert read.shape == (6, 4)
    assert read[0, 3] == 200


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1), (6, 4, 1, 1), (6, 4, 1, 3)])
def test_a_slice_has_the_patient_s_right_on_the_left_and_anterior_on_top(tmp_path, shape):
    voxels = np.zeros(shape, np.float32)
    voxels[5, 3] = 7  # the first axis goes to the patient's left here: leftmost and most anterior
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1, 1, 1, 1])), tmp_path / "a.nii.gz")
    read = read_image(tmp_path / "a.nii.gz")
    assert read.shape == (shape[3] if len(shape) == 4 else 1, 4, 6)
    assert np.argwhere(read[0] == 7).tolist() == [[0, 5]]


def test_the_same_slice_stored_either_way_round_looks_the_same(tmp_path):
    voxels = np.random.default_rng(0).random((6, 4, 1), dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 1, 1, 1])), tmp_path / "ras.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels[::-1], np.diag([-1, 1, 1, 1])), tmp_path / "las.nii.gz")
    assert np.array_equal(read_image(tmp_path / "ras.nii.gz"), read_image(tmp_path / "las.nii.gz"))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((6, 4, 3), "has the shape 6x4x3; a slice has one voxel in the third axis"),
        ((6, 4, 1, 2), "has 2 channels; 1 or 3 are supported"),
    ],
)
def test_what_is_no_slice_is_named(tmp_path, shape, words):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match=rf"a\.nii\.gz {words}"):
        read_image(tmp_path / "a.nii.gz")


def test_a_sagittal_slice_is_refused(tmp_path):
    affine = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 4, 1), np.float32), affine), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="is not an axial slice"):
        read_image(tmp_path / "a.nii")


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"a\.png is missing"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png cannot be read"):
        read_image(tmp_path / "a.png")
    pages = [Image.fromarray(CORNER)] * 3
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match=r"b\.tif has several pages"):
        read_image(tmp_path / "b.tif")
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 1), np.nan, np.float32), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(ImageError, match="contains NaN"):
        read_image(tmp_path / "c.nii")


def test_eight_bit_images_keep_their_scale_and_others_are_stretched_by_channel():
    assert float(intensities(CORNER[None]).max()) == pytest.approx(200 / 255)
    rng = np.random.default_rng(0)
    image = np.stack([rng.normal(1000, 50, (32, 32)), rng.normal(3, 0.1, (32, 32))]).astype(np.float32)
    stretched = intensities(image)
    assert stretched.amin((1, 2)).tolist() == [0, 0]
    assert stretched.amax((1, 2)).tolist() == [1, 1]
    assert float(intensities(np.full((1, 4, 4), 5, np.float32)).abs().max()) <= 5
