"""What leaves the server names files, not folders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monailabel.config import settings

from apps.http.words import without_paths


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/tmp/label-x81/sent.nii.gz is no volume", "sent.nii.gz is no volume"),
        ("cannot open '/home/al/data/a b.png'", "cannot open 'a b.png'"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "x.py", line 3'),
        ("itk: /var/tmp/itk.cxx:41: could not read (/tmp/a/b.nrrd)", "itk: itk.cxx:41: could not read (b.nrrd)"),
        ("[Errno 28] No space: '/tmp/x' -> '/tmp/deep/y'", "[Errno 28] No space: 'x' -> 'y'"),
        ("see /al/problems and /datastore/label", "see /al/problems and /datastore/label"),
        ("the archive http://pacs/tmp/dicom-web is away", "the archive http://pacs/tmp/dicom-web is away"),
        ("5/tmp of 1/2, either/or", "5/tmp of 1/2, either/or"),
        ("/tmp/", "tmp"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_a_path_becomes_the_name_of_its_file(monkeypatch, text, told):
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", "/home/al/data")
    assert without_paths(text) == told


def test_folders_with_blanks_are_known_by_the_settings(monkeypatch, tmp_path):
    folder = tmp_path / "all my studies"
    folder.mkdir()
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", str(folder))
    assert without_paths(f"{folder}/labels/final/a.nii.gz is empty; {folder} is full") == (
        "a.nii.gz is empty; all my studies is full"
    )


@given(
    st.lists(st.text("abc.-_", min_size=1, max_size=8), min_size=1, max_size=6), st.sampled_from(["'{}'", "x {}: y"])
)
def test_no_folder_is_left(parts, frame):
    parts = [part for part in parts if part.strip(".")] or ["a"]
    told = without_paths(frame.format("/tmp/" + "/".join(parts)))
    assert "/tmp" not in told
    assert parts[-1] in told
