"""Semi-synthetic pools."""

import nibabel
import numpy as np
import pytest

from tasks.simulation import protocols


@pytest.fixture
def source(generated):
    return next(iter(generated.images.values()))


def test_a_share_of_the_pool_changes_in_turn():
    names = [f"{i}.nii.gz" for i in range(40)]
    kinds = protocols.assign(names, 0.4, seed=1)
    counts = {kind: list(kinds.values()).count(kind) for kind in [protocols.ORIGINAL, *protocols.PROTOCOLS]}
    assert counts == {protocols.ORIGINAL: 24} | dict.fromkeys(protocols.PROTOCOLS, 4)
    assert protocols.assign(names[::-1], 0.4, seed=1) == kinds
    assert protocols.assign(names, 0.4, seed=2) != kinds


def test_test_images_are_balanced():
    kinds = list(protocols.balanced([str(i) for i in range(25)], 0).values())
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys([protocols.ORIGINAL, *protocols.PROTOCOLS], 5)


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_a_protocol_changes_the_image_keeps_its_geometry_and_is_seeded(name, source, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        protocols.apply(source, tmp_path / folder / "x.nii.gz", protocols.PROTOCOLS[name](), seed=4)
    before, a, b = nibabel.load(source), nibabel.load(tmp_path / "a/x.nii.gz"), nibabel.load(tmp_path / "b/x.nii.gz")
    assert a.shape == before.shape
    np.testing.assert_allclose(a.affine, before.affine)
    values = np.asarray(before.dataobj)
    assert np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
    inside = values > 0
    correlation = np.corrcoef(values[inside], np.asarray(a.dataobj)[inside])[0, 1]
    assert correlation < -0.9 if name == "inverted" else correlation < 0.995


def test_a_near_duplicate_is_almost_the_same(source, tmp_path):
    protocols.apply(source, tmp_path / "x.nii.gz", protocols.near_duplicate(), seed=4)
    pair = [np.asarray(nibabel.load(p).dataobj).ravel() for p in (source, tmp_path / "x.nii.gz")]
    assert 0.99 < np.corrcoef(pair)[0, 1] < 1


def test_share_out_of_range():
    with pytest.raises(ValueError, match="protocols"):
        protocols.assign(["a"], 1.5, 0)
