"""Series to volumes, and which series are images."""

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.files import ImageError
from tasks.dicom.client import Series
from tasks.dicom.frames import GROUPS
from tasks.dicom.series import onto_grid, to_volume
from tasks.dicom.series_filter import SeriesFilter, channel_series, images
from tasks.geometry.sizes import LIMITS
from tests.dicom import OBLIQUE, datasets, enhanced, mr_series

VOXELS = np.arange(5 * 6 * 7).reshape(5, 6, 7)


def test_slices_are_put_together_by_their_place_whatever_the_order_of_the_files():
    volume = to_volume(datasets(mr_series("p", VOXELS, spacing=(0.5, 0.6, 3))), "s")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(volume), VOXELS)
    np.testing.assert_allclose(volume.GetSpacing(), (0.6, 0.5, 3))


def test_an_enhanced_instance_is_put_together_by_the_places_of_its_frames():
    files = mr_series("p", VOXELS, orientation=OBLIQUE, origin=(11, -22, 33), spacing=(0.5, 0.6, 3))
    (whole,) = datasets([enhanced(files, slope=2, intercept=-5)])
    places = [float(own.PlanePositionSequence[0].ImagePositionPatient[2]) for own in whole[GROUPS].value]
    assert places != sorted(places)
    volume, same = to_volume([whole], "s"), to_volume(datasets(files), "s")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(volume), 2.0 * VOXELS - 5)
    for geometry in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(volume, geometry)(), getattr(same, geometry)(), atol=1e-6)


def frame_lost(whole):
    del whole[GROUPS].value[2].PlanePositionSequence
    return [whole]


def frames_somewhere(whole):
    del whole[GROUPS]
    return [whole]


def pixels_cut(whole):
    whole.PixelData = whole.PixelData[:-2]
    return [whole]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (frame_lost, "series s has slices without position"),
        (frames_somewhere, "series s has several frames, but not the place of each"),
        (pixels_cut, "series s cannot be read"),
        (lambda whole: [whole, whole], "several multi-frame instances"),
    ],
)
def test_enhanced_instances_that_are_no_volume_are_refused_with_the_reason(change, words):
    (whole,) = datasets([enhanced(mr_series("p", VOXELS))])
    with pytest.raises(ImageError, match=words):
        to_volume(change(whole), "s")


def slices_of(files):
    return datasets(files)


def one_instance(files):
    return datasets([enhanced(files)])


def many_frames_claimed(files):
    (whole,) = one_instance(files)
    whole.NumberOfFrames = 10**6
    return [whole]


@pytest.mark.parametrize(
    ("make", "limit", "words"),
    [
        (slices_of, VOXELS.size - 1, "claims 210 voxels; the option max_voxels allows 209"),
        (one_instance, VOXELS.size - 1, "claims 210 voxels; the option max_voxels allows 209"),
        (many_frames_claimed, VOXELS.size, "claims 42000000 voxels"),
    ],
)
def test_series_with_too_many_pixels_are_refused_before_one_is_decoded(make, limit, words, monkeypatch):
    def decoded(*_):
        pytest.fail("pixels were decoded")

    instances = make(mr_series("p", VOXELS))
    monkeypatch.setattr("pydicom.Dataset.pixel_array", property(decoded))
    monkeypatch.setattr("tasks.dicom.series._from_slices", decoded)
    monkeypatch.setattr(LIMITS, "max_voxels", limit)
    with pytest.raises(ImageError, match=f"series s {words}"):
        to_volume(instances, "s")


def drop(slices, number):
    return [slice for slice in slices if slice.InstanceNumber != number]


def without_place(slices):
    for slice in slices:
        del slice.ImagePositionPatient
    return slices


def one_turned(slices):
    slices[0].ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    return slices


def one_larger(slices):
    slices[0].Rows = 12
    return slices


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: [], "series s has no instances"),
        (lambda s: drop(s, 3), "a gap of 6 mm between slices 3 mm apart"),
        (lambda s: [*s, s[0]], "several slices at the same place"),
        (without_place, "without position"),
        (one_turned, "different directions"),
        (one_larger, "different sizes"),
    ],
)
def test_series_that_are_no_volume_are_refused_with_the_reason(change, words):
    with pytest.raises(ImageError, match=words):
        to_volume(change(datasets(mr_series("p", VOXELS))), "s")


def test_a_channel_on_another_grid_is_resampled_onto_the_first():
    first = to_volume(datasets(mr_series("p", VOXELS * 0 + 5)), "a")
    other = to_volume(datasets(mr_series("p", VOXELS * 0 + 7, spacing=(0.5, 0.5, 1.5), origin=(-1, -1, -1))), "b")
    moved = onto_grid(other, first)
    assert moved.GetSize() == first.GetSize()
    assert moved.GetPixel(0, 0, 0) == 7
    assert moved.GetPixel(6, 5, 4) == 0  # outside of the other
    assert onto_grid(first, first) is first


def series(uid: str, description: str, study: str = "1", modality: str = "MR") -> Series:
    return Series(uid, study, modality, description)


@pytest.mark.parametrize(
    ("text", "taken"),
    [("MR", "ab"), ("CT,MR", "abc"), ("MR:t1.*post", "a"), ("mr,ct:flair", "b"), ("CT", "c"), ("MR:^post", "")],
)
def test_series_are_filtered_by_modality_and_description(text, taken):
    all_of_them = [series("a", "AX T1 POST"), series("b", "FLAIR"), series("c", "chest", modality="CT")]
    assert "".join(s.SeriesInstanceUID for s in all_of_them if SeriesFilter.parse(text).takes(s)) == taken


@pytest.mark.parametrize("text", ["", ":t1", "MR:(", "M R", "MR;CT"])
def test_filters_that_cannot_be_understood_are_refused(text):
    with pytest.raises(ValueError, match=r"must be modalities|no regular expression"):
        SeriesFilter.parse(text)


def test_channels_are_found_by_their_description():
    study = [series("a", "T1 post contrast"), series("b", "T1_pre"), series("c", "T1-POST"), series("d", "T2_reg")]
    found = {name: channel_series(name, study) for name in ("T1post", "T2", "T1", "FLAIR")}
    assert {name: s and s.SeriesInstanceUID for name, s in found.items()} == {
        "T1post": "c",
        "T2": "d",
        "T1": "b",
        "FLAIR": None,
    }


def test_a_study_is_one_image_of_its_channels_and_says_what_it_lacks():
    found = [series("a", "T1post", "1"), series("b", "T2", "1"), series("c", "T1post", "2"), series("d", "T2", "3")]
    assert images(found, ("T1post", "T2")) == {"a": (found[0], found[1]), "c": (found[2], None)}
    assert set(images(found, ())) == {"a", "b", "c", "d"}
    assert set(images(found, ("T2",))) == {"b", "d"}


@given(st.lists(st.sampled_from(["T1post", "T2", "x"]), unique_by=lambda text: text), st.randoms())
def test_the_order_of_the_archive_does_not_matter(descriptions, random):
    found = [series(str(number), text) for number, text in enumerate(descriptions)]
    shuffled = random.sample(found, len(found))
    assert images(found, ("T1post", "T2")) == images(shuffled, ("T1post", "T2"))
