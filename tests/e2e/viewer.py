"""A reader in OHIF, by mouse and keyboard in a real Chromium."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import SECONDS
from tests.server import wait_for

VOXELS = """() => {
  const volumes = [...cornerstone.cache._volumeCache.values()].map(entry => entry.volume);
  const v = volumes.filter(volume => volume && !volume.volumeId.startsWith('cornerstoneStreaming')).pop();
  if (!v) return null;
  const data = v.voxelManager.getCompleteScalarDataArray();
  const places = [];
  for (let i = 0; i < data.length; i += 1) if (data[i]) places.push([i, data[i]]);
  return { dimensions: [...v.dimensions], spacing: [...v.spacing], origin: [...v.origin],
           direction: [...v.direction], places };
}"""


@dataclass(frozen=True)
class Drawn:
    """Segments on the screen: places in space (LPS, tenths of mm) by segment name."""

    places: dict[str, set[tuple[int, int, int]]]

    def count(self, name: str) -> int:
        return len(self.places.get(name, set()))


def in_space(points: np.ndarray) -> set[tuple[int, int, int]]:
    """Points in mm as comparable places."""
    return set(map(tuple, np.rint(points * 10).astype(int).tolist()))


class Viewer:
    """OHIF with our panel.

    Args:
        browser: Chromium.
        url: of the server.
        name: of the reader; None gives none.
    """

    def __init__(self, browser: Browser, url: str, name: str | None = None) -> None:
        self.url = url
        self.errors: list[str] = []
        self.context = browser.new_context(viewport={"width": 1500, "height": 950})
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.name = name

    def open(self, study: str) -> Viewer:
        self.page.goto(f"{self.url}/ohif/monai-label?StudyInstanceUIDs={study}")
        self.ready()
        if self.name:
            self.page.fill("#al-reader", self.name)
            self.page.press("#al-reader", "Tab")
        return self

    def ready(self) -> None:
        """Wait until the image is there and can be drawn on."""
        self.page.wait_for_selector("#al-segments label", timeout=120 * SECONDS)
        wait_for(lambda: self.page.evaluate(VOXELS) is not None, 60)
        self.close_banner()

    def close_banner(self) -> None:
        """Confirm that this is no medical device, where that is asked."""
        banner = self.page.get_by_text("Confirm and Hide")
        if banner.count():
            banner.click()

    def next(self) -> str:
        """Press "Next image" and wait for it; returns the series."""
        with self.page.expect_navigation(timeout=60 * SECONDS):
            self.page.click("#al-next")
        self.ready()
        expect(self.page.locator("#al-why")).to_contain_text("round", timeout=30 * SECONDS)
        return str(self.sample()["id"])

    def sample(self) -> dict[str, Any]:
        return self.page.evaluate("() => JSON.parse(sessionStorage.getItem('al.sample'))")

    def drawn(self) -> Drawn:
        """What is on the screen, by the viewer's own geometry."""
        raw = self.page.evaluate(VOXELS)
        names = self.page.locator("#al-segments input").evaluate_all("nodes => nodes.map(node => node.value)")
        axes = np.array(raw["direction"]).reshape(3, 3) * np.array(raw["spacing"])[:, None]
        places: dict[str, set[tuple[int, int, int]]] = {}
        flat = np.array(raw["places"], dtype=np.int64).reshape(-1, 2)
        for value in np.unique(flat[:, 1]):
            index = np.stack(np.unravel_index(flat[flat[:, 1] == value, 0], raw["dimensions"], order="F"), 1)
            places[names[value - 1]] = in_space(np.array(raw["origin"]) + index @ axes)
        return Drawn(places)

    def choose(self, label: str) -> None:
        self.page.click(f"#al-segments label:has-text('{label}')")

    def stroke(self, dx: float = 0, dy: float = 0, length: float = 40) -> None:
        """Drag across the axial view, off its centre by ``(dx, dy)`` pixels."""
        box = self.page.locator(".cornerstone-viewport-element").first.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy
        before = self.drawn()
        mouse = self.page.mouse
        mouse.move(x, y)
        mouse.down()
        mouse.move(x + length / 2, y + 4, steps=6)
        mouse.move(x + length, y + 9, steps=6)
        mouse.up()
        wait_for(lambda: self.drawn() != before, 30)
        wait_for(self._is_quiet, 30)

    def _is_quiet(self) -> bool:
        """Whether nothing is being drawn any more, and the panel has noticed."""
        before = self.drawn()
        self.page.wait_for_timeout(800)
        return self.drawn() == before

    def submit(self) -> str:
        """Submit; returns the message, whatever it says."""
        self.page.evaluate("() => { document.querySelector('#al-notice').dataset.kind = 'info' }")  # not an older one
        self.page.click("#al-submit")
        notice = self.page.locator("#al-notice:not([data-kind=info])")
        expect(notice).not_to_have_text("", timeout=60 * SECONDS)
        return notice.inner_text()

    def screenshot(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=file)
