"""OHIF in a real Chromium, on a real Orthanc: next image, model, brush, submit, and the SEG that comes of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
import SimpleITK
from playwright.sync_api import expect
from scipy.spatial import cKDTree

from tasks.tools.phantoms import SPACING, phantom
from tests.conftest import REAL, ROOT
from tests.dicom import OBLIQUE, datasets, mr_series
from tests.e2e.browser import SECONDS, WEBGL, chromium, sign_in
from tests.e2e.orthanc import Orthanc
from tests.e2e.viewer import Viewer, in_space
from tests.realm import realm
from tests.server import Server, wait_for

pytestmark = pytest.mark.e2e

QUICK = {
    "levels": 3,
    "first_features": 8,
    "patch_size": "32x32x32",
    "roi_size": "48x56x40",
    "iterations_per_epoch": 40,
    "max_epochs": 3,
    "val_interval": 3,
}

LARGE_TUMOURS = (35, 37, 23, 19, 15, 1, 39, 30, 12, 4, 3, 5)
"""Seeds of phantoms that a training of half a minute finds."""


@pytest.fixture(scope="module")
def browser():
    with chromium(*WEBGL) as running:
        yield running


def seg_places(seg: pydicom.Dataset) -> dict[str, set[tuple[int, int, int]]]:
    """Where in space the voxels of each segment are, read with nothing but pydicom."""
    names = {item.SegmentNumber: item.SegmentLabel for item in seg.SegmentSequence}
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    rows, columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    places: dict[str, set[tuple[int, int, int]]] = {name: set() for name in names.values()}
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for frame, own in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        row, column = np.nonzero(frame)
        origin = np.array(own.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        points = origin + column[:, None] * cosines[:3] * columns + row[:, None] * cosines[3:] * rows
        places[names[own.SegmentIdentificationSequence[0].ReferencedSegmentNumber]] |= in_space(points)
    return places


def nrrd_places(content: bytes, folder: Path) -> set[tuple[int, int, int]]:
    (folder / "result.nrrd").write_bytes(content)
    image = SimpleITK.ReadImage(str(folder / "result.nrrd"))
    index = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0)[:, ::-1].tolist()
    return in_space(np.array([image.TransformIndexToPhysicalPoint(place) for place in index]))


def near(first: set, second: set) -> bool:
    """The same places but for rounding at the last tenth of a millimetre."""
    if len(first) != len(second):
        return False
    ours, theirs = (np.array(sorted(places)).reshape(-1, 3) for places in (first, second))
    return not len(ours) or cKDTree(ours).query(theirs)[0].max() <= 2


class Site:
    """An archive and a server."""

    def __init__(self, folder: Path, files: list[bytes], **conf: str) -> None:
        self.folder = folder
        self.orthanc = Orthanc(folder)
        self.orthanc.upload(files)
        conf = {"labels": "edema,tumor", "preset": "small", "auto_train": "false", **conf}
        self.server = Server(f"{self.orthanc.url}/dicom-web", folder, **conf)
        self.server.start()

    def series(self) -> dict[str, str]:
        """Series -> study of all images."""
        return {str(one.SeriesInstanceUID): str(one.StudyInstanceUID) for one in self.orthanc.instances("MR")}

    def stop(self) -> None:
        self.server.kill()
        self.orthanc.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Generated heads, a third of them labelled, and a model."""
    folder = tmp_path_factory.mktemp("site")
    patch = pytest.MonkeyPatch()
    patch.setenv("MONAI_LABEL_DATASTORE_CACHE_PATH", str(folder / "kept"))
    files, truth = [], {}
    for number in LARGE_TUMOURS:
        image, tumour = phantom(np.random.default_rng(number), np.random.default_rng(100 + number))
        slices = mr_series(
            f"phantom{number}",
            image[::-1, ::-1].T,
            orientation=(1, 0, 0, 0, 1, 0),
            spacing=(SPACING[1], SPACING[0], SPACING[2]),
        )
        files += slices
        truth[str(datasets(slices[:1])[0].SeriesInstanceUID)] = tumour[::-1, ::-1]
    site = Site(folder, files)
    for image_id in list(truth)[:3]:
        label = SimpleITK.ReadImage(_download(site, image_id))
        values = SimpleITK.GetImageFromArray(2 * truth[image_id].T.astype(np.uint8))
        values.CopyInformation(label)
        SimpleITK.WriteImage(values, str(folder / "label.nii.gz"))
        content = {"label": ("label.nii.gz", (folder / "label.nii.gz").read_bytes())}
        stored = requests.put(f"{site.server.url}/datastore/label?image={image_id}", files=content, timeout=60)
        assert stored.status_code == 200, stored.text
    assert site.server.run("train", "segmentation", QUICK)["status"] == "DONE", site.server.text()[-3000:]
    assert site.server.finished("scoring")["status"] == "DONE", site.server.text()[-3000:]
    yield site
    site.stop()
    patch.undo()


def _download(site: Site, image_id: str) -> str:
    file = site.folder / "image.nii.gz"
    file.write_bytes(site.server.get(f"/datastore/image?image={image_id}").content)
    return str(file)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Where screenshots go: into the documentation if ``DOCS_SCREENSHOTS`` is set."""
    return ROOT / "docs" / "pictures" if os.environ.get("DOCS_SCREENSHOTS") else tmp_path


def seg_of(site: Site, image_id: str, reader: str) -> pydicom.Dataset:
    found = [seg for seg in site.orthanc.instances("SEG") if str(seg.ContentCreatorName) == reader]
    (seg,) = [seg for seg in found if seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image_id]
    return seg


def test_from_next_image_over_model_and_brush_to_a_seg_in_the_archive(site, browser, pictures, tmp_path):
    viewer = Viewer(browser, site.server.url, "Ada").open(next(iter(site.series().values())))
    page = viewer.page
    # Connected to its own server, with the app's default strategy in both lists.
    assert page.input_value("#monailabelServerURL") == f"{site.server.url}/"
    assert page.input_value("#al-strategy") == "dropout_variance"
    stock = page.locator(".monaiLabelPanel select").filter(has=page.locator("option[value=random]"))
    expect(stock).to_have_value("dropout_variance")

    image_id = viewer.next()
    sample = viewer.sample()
    assert (sample["reason"], sample["rank"]) == ("scored", 1)
    assert f"StudyInstanceUIDs={site.series()[image_id]}" in page.url
    expect(page.locator("#al-why")).to_contain_text("dropout_variance, score")
    expect(page.locator("#al-why")).to_contain_text("rank 1 of")
    viewer.screenshot(pictures / "ohif-next.png")

    # The model's proposal lies where the model put it.
    page.get_by_role("button", name="Run", description="Run Segmentation", exact=True).click()
    wait_for(lambda: viewer.drawn().count("tumor") > 0, 120, lambda: site.server.text()[-2000:])
    options = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    answer = site.server.post(
        f"/infer/segmentation?image={image_id}&output=image", data={"params": json.dumps(options)}
    )
    proposed = viewer.drawn()
    everything = set().union(*proposed.places.values())
    assert near(everything, nrrd_places(answer.content, tmp_path))
    expect(page.locator("#al-undo")).to_be_enabled()

    # Brush, size, eraser, undo.
    viewer.choose("edema")
    expect(page.locator("#al-brush")).to_have_attribute("aria-pressed", "true")
    viewer.stroke(dy=-90)
    once = viewer.drawn()
    assert once.count("edema") > proposed.count("edema")
    page.locator("#al-size").fill("16")
    viewer.stroke(dy=60)
    twice = viewer.drawn()
    assert twice.count("edema") - once.count("edema") > 1.5 * (once.count("edema") - proposed.count("edema"))
    viewer.screenshot(pictures / "ohif-edit.png")
    page.click("#al-eraser")
    viewer.stroke(dy=60, length=20)
    assert viewer.drawn().count("edema") < twice.count("edema")
    page.click("#al-undo")
    wait_for(lambda: viewer.drawn() == twice, 10)
    page.click("#al-undo")
    wait_for(lambda: viewer.drawn() == once, 10)
    final = viewer.drawn()

    words = viewer.submit()
    assert words.startswith("Stored: ")
    assert f"edema {final.count('edema'):,} voxels" in words
    assert "in the archive" in words
    viewer.screenshot(pictures / "ohif-submitted.png")
    seg = seg_of(site, image_id, "Ada")
    found = seg_places(seg)
    assert set(found) == set(final.places)
    assert all(near(found[name], final.places[name]) for name in found)
    assert seg.StudyInstanceUID == site.series()[image_id]
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert {item.SegmentAlgorithmName for item in seg.SegmentSequence} == {"segmentation"}
    expect(page.locator("#al-progress")).to_contain_text("4 of 12 labelled · 1 by you", timeout=15 * SECONDS)
    history = site.server.get("/al/history").text
    assert f"labelled,{image_id},Ada,dropout_variance,1," in history

    # The next image is another one, and the reader is remembered.
    assert viewer.next() != image_id
    assert page.input_value("#al-reader") == "Ada"
    assert viewer.errors == []
    viewer.context.close()


def test_two_readers_hold_different_images_and_a_skipped_one_goes_with_its_reason(site, browser):
    study = next(iter(site.series().values()))
    readers = [Viewer(browser, site.server.url, name).open(study) for name in ("Ben", "Cleo")]
    held = [reader.next() for reader in readers]
    assert len(set(held)) == 2
    ben = readers[0].page
    ben.click("#al-skip")
    expect(ben.locator("#al-notice")).to_contain_text("Say why")
    ben.fill("#al-skip-reason", "Wrong series")
    with ben.expect_navigation(timeout=60 * SECONDS):
        ben.click("#al-skip")
    readers[0].ready()
    (row,) = [row for row in site.server.get("/al/skipped").json() if row["client_id"] == "Ben"]
    assert (row["image"], row["reason"]) == (held[0], "Wrong series")
    assert readers[0].sample()["id"] not in held
    for reader in readers:
        reader.context.close()


def test_what_is_refused_says_why_and_a_server_that_is_away_costs_no_work(site, browser, pictures):
    viewer = Viewer(browser, site.server.url, "Dora").open(next(iter(site.series().values())))
    image_id = viewer.next()
    assert "the label is empty" in viewer.submit()
    viewer.screenshot(pictures / "ohif-refused.png")
    viewer.choose("tumor")
    viewer.stroke()
    drawn = viewer.drawn()
    site.server.kill()
    assert "cannot be reached. What you drew is still here" in viewer.submit()
    site.server.start()
    assert viewer.drawn() == drawn
    assert viewer.submit().startswith("Stored: ")
    found = seg_places(seg_of(site, image_id, "Dora"))
    assert near(found["tumor"], drawn.places["tumor"])
    viewer.context.close()


def test_update_model_starts_a_training_and_its_progress_is_shown(site, browser):
    viewer = Viewer(browser, site.server.url, "Eve").open(next(iter(site.series().values())))
    viewer.page.get_by_text("Active Learning", exact=True).click()
    viewer.page.get_by_role("button", name="Update Model").click()
    expect(viewer.page.locator("#al-progress")).to_contain_text("training", timeout=60 * SECONDS)
    requests.delete(f"{site.server.url}/train/", timeout=60)
    viewer.context.close()


def test_without_our_panel_the_viewer_works_as_it_is_shipped(site, browser):
    viewer = Viewer(browser, site.server.url)
    viewer.page.route("**/al/web/ohif.js", lambda route: route.abort())
    viewer.page.goto(f"{site.server.url}/ohif/monai-label?StudyInstanceUIDs={next(iter(site.series().values()))}")
    viewer.page.wait_for_selector("#monailabelServerURL", timeout=120 * SECONDS)
    assert viewer.page.locator("#active-learning").count() == 0
    viewer.context.close()


EXPORT = """async () => {
  const { segmentationId } = services.segmentationService.getSegmentations()[0];
  services.segmentationService.setSegmentLabel(segmentationId, 1, 'tumor');
  const dataSource = extensionManager.getActiveDataSource()[0];
  window.stored = commandsManager.runCommand('storeSegmentation', { segmentationId, dataSource });
}"""
SHOWN = "() => cornerstone.getRenderingEngines()[0].getViewports()[0].getCurrentImageId()"


def test_what_ohif_exports_itself_counts_unless_it_may_lie_on_the_wrong_slices(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_DATASTORE_CACHE_PATH", str(tmp_path / "kept"))
    voxels = np.random.default_rng(0).normal(100, 10, (12, 48, 48)).clip(0)
    series = {way: mr_series(way, voxels, orientation=OBLIQUE, downwards=way == "down") for way in ("up", "down")}
    site = Site(tmp_path, [file for files in series.values() for file in files])
    shown = {}
    try:
        for number, (way, files) in enumerate(series.items()):
            (first, *_) = datasets(files)
            viewer = Viewer(browser, site.server.url)
            page = viewer.page
            page.goto(f"{site.server.url}/ohif/segmentation?StudyInstanceUIDs={first.StudyInstanceUID}")
            page.get_by_text("Add Segmentation").click(timeout=120 * SECONDS)
            expect(page.get_by_text("Add Segment", exact=True)).to_be_visible(timeout=30 * SECONDS)
            viewer.close_banner()
            box = page.locator(".cornerstone-viewport-element").first.bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            page.mouse.move(x, y)
            page.mouse.wheel(0, 100)
            page.locator("[data-cy=Brush], [data-cy='Brush-btn']").first.click()
            page.wait_for_timeout(1 * SECONDS)
            page.mouse.move(x - 80, y - 60)
            page.mouse.down()
            page.mouse.move(x - 30, y - 50, steps=5)
            page.mouse.up()
            page.wait_for_timeout(1 * SECONDS)
            shown[way] = page.evaluate(SHOWN).split("/instances/")[1].split("/")[0]
            page.evaluate(EXPORT)
            name = page.locator("input[type=text]").last
            name.click(timeout=30 * SECONDS)
            page.keyboard.type("From OHIF")
            page.keyboard.press("Enter")
            wait_for(lambda number=number: len(site.orthanc.series("SEG")) == number + 1, 30)
            viewer.context.close()
        assert site.server.post("/al/refresh").json() == {"total": 2, "completed": 1}
        assert "it may lie on the wrong slices" in site.server.text()
        taken = datasets(series["down"])
        answer = site.server.get(f"/datastore/label?label={taken[0].SeriesInstanceUID}&tag=final")
        (tmp_path / "taken.nii.gz").write_bytes(answer.content)
        label = SimpleITK.ReadImage(str(tmp_path / "taken.nii.gz"))
        index = np.argwhere(SimpleITK.GetArrayFromImage(label) > 0)[:, ::-1].tolist()
        (slice,) = [one for one in taken if shown["down"] == one.SOPInstanceUID]
        normal = np.cross(*np.array(slice.ImageOrientationPatient, dtype=float).reshape(2, 3))
        places = np.array([label.TransformIndexToPhysicalPoint(place) for place in index])
        np.testing.assert_allclose((places - np.array(slice.ImagePositionPatient, dtype=float)) @ normal, 0, atol=0.01)
    finally:
        site.stop()


def test_with_authentication_one_signs_in_once_and_an_ended_session_costs_no_work(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_DATASTORE_CACHE_PATH", str(tmp_path / "kept"))
    voxels = np.random.default_rng(0).normal(100, 10, (12, 48, 48)).clip(0)
    with realm(monkeypatch, seconds=6) as service:
        site = Site(tmp_path, mr_series("patient", voxels))
        try:
            ((image_id, study),) = site.series().items()
            viewer = Viewer(browser, site.server.url)
            page = viewer.page
            page.goto(f"{site.server.url}/ohif/monai-label?StudyInstanceUIDs={study}")
            sign_in(page, "ada", "wrong")
            expect(page.locator("[role=alert]")).to_contain_text("Invalid user credentials")
            sign_in(page, "ada", "secret")
            viewer.ready()
            assert f"StudyInstanceUIDs={study}" in page.url
            expect(page.locator("#al-reader")).to_have_value("ada")
            assert viewer.next() == image_id
            viewer.choose("tumor")
            viewer.stroke()
            drawn = viewer.drawn()
            assert service.renewals > 0
            site.server.kill()
            site.server.start()
            assert "no longer signed in. What you drew is still here" in viewer.submit()
            with viewer.context.expect_page() as opened:
                page.click("#al-notice a")
            sign_in(opened.value, "ada", "secret")
            opened.value.wait_for_url("**/ohif/**")
            assert viewer.drawn() == drawn
            assert viewer.submit().startswith("Stored: ")
            found = seg_places(seg_of(site, image_id, "ada"))
            assert near(found["tumor"], drawn.places["tumor"])
            page.click("#al-sign-out")
            page.wait_for_url("**/al/sign-in?next=/ohif/")
            page.goto(f"{site.server.url}/ohif/")
            expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
            viewer.context.close()
        finally:
            site.stop()


@pytest.mark.skipif(not (REAL / "brain_tumor_dicom").is_dir(), reason="real series are not at hand")
def test_real_oblique_series_come_back_voxel_by_voxel(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_DATASTORE_CACHE_PATH", str(tmp_path / "kept"))
    files = [file.read_bytes() for file in sorted((REAL / "brain_tumor_dicom").rglob("*.dcm"))]
    site = Site(tmp_path, files, series="MR:T1post|FLAIR")
    try:
        viewer = Viewer(browser, site.server.url, "Ada").open(next(iter(site.series().values())))
        viewer.page.select_option("#al-strategy", "first")
        seen = set()
        for _ in range(3):
            image_id = viewer.next()
            (shown,) = [row for row in site.orthanc.series("MR") if row["SeriesInstanceUID"] == image_id]
            seen.add(shown["SeriesDescription"])
            expect(viewer.page.locator(".cornerstone-viewport-element").first).to_be_visible()
            viewer.choose("tumor")
            viewer.stroke(dx=-60, dy=-30)
            viewer.choose("edema")
            viewer.stroke(dx=20, dy=45, length=15)
            drawn = viewer.drawn()
            assert viewer.submit().startswith("Stored: ")
            seg = seg_of(site, image_id, "Ada")
            found = seg_places(seg)
            assert all(near(found[name], drawn.places[name]) for name in ("tumor", "edema"))
            assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"MANUAL"}
        assert seen == {"T1post", "FLAIR_reg"}
        viewer.context.close()
    finally:
        site.stop()
