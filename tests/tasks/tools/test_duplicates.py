"""Copies and near-copies in a folder of images."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from typer import Typer
from typer.testing import CliRunner

from tasks.geometry.images import read_image
from tasks.learning.groups import read_grouping
from tasks.tools import duplicates
from tasks.tools.duplicates import find_copies, fingerprints, near_pairs


def picture(seed: int) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(96, 96)), 4)
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Four pictures, and of the first an exact, a JPEG, a brighter and a smaller copy; two labels for one picture."""
    first = Image.fromarray(picture(0))
    first.save(tmp_path / "a.png")
    first.save(tmp_path / "copy.tif")
    first.save(tmp_path / "jpeg.jpg", quality=75)
    Image.fromarray((picture(0) * 0.8).astype(np.uint8)).save(tmp_path / "darker.png")
    first.resize((80, 80)).save(tmp_path / "smaller.png")
    for seed in (1, 2, 3):
        Image.fromarray(picture(seed)).save(tmp_path / f"other{seed}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "labels.csv").write_text("file,label\na.png,LGG\njpeg.jpg,HGG\nother1.png,LGG\n")
    return tmp_path


def run(*arguments: object):
    app = Typer()
    app.command()(duplicates.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_copies_are_reported_grouped_and_respected_by_splits(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "broken.png cannot be read" in " ".join(result.output.split())
    assert "HGG / LGG" in result.output
    assert "5 of 8 images have a copy" in result.output
    table = folder / "active_learning" / "duplicates.csv"
    rows = {row["file"]: row for row in csv.DictReader(table.open())}
    assert set(rows) == {"a.png", "copy.tif", "jpeg.jpg", "darker.png", "smaller.png"}
    assert {row["group"] for row in rows.values()} == {"1"}
    assert {name for name, row in rows.items() if row["exact"] == "True"} == {"a.png", "copy.tif"}
    groups = read_grouping(folder, "", table)(["a", "smaller", "other1"]).tolist()
    assert groups[0] == groups[1] != groups[2]


def test_different_pictures_are_no_copies():
    hashes = np.array([fingerprints(picture(seed)[None])[1] for seed in range(20)])
    assert len(near_pairs(hashes, duplicates.NEAR)[0]) == 0


def test_the_same_pixels_in_another_file_format_are_exact_copies(tmp_path):
    for name in ("a.png", "a.tif"):
        Image.fromarray(picture(0)).save(tmp_path / name)
    assert fingerprints(read_image(tmp_path / "a.png"))[0] == fingerprints(read_image(tmp_path / "a.tif"))[0]


@given(st.integers(0, 1000), st.integers(0, 6))
def test_pairs_are_those_within_the_distance(seed, distance):
    hashes = np.random.default_rng(seed).random((12, 16)) < 0.5
    expected = {(i, j) for i in range(12) for j in range(i + 1, 12) if (hashes[i] != hashes[j]).sum() <= distance}
    assert set(zip(*(side.tolist() for side in near_pairs(hashes, distance)), strict=True)) == expected


def test_blocks_change_nothing(monkeypatch):
    hashes = np.random.default_rng(0).random((50, 16)) < 0.5
    whole = [side.tolist() for side in near_pairs(hashes, 5)]
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    assert [side.tolist() for side in near_pairs(hashes, 5)] == whole


def test_a_chain_of_near_copies_is_one_group_and_an_empty_folder_has_none(tmp_path):
    hashes = np.zeros((3, 256), bool)
    hashes[1, :15] = True
    hashes[2, :30] = True
    copies = find_copies(["a", "b", "c"], ["1", "2", "3"], hashes, distance=20)
    assert [(copy.file, copy.group, copy.distance) for copy in copies] == [("a", 1, 0), ("b", 1, 15), ("c", 1, 30)]
    assert "0 of 0 images" in run(tmp_path).output
