"""The grading page in a real Chromium against a real server."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import expect

from tasks.classification.datastore import GradedFolder
from tests.e2e.browser import Reader, chromium, sign_in
from tests.realm import realm
from tests.server import ROOT, Server

pytestmark = pytest.mark.e2e

APP = ROOT / "apps" / "image_classification"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def server(graded_studies, slices, tmp_path):
    labels = ",".join(slices.classes)
    with Server(graded_studies, tmp_path, app=APP, labels=labels, preset="small", auto_train="false") as server:
        yield server


def stored(studies: Path) -> dict[str, str]:
    """Image id -> class of all final labels on disk."""
    return {file.stem: json.loads(file.read_text())["label"] for file in (studies / "labels" / "final").glob("*.json")}


def test_ten_images_by_keyboard_skip_undo_and_a_restart_in_the_middle(server, browser, graded_studies, slices):
    reader = Reader(browser, server.url, "Ada").sign()
    expect(reader.page.locator("#classes button")).to_have_count(2)
    graded = {}
    for number in range(5):
        key = str(1 + number % 2)
        graded[reader.grade(key)] = slices.classes[number % 2]
    assert stored(graded_studies) == graded
    reader.progress(f"5 of {len(slices.images)} graded · 5 by you")

    # Skip with a reason, by keyboard.
    skipped = reader.ready()
    reader.press("s")
    expect(reader.page.locator("#skip-dialog")).to_be_visible()
    reader.press("3")
    reader.ready(after=skipped)
    (row,) = server.get("/al/skipped").json()
    assert (row["image"], row["client_id"], row["reason"]) == (skipped, "Ada", "I am not sure")

    # Undo the skip, then the label before it.
    reader.press("u")
    reader.notice(f"Undone: {skipped}")
    assert reader.image == skipped
    assert server.get("/al/skipped").json() == []
    last = list(graded)[-1]
    reader.press("u")
    reader.notice(f"Undone: {last}")
    assert reader.image == last
    assert last not in stored(graded_studies)
    graded[reader.grade("2")] = slices.classes[1]

    # The server goes away while an answer is given: it is kept, and arrives when the server is back.
    server.kill()
    waiting = reader.ready()
    reader.press("1")
    reader.notice("The server cannot be reached; trying again. 1 answer is kept here")
    assert waiting not in stored(graded_studies)
    server.start()
    reader.ready(after=waiting, seconds=90)
    graded[waiting] = slices.classes[0]
    expect(reader.page.locator("#notice")).to_be_hidden()
    assert stored(graded_studies) == graded

    while len(graded) < 10:
        graded[reader.grade("1")] = slices.classes[0]
    assert stored(graded_studies) == graded
    reader.progress("10 by you")
    assert reader.errors == []
    assert all(url.startswith((server.url, "data:")) for url in reader.requests)
    reader.context.close()


def test_an_undo_whose_answer_is_lost_on_the_way_takes_back_one_label_and_no_more(server, browser, graded_studies):
    reader = Reader(browser, server.url, "Ada").sign()
    graded = [reader.grade("1") for _ in range(3)]
    asked = []

    def lose_the_first_answer(route) -> None:
        asked.append(route.request.post_data_json)
        answer = route.fetch()  # the server has done it
        route.abort() if len(asked) == 1 else route.fulfill(response=answer)

    reader.page.route("**/al/undo", lose_the_first_answer)
    reader.press("u")
    reader.notice(f"Undone: {graded[-1]}")
    assert [body["undo_id"] for body in asked] == [asked[0]["undo_id"]] * 2
    assert set(stored(graded_studies)) == set(graded[:2])
    reader.page.unroute("**/al/undo")
    reader.press("u")
    reader.notice(f"Undone: {graded[1]}")
    assert set(stored(graded_studies)) == {graded[0]}
    reader.context.close()


def test_two_readers_are_never_shown_the_same_image_and_are_remembered(server, browser, graded_studies):
    readers = [Reader(browser, server.url, name).sign() for name in ("Ada", "Ben")]
    shown: dict[str, list[str]] = {"Ada": [], "Ben": []}
    for _ in range(5):
        for reader in readers:
            shown[reader.name].append(reader.grade("1"))
    for reader in readers:
        shown[reader.name].append(reader.ready())
    assert not set(shown["Ada"]) & set(shown["Ben"])
    assert len(stored(graded_studies)) == 10
    # After a reload the name is still there, and so is the image in hand.
    ada = readers[0]
    ada.page.reload()
    assert ada.ready() == shown["Ada"][-1]
    expect(ada.page.locator("#reader")).to_have_text("Ada")
    for reader in readers:
        assert reader.errors == []
        reader.context.close()


def test_the_model_s_opinion_is_hidden_until_asked_for_and_noted(server, browser, graded_studies, slices):
    reader = Reader(browser, server.url, "Ada").sign()
    reader.press("p")
    reader.notice("There is no trained model yet")
    for name in list(slices.images)[:10]:
        data = {"params": json.dumps({"label": slices.truth[name], "client_id": "Eve"})}
        answer = requests.put(
            f"{server.url}/datastore/label",
            params={"image": name},
            data=data,
            files={"label": ("a.json", b"")},
            timeout=60,
        )
        assert answer.status_code == 200
    quick = {"image_size": 32, "max_epochs": 1, "iterations_per_epoch": 2, "val_interval": 1, "first_features": 2}
    assert server.run("train", "classifier_committee", quick)["status"] == "DONE"
    first = reader.grade("1")
    panel = reader.page.locator("#probabilities")
    expect(panel).to_be_hidden()
    reader.press("p")
    expect(panel).to_be_visible(timeout=60000)
    for name in slices.classes:
        expect(panel).to_contain_text(name)
    second = reader.grade("2")
    expect(panel).to_be_hidden()
    labels = server.get("/datastore/?output=all").json()["objects"]
    shown = {name: labels[name]["labels"]["final"]["info"]["probabilities_shown"] for name in (first, second)}
    assert shown == {first: False, second: True}
    reader.context.close()


def canvas_mean(reader: Reader) -> float:
    """Mean grey value of the shown canvas, read from a screenshot."""
    with Image.open(BytesIO(reader.page.locator("#image").screenshot())) as picture:
        return float(np.asarray(picture.convert("L")).mean())


def test_window_level_zoom_and_channels(server, browser):
    reader = Reader(browser, server.url, "Ada").sign()
    values = reader.page.locator("#values")
    expect(values).to_have_text("W 255 · L 127.5")
    start = canvas_mean(reader)
    for _ in range(8):
        reader.press(",")
    darker_level = canvas_mean(reader)
    assert darker_level > start + 5  # a lower level makes the image brighter
    reader.press("r")
    expect(values).to_have_text("W 255 · L 127.5")
    for _ in range(4):
        reader.press("+")
    assert canvas_mean(reader) != pytest.approx(start, abs=0.5)
    reader.press("r")
    assert canvas_mean(reader) == pytest.approx(start, abs=0.5)
    channel = reader.page.locator("#channel")
    if channel.is_visible():
        reader.press("c")
        expect(channel).to_have_text("channel 1")
        assert canvas_mean(reader) != pytest.approx(start, abs=0.05)
    assert reader.errors == []
    reader.context.close()


def test_a_tablet_can_grade_by_touch(server, browser, graded_studies, slices):
    reader = Reader(browser, server.url, "Ada")
    reader.page.set_viewport_size({"width": 768, "height": 1024})
    reader.page.locator("#name").fill("Ada")
    reader.page.locator("#name-dialog button").tap()
    first = reader.ready()
    button = reader.page.locator("#classes button").nth(1)
    assert button.bounding_box()["height"] >= 44
    button.tap()
    reader.ready(after=first)
    assert stored(graded_studies) == {first: slices.classes[1]}
    assert reader.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    reader.context.close()


def test_with_authentication_on_the_page_asks_who_is_there(graded_studies, slices, tmp_path, browser, monkeypatch):
    conf = {"labels": ",".join(slices.classes), "preset": "small", "auto_train": "false"}
    with realm(monkeypatch), Server(graded_studies, tmp_path, app=APP, **conf) as server:
        for path in ("session", "progress", "skipped", "pixels?image=a"):
            assert server.get(f"/al/{path}").status_code == 401
        assert server.post("/al/undo", json={}).status_code == 401
        assert server.post("/activelearning/random", json={}).status_code == 401
        reader = Reader(browser, server.url, "ada")
        for password, complaint in (("wrong", ""), ("secret", "That did not work")):
            expect(reader.page.locator("[role=alert]")).to_contain_text(complaint)
            sign_in(reader.page, "ada", password)
        graded = reader.grade("1")
        assert stored(graded_studies) == {graded: slices.classes[0]}
        expect(reader.page.locator("#reader")).to_have_text("ada")
        reader.page.click("#reader")
        expect(reader.page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert server.get("/al/progress").status_code == 401
        sign_in(reader.page, "ada", "secret")
        assert reader.ready() != graded
        reader.context.close()
    assert GradedFolder(str(graded_studies)).get_label_info(graded, "final")["client_id"] == "ada"
