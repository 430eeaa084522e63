"""Class names as labels: stored as JSON, checked, imported from a table."""

import json
import time
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from tasks.classification import labels
from tasks.classification.datastore import GradedFolder
from tasks.classification.labels import import_labels, read_class
from tasks.common.files import ImageError, LabelError
from tests.tasks.classification.conftest import CLASSES


@pytest.fixture
def folder(tmp_path, truth) -> GradedFolder:
    return GradedFolder(str(tmp_path / "studies"), classes=CLASSES)


def saved(folder: GradedFolder, image_id: str) -> dict:
    return json.loads(Path(folder.get_label_uri(image_id, "final")).read_text())


def test_a_json_file_is_a_label(folder, tmp_path):
    file = tmp_path / "any name.txt"
    file.write_text('{"label": "disc", "other": 1}')
    folder.save_label("p0_0", str(file), "final", {"client_id": "ann"})
    assert saved(folder, "p0_0") == {"label": "disc"}
    assert Path(folder.get_label_uri("p0_0", "final")).name == "p0_0.json"
    assert folder.get_label_info("p0_0", "final")["client_id"] == "ann"
    assert folder.get_label_info("p0_0", "final")["label"] == "disc"


def test_an_empty_file_takes_the_class_from_the_parameters(folder, tmp_path):
    file = tmp_path / "empty.json"
    file.touch()
    folder.save_label("p0_0", str(file), "final", {"label": "clear"})
    assert saved(folder, "p0_0") == {"label": "clear"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"label": "HGG"}', "unknown class 'HGG'; the classes are clear, disc"),
        ("", "no class given"),
        ('{"class": "disc"}', "no class given"),
        ("[1]", "must be a JSON object"),
        ('{"label": 3}', "no class given"),
        ("{", "is not valid JSON"),
        (" " * 70000, "holds one class name; this one has 70000 bytes"),
    ],
)
def test_what_is_no_class_is_refused_and_changes_nothing(folder, tmp_path, content, words):
    file = tmp_path / "label.json"
    file.write_text(content)
    with pytest.raises(LabelError, match=words):
        folder.save_label("p0_0", str(file), "final", {})
    assert folder.get_labeled_images() == []


def test_labels_are_found_again_and_are_no_images(folder, tmp_path):
    folder.save_class("p0_0", "disc", "final", {})
    (tmp_path / "studies" / "notes.json").write_text("{}")
    again = GradedFolder(str(tmp_path / "studies"), classes=CLASSES)
    assert again.get_labeled_images() == ["p0_0"]
    assert "notes" not in again.list_images()
    again.close()
    (tmp_path / "studies" / "active_learning" / "store.sqlite").unlink()
    assert GradedFolder(str(tmp_path / "studies"), classes=CLASSES).get_labeled_images() == ["p0_0"]


def test_endings_in_capitals_are_images_too(tmp_path, truth):
    studies = tmp_path / "studies"
    (studies / "p0_0.png").rename(studies / "p0_0.PNG")
    folder = GradedFolder(str(studies), classes=CLASSES)
    assert set(folder.list_images()) == set(truth)
    assert folder.get_image_uri("p0_0").endswith("p0_0.PNG")


def test_a_removed_label_is_gone_and_told(tmp_path, truth):
    told = []
    folder = GradedFolder(str(tmp_path / "studies"), classes=CLASSES, on_change=told.append)
    folder.save_class("p0_0", "disc", "final", {})
    told.clear()
    folder.remove_label("p0_0", "final")
    assert folder.get_labeled_images() == []
    assert told


def test_reading_a_label_names_the_file(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"label": "disc"}')
    assert read_class(file, CLASSES) == 1
    for content, words in (('{"label": "x"}', "has the class 'x'; declared are clear, disc"), ("{", "is not a label")):
        file.write_text(content)
        with pytest.raises(ImageError, match=rf"a\.json {words}"):
            read_class(file, CLASSES)


def test_a_table_is_imported_and_given_labels_stay(tmp_path, truth):
    studies = tmp_path / "studies"
    folder = GradedFolder(str(studies), classes=CLASSES)
    other = {"clear": "disc", "disc": "clear"}[truth["p0_0"]]
    folder.save_class("p0_0", other, "final", {"client_id": "ann"})
    with (studies / "labels.csv").open("a") as file:
        file.write("gone.png,disc,p9\np7_1.png,,p7\n")
    counts = import_labels(studies, studies / "labels.csv", CLASSES)
    assert counts == {"imported": 15, "kept": 1, "unlabelled": 1, "missing": 1}
    again = GradedFolder(str(studies), classes=CLASSES)
    assert {name: saved(again, name)["label"] for name in truth} == {**truth, "p0_0": other}
    assert again.get_label_info("p0_1", "final")["client_id"] == "labels.csv"
    assert import_labels(studies, studies / "labels.csv", CLASSES)["imported"] == 0


def test_a_wrong_class_in_the_table_is_named_and_nothing_is_imported(tmp_path, truth):
    studies = tmp_path / "studies"
    app = Typer()
    app.command()(labels.main)
    result = CliRunner().invoke(app, [str(studies), "--labels", "clear,ring"])
    assert result.exit_code == 2
    output = " ".join(result.output.replace("│", " ").split())
    assert "line 2: 'disc' is none of clear, ring" in output
    assert GradedFolder(str(studies)).get_labeled_images() == []
    result = CliRunner().invoke(app, [str(studies), "--labels", "clear,disc"])
    assert result.exit_code == 0, result.output
    assert "16 imported" in result.output


def test_an_import_by_another_process_reaches_a_running_server(tmp_path, truth):
    told = []
    folder = GradedFolder(str(tmp_path / "studies"), classes=CLASSES, auto_reload=True, on_change=told.append)
    try:
        told.clear()
        import_labels(tmp_path / "studies", tmp_path / "studies" / "labels.csv", CLASSES)
        for _ in range(100):
            if told and len(folder.get_labeled_images()) == 16:
                break
            time.sleep(0.05)
        assert told
        assert len(folder.get_labeled_images()) == 16
    finally:
        folder.close()
