"""Images and masks pixel for pixel, in the geometry that ITK and 3D Slicer give them."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from tasks.common.files import ImageError
from tasks.geometry.slices import (
    image_affine,
    preprocessing,
    read_mask,
    read_size,
    read_slice,
    restore,
)

ROWS, COLUMNS = 20, 30


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (ROWS, COLUMNS), dtype=np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    """Without any symmetry."""
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[2:5, 3:20] = 1
    mask[2:9, 3] = 2
    return mask


@pytest.fixture
def png(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def write_itk(path, array, like):
    """A mask as 3D Slicer writes it: a volume of one slice with the geometry of the image."""
    flat = sitk.GetImageFromArray(array)
    flat.CopyInformation(sitk.ReadImage(str(like)))
    sitk.WriteImage(sitk.JoinSeries(flat), str(path))
    return path


def test_a_picture_is_columns_by_rows_in_three_channels_between_0_and_1(png, pixels):
    image = read_slice(png)
    assert image.shape == (3, COLUMNS, ROWS)
    assert torch.equal(image[0], image[2])
    assert np.allclose(image[0].numpy().T * 255, pixels, atol=1e-4)
    assert read_size(png) == (COLUMNS, ROWS)


def test_photographs_are_not_turned_because_viewers_do_not(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    assert read_slice(tmp_path / "photo.jpg").shape == (3, COLUMNS, ROWS)
    assert sitk.ReadImage(str(tmp_path / "photo.jpg")).GetSize() == (COLUMNS, ROWS)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_the_affine_is_that_of_itk(tmp_path, pixels, ending):
    file = tmp_path / f"image.{ending}"
    Image.fromarray(pixels).save(file, dpi=(200, 200))
    image = sitk.ReadImage(str(file))
    for column, row in ((0, 0), (COLUMNS - 1, 3)):
        x, y = image.TransformIndexToPhysicalPoint((column, row))
        ras = image_affine(file) @ [column, row, 0, 1]
        assert ras[:3] == pytest.approx([-x, -y, 0])


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".nii"])
def test_masks_in_any_format_say_the_same(tmp_path, png, mask, ending):
    file = write_itk(tmp_path / f"mask{ending}", mask, png)
    assert np.array_equal(read_mask(file, 3, png), mask.T)
    flat = sitk.GetImageFromArray(mask)
    flat.CopyInformation(sitk.ReadImage(str(png)))
    sitk.WriteImage(flat, str(tmp_path / f"flat{ending}"))
    assert np.array_equal(read_mask(tmp_path / f"flat{ending}", 3, png), mask.T)


def test_pictures_as_masks_grey_palette_or_three_equal_channels(tmp_path, png, mask):
    Image.fromarray(mask).save(tmp_path / "grey.png")
    palette = Image.fromarray(mask).convert("P")
    palette.putdata(mask.ravel().tolist())
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.stack([mask] * 3, -1)).save(tmp_path / "rgb.png")
    for name in ("grey", "palette", "rgb"):
        assert np.array_equal(read_mask(tmp_path / f"{name}.png", 3, png), mask.T), name


def test_255_means_1_where_there_is_one_label(tmp_path, png, mask):
    Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", 2, png), (mask > 0).T)
    with pytest.raises(ImageError, match="values 255; declared are 0 to 2"):
        read_mask(tmp_path / "mask.png", 3, png)


def test_a_mask_stored_in_another_order_but_in_the_right_place_is_turned(tmp_path, png, mask):
    affine = image_affine(png) @ np.array([[-1, 0, 0, COLUMNS - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(mask.T[::-1, :, None], affine), tmp_path / "mask.nii.gz")
    assert np.array_equal(read_mask(tmp_path / "mask.nii.gz", 3, png), mask.T)


def test_a_mask_that_lies_elsewhere_is_not_flipped_silently(tmp_path, png, mask):
    nibabel.save(nibabel.Nifti1Image(mask.T[:, :, None], np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(ImageError, match=r"mask\.nii\.gz lies elsewhere than its image image\.png"):
        read_mask(tmp_path / "mask.nii.gz", 3, png)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((ROWS, COLUMNS - 1), np.uint8), "has 29x20 pixels, its image 30x20"),
        (np.full((ROWS, COLUMNS), 7, np.uint8), "values 7; declared are 0 to 2"),
        (np.random.default_rng(0).integers(0, 2, (ROWS, COLUMNS, 3)).astype(np.uint8), "colour picture"),
    ],
)
def test_masks_that_do_not_fit_say_why(tmp_path, png, array, words):
    Image.fromarray(array).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=words):
        read_mask(tmp_path / "mask.png", 3, png)


def test_files_that_are_no_masks_are_named(tmp_path, png):
    (tmp_path / "mask.png").write_bytes(b"nonsense")
    with pytest.raises(ImageError, match=r"mask\.png cannot be read"):
        read_mask(tmp_path / "mask.png", 2, png)
    nibabel.save(nibabel.Nifti1Image(np.zeros((COLUMNS, ROWS, 4), np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(ImageError, match="30x20x4 voxels: its image has 30x20"):
        read_mask(tmp_path / "mask.nii.gz", 2, png)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "RPS", "PRS", "ALS"])
def test_a_nifti_slice_is_shown_upright_and_a_mask_comes_back_in_its_own_order(tmp_path, mask, axes):
    """The same anatomy stored in several orders looks the same, and its mask fits the file."""
    lps = nibabel.Nifti1Image(mask.T[:, :, None].astype(np.float32), np.diag([-2.0, -2.0, 3.0, 1.0]))
    own = nibabel.orientations.axcodes2ornt(axes)
    stored = lps.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(lps.affine), own))
    nibabel.save(stored, tmp_path / "slice.nii.gz")
    file = tmp_path / "slice.nii.gz"
    assert np.array_equal(read_slice(file)[0].numpy() > 0, mask.T > 0)
    assert read_size(file) == (COLUMNS, ROWS)
    back = restore(mask.T, image_affine(file))
    assert np.array_equal(back, stored.get_fdata())
    nibabel.save(nibabel.Nifti1Image(back, stored.affine), tmp_path / "mask.nii.gz")
    assert np.array_equal(read_mask(tmp_path / "mask.nii.gz", 3, file), mask.T)


def test_images_are_scaled_by_their_longer_side(png, tmp_path, mask):
    Image.fromarray(mask).save(tmp_path / "mask.png")
    item = preprocessing(3, 64, labels=True)({"image": str(png), "label": str(tmp_path / "mask.png")})
    assert item["image"].shape[0] == 3
    assert item["image"].shape[1:] == item["label"].shape[1:]
    assert max(item["image"].shape) == 64
    assert item["image"].shape[2] / 64 == pytest.approx(ROWS / COLUMNS, abs=0.02)
    assert set(np.unique(item["label"])) == {0, 1, 2}
    assert item["image"].mean().item() == pytest.approx(0, abs=1e-4)
