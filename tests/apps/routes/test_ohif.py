"""OHIF's configuration with our panel, and the viewer's files."""

import shutil

import pytest
from fastapi import HTTPException

from apps.routes import ohif


def test_the_configuration_is_a_function_around_the_shipped_one():
    text = ohif.configuration()
    assert text.startswith((ohif.SHIPPED / "app-config.js").read_text())
    assert "import('/al/web/ohif.js')" in text
    assert "return shipped" in text


def test_a_changed_ohif_is_served_as_it_is_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    (tmp_path / "app-config.js").write_text("export default { changed: true };")
    monkeypatch.setattr(ohif, "SHIPPED", tmp_path)
    assert ohif.configuration() == "export default { changed: true };"
    assert "without our panel" in caplog.text


def test_a_viewer_that_cannot_show_the_panel_is_heard(caplog):
    ohif.report(ohif.ViewerReport(problem="this OHIF lacks\nhangingProtocolService"))
    assert "OHIF runs without our panel: this OHIF lacks hangingProtocolService" in caplog.text


def test_files_of_the_viewer_and_nothing_else(tmp_path, monkeypatch):
    shipped = tmp_path / "ohif"
    shipped.mkdir()
    shutil.copy(ohif.SHIPPED / "index.html", shipped)
    (shipped / "app.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(ohif, "SHIPPED", shipped)
    assert ohif.viewer("app.js").path == shipped / "app.js"
    for page in ("", "monai-label", "viewer/x", "."):
        assert ohif.viewer(page).path == shipped / "index.html"
    outside = ("..", "../secret.txt", "/etc/passwd", "x/../../secret.txt")
    for path in (*outside, "x\0", "app.js\0.png", "n" * 300, "a/" * 4000):
        with pytest.raises(HTTPException) as refused:
            ohif.viewer(path)
        assert refused.value.status_code == 404
