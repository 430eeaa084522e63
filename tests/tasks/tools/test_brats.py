"""A made-up folder of the BraTS layout becomes studies for both apps."""

import csv

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from tasks.geometry.images import read_image
from tasks.geometry.volumes import read_label, read_volume
from tasks.tools import brats

SHAPE = (12, 10, 40)
AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])


@pytest.fixture
def source(tmp_path):
    """Two LGG and one HGG patient; tumour in slices 4 to 35, with the values 1, 2 and 4; endings differ."""
    rng = np.random.default_rng(0)
    for grade, name, ending in (("LGG", "L1", ".nii.gz"), ("LGG", "L2", ".nii"), ("HGG", "H1", ".nii.gz")):
        folder = tmp_path / "BraTS" / grade / name
        folder.mkdir(parents=True)
        label = np.zeros(SHAPE, np.uint8)
        label[3:8, 3:8, 4:36] = 2
        label[4:6, 4:6, 4:36] = 4
        label[4, 4, 4:36] = 1
        nibabel.save(nibabel.Nifti1Image(label, AFFINE), folder / f"{name}_seg{ending}")
        for number, sequence in enumerate(("t1", "t1ce", "t2", "flair")):
            voxels = rng.integers(0, 100, SHAPE).astype(np.int16) + 1000 * number
            nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), folder / f"{name}_{sequence}{ending}")
    return tmp_path / "BraTS"


def run(*arguments: object):
    return CliRunner().invoke(brats.app, [str(argument) for argument in arguments])


def rows(folder):
    with (folder / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def test_slices_with_tumour_three_sequences_and_grades(source, tmp_path):
    result = run("slices", source, tmp_path / "out", "--slices", 5)
    assert result.exit_code == 0, result.output
    table = rows(tmp_path / "out")
    assert [row["label"] for row in table] == ["LGG"] * 10 + ["HGG"] * 5
    assert {row["patient"] for row in table} == {"L1", "L2", "H1"}
    for row in table:
        index = int(row["file"].removesuffix(".nii.gz")[-3:])
        assert 4 <= index < 36
        image = nibabel.load(tmp_path / "out" / row["file"])
        assert image.shape == (12, 10, 1, 3)
        np.testing.assert_allclose(image.affine[:3, 3], [0, 239, index])
        means = read_image(tmp_path / "out" / row["file"]).mean((1, 2))
        assert [round(mean / 1000) for mean in means] == [0, 1, 2]


def test_balanced_takes_thirty_of_lgg_and_ten_of_hgg_patients(source, tmp_path):
    assert run("slices", source, tmp_path / "out", "--balanced").exit_code == 0
    counts = [sum(row["patient"] == name for row in rows(tmp_path / "out")) for name in ("L1", "L2", "H1")]
    assert counts == [30, 30, 10]


def test_fewer_slices_than_asked_for_are_all_taken_and_said(source, tmp_path):
    result = run("slices", source, tmp_path / "out", "--slices", 50)
    assert "only 32 slices with tumour" in result.output
    assert len(rows(tmp_path / "out")) == 96


def test_the_seed_decides_the_slices(source, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("slices", source, tmp_path / name, "--slices", 5, "--seed", seed)
    a, b, c = ([row["file"] for row in rows(tmp_path / name)] for name in "abc")
    assert a == b != c


def test_volumes_have_channels_and_labels_without_a_gap(source, tmp_path):
    result = run("volumes", source, tmp_path / "out", "--channels", "t1ce,t2,flair")
    assert result.exit_code == 0, result.output
    assert "--conf channels t1ce,t2,flair" in " ".join(result.output.split())
    volume = read_volume(tmp_path / "out" / "L2.nii.gz", ("t1ce", "t2", "flair"))
    assert volume.shape == (3, *SHAPE)
    assert [round(float(channel.mean()) / 1000) for channel in volume] == [1, 2, 3]
    label = read_label(tmp_path / "out" / "oracle" / "L2.nii.gz", 4, like=SHAPE)
    assert np.unique(label).tolist() == [0, 1, 2, 3]
    run("volumes", source, tmp_path / "whole", "--whole")
    whole = read_label(tmp_path / "whole" / "oracle" / "H1.nii.gz", 2)
    assert int(whole.sum()) == 25 * 32


@pytest.mark.parametrize("command", ["slices", "volumes"])
def test_a_patient_without_a_sequence_is_named_and_left_out(source, tmp_path, command):
    (source / "LGG" / "L2" / "L2_t1ce.nii").unlink()
    result = run(command, source, tmp_path / "out")
    assert result.exit_code == 0
    assert "has no L2_t1ce.nii or .nii.gz" in " ".join(result.output.split())
    assert {row["patient"] for row in rows(tmp_path / "out")} == {"L1", "H1"}


def test_a_folder_without_patients_is_explained(tmp_path):
    result = run("slices", tmp_path, tmp_path / "out")
    assert result.exit_code == 2
    assert "has no patient folders in LGG or HGG" in " ".join(result.output.replace("│", " ").split())
