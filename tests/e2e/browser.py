"""A real Chromium on the grading page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WEBGL = [
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
"""Arguments for WebGL in software."""
SECONDS = 1000


@contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """Debian's Chromium, or the one that ``CHROMIUM`` names."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "Chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *more])
        yield browser
        browser.close()


def sign_in(page: Page, name: str, password: str) -> None:
    """Fill in the page to sign in, and leave it."""
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible(timeout=30 * SECONDS)
    page.fill("[name=username]", name)
    page.fill("[name=password]", password)
    page.get_by_role("button", name="Sign in").click()


class Reader:
    """One reader in a browser context of their own, working by keyboard."""

    def __init__(self, browser: Browser, url: str, name: str) -> None:
        self.name = name
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(viewport={"width": 1180, "height": 820}, has_touch=True)
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"{url}/al/grade")

    def sign(self) -> Reader:
        """Give the name that the page asks for."""
        expect(self.page.locator("#name-dialog")).to_be_visible()
        self.page.keyboard.type(self.name)
        self.page.keyboard.press("Enter")
        self.ready()
        return self

    def ready(self, after: str | None = None, seconds: float = 60) -> str:
        """Wait for an image (other than ``after``); returns its id."""
        selector = "#image[data-ready]" + (f':not([data-ready="{after}"])' if after else "")
        self.page.wait_for_selector(selector, timeout=seconds * SECONDS)
        expect(self.page.locator("#stage")).to_have_attribute("aria-busy", "false")
        return str(self.page.get_attribute("#image", "data-ready"))

    @property
    def image(self) -> str:
        return str(self.page.get_attribute("#image", "data-id"))

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def grade(self, key: str) -> str:
        """Grade the image with a number key and wait for the next; returns the graded image."""
        graded = self.ready()
        self.press(key)
        self.ready(after=graded)
        return graded

    def notice(self, words: str, seconds: float = 15) -> None:
        """Wait for a message that contains the words."""
        expect(self.page.locator("#notice")).to_contain_text(words, timeout=seconds * SECONDS)

    def progress(self, words: str) -> None:
        """Wait for words in the line of progress."""
        expect(self.page.locator("#progress")).to_contain_text(words, timeout=15 * SECONDS)
