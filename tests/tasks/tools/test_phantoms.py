"""The sample studies."""

import nibabel
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tasks.common.files import image_id, read_table
from tasks.geometry.images import read_image
from tasks.tools.phantoms import main, write_phantoms, write_slices

command = typer.Typer()
command.command()(main)


def test_phantoms_have_tumours_come_in_near_duplicates_and_keep_labels_apart(tmp_path):
    ids = write_phantoms(tmp_path, clusters=4, copies=2)
    assert sorted(p.name for p in tmp_path.glob("*.nii.gz")) == sorted(f"{i}.nii.gz" for i in ids)
    images = [np.asarray(nibabel.load(tmp_path / f"{i}.nii.gz").dataobj) for i in ids]
    labels = [np.asarray(nibabel.load(tmp_path / "oracle" / f"{i}.nii.gz").dataobj) for i in ids]
    for image, label in zip(images, labels, strict=True):
        assert image.shape == label.shape
        assert set(np.unique(label)) == {0, 1}
        assert 30 < label.sum() < 0.2 * label.size
    correlation = np.corrcoef([i.ravel() for i in images])
    pairs = np.diag(correlation, 1)[::2]
    others = correlation[np.triu_indices(8, 2)]
    assert pairs.min() > 0.85
    assert pairs.mean() > others.mean()


def test_phantoms_are_reproducible(tmp_path):
    for folder in ("a", "b"):
        write_phantoms(tmp_path / folder, clusters=1, copies=1, seed=3)
    a, b = (np.asarray(nibabel.load(next((tmp_path / f).glob("*.nii.gz"))).dataobj) for f in "ab")
    assert np.array_equal(a, b)


def test_slices_come_with_and_without_tumour_and_with_their_patients(tmp_path):
    ids = write_slices(tmp_path, patients=4, slices=6)
    rows = read_table(tmp_path / "labels.csv", ("file", "label", "patient"))
    assert [image_id(row["file"]) for row in rows] == ids
    assert len(ids) == 24
    brightest = {"tumor": [], "no_tumor": []}
    for row in rows:
        image = read_image(tmp_path / row["file"])
        assert image.shape == (1, 112, 96)
        assert row["file"].startswith(row["patient"])
        brightest[row["label"]].append(np.percentile(image, 99))
    assert len(brightest["tumor"]) == len(brightest["no_tumor"]) == 12
    assert np.mean(brightest["tumor"]) > np.mean(brightest["no_tumor"])


@pytest.mark.parametrize(("app", "ending"), [("volume_segmentation", ".nii.gz"), ("image_classification", ".png")])
def test_the_samples_are_what_an_app_takes(app, ending, tmp_path):
    result = CliRunner().invoke(command, [str(tmp_path / "studies"), "--app", app, "--clusters", "1", "--copies", "1"])
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "studies").glob(f"*{ending}"))


def test_an_app_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    result = CliRunner().invoke(command, [str(tmp_path / "studies"), "--app", "image_guessing"])
    assert result.exit_code == 2
    assert "image_segmentation" in result.output
    assert not (tmp_path / "studies").exists()
