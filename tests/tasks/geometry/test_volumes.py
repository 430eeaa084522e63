"""Reading images, channels and labels; and what is said when they are wrong."""

import nibabel
import nrrd
import numpy as np
import pytest
import torch

from tasks.common.files import ImageError, fingerprint, reason
from tasks.geometry.volumes import channel_files, preprocessing, read_label, read_volume

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def volume():
    return np.random.default_rng(0).random((6, 5, 4)).astype(np.float32) + 1


def test_3d_nifti(tmp_path, volume):
    read = read_volume(save(tmp_path / "a.nii.gz", volume))
    assert read.shape == (1, 6, 5, 4)
    np.testing.assert_allclose(read[0], volume)
    np.testing.assert_allclose(read.affine, AFFINE)


def test_4d_nifti_has_its_channels_last(tmp_path, volume):
    read = read_volume(save(tmp_path / "a.nii.gz", np.stack([volume, 2 * volume, 3 * volume], -1)))
    assert read.shape == (3, 6, 5, 4)
    np.testing.assert_allclose(read[2], 3 * volume)


def test_nrrd(tmp_path, volume):
    nrrd.write(str(tmp_path / "a.nrrd"), volume)
    assert read_volume(tmp_path / "a.nrrd").shape == (1, 6, 5, 4)


def test_channels_lie_in_folders_of_their_names(tmp_path, volume):
    image = save(tmp_path / "a.nii.gz", volume)
    save(tmp_path / "channels" / "t2" / "a.nii.gz", volume * 5)
    read = read_volume(image, ["t1c", "t2"])
    assert read.shape == (2, 6, 5, 4)
    np.testing.assert_allclose(read[1], volume * 5)


def test_a_missing_channel_is_named(tmp_path, volume):
    with pytest.raises(ImageError, match=r"channels/t2/a\.nii\.gz is missing"):
        read_volume(save(tmp_path / "a.nii.gz", volume), ["t1c", "t2"])


def test_a_channel_of_another_shape_is_named(tmp_path, volume):
    image = save(tmp_path / "a.nii.gz", volume)
    save(tmp_path / "channels" / "t2" / "a.nii.gz", volume[:-1])
    with pytest.raises(ImageError, match=r"channels/t2/a\.nii\.gz has the shape 5x5x4, the first channel 6x5x4"):
        read_volume(image, ["t1c", "t2"])


def test_unreadable_and_bad_files_are_named(tmp_path, volume):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"broken\.nii\.gz cannot be read"):
        read_volume(broken)
    with pytest.raises(ImageError, match=r"flat\.nii\.gz is not a volume"):
        read_volume(save(tmp_path / "flat.nii.gz", volume[..., 0]))
    volume[0, 0, 0] = np.nan
    with pytest.raises(ImageError, match=r"nan\.nii\.gz contains NaN"):
        read_volume(save(tmp_path / "nan.nii.gz", volume))


def test_labels_are_checked(tmp_path, volume):
    label = np.zeros(volume.shape, np.uint8)
    label[0, 0, 0] = 2
    path = save(tmp_path / "label.nii.gz", label)
    assert read_label(path, 3, like=(6, 5, 4)).shape == (1, 6, 5, 4)
    with pytest.raises(ImageError, match=r"label\.nii\.gz contains the values 2; declared are 0 to 1"):
        read_label(path, 2)
    with pytest.raises(ImageError, match=r"label\.nii\.gz has the shape 6x5x4, its image 6x5x5"):
        read_label(path, 3, like=(6, 5, 5))
    with pytest.raises(ImageError, match=r"contains the values 0\.5"):
        read_label(save(tmp_path / "half.nii.gz", label / 4), 3)


def test_the_fingerprint_changes_with_any_channel(tmp_path, volume):
    image = save(tmp_path / "a.nii.gz", volume)
    before = fingerprint(channel_files(image, ["t1c", "t2"]))
    save(tmp_path / "channels" / "t2" / "a.nii.gz", volume)
    after = fingerprint(channel_files(image, ["t1c", "t2"]))
    assert len({before, after, fingerprint(channel_files(image, []))}) == 3
    assert fingerprint(channel_files(image, ["t1c", "t2"])) == after


def test_preprocessing_orients_resamples_and_normalises(tmp_path, volume):
    volume[0] = 0
    image = save(tmp_path / "a.nii.gz", volume, np.diag([-2.0, -2.0, 3.0, 1.0]))
    result = preprocessing((), 2, None, 0.0)({"image": image})["image"]
    inside = volume[volume != 0]
    expected = np.where(volume != 0, (volume - inside.mean()) / inside.std(), 0)[::-1, ::-1]
    np.testing.assert_allclose(result[0], expected, atol=1e-4)
    resampled = preprocessing((), 2, 1, 1.0, labels=True)(
        {"image": image, "label": image.with_name("l.nii.gz")}
        | {"label": str(save(tmp_path / "l.nii.gz", (volume > 1.5).astype(np.uint8)))}
    )
    assert resampled["image"].shape == resampled["label"].shape == (1, 11, 9, 10)
    assert set(torch.unique(resampled["label"]).tolist()) <= {0.0, 1.0}


def test_a_wrong_number_of_channels_is_named(tmp_path, volume):
    image = save(tmp_path / "a.nii.gz", volume)
    with pytest.raises(RuntimeError) as caught:
        preprocessing((), 2, 2, 0.0)({"image": image})
    assert reason(caught.value) == f"{image} has 1 channels, the model takes 2"
