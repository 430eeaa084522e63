"""A page of another website, in a real browser, against a real server that only this machine can reach."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests

from tests.e2e.browser import SECONDS, chromium
from tests.server import Server
from tests.tiny import write_volume

pytestmark = pytest.mark.e2e

ATTACK = """async (server) => {
  const answers = {};
  const attempt = async (name, path, options) => {
    try {
      const answer = await fetch(server + path, options);
      answers[name] = `${answer.type} ${answer.status}`;
    } catch (error) {
      answers[name] = 'refused';
    }
  };
  const skip = JSON.stringify({ image: 'image0', reason: 'a stranger' });
  const label = new FormData();
  label.append('files', new Blob(['import os']), 'sitecustomize.py');
  await attempt('simple post', '/al/skip', { method: 'POST', body: skip, mode: 'no-cors' });
  await attempt('post', '/al/skip', { method: 'POST', body: skip, headers: { 'Content-Type': 'application/json' } });
  await attempt('session', '/session/', { method: 'PUT', body: label });
  await attempt('train', '/train/segmentation', { method: 'POST', body: '{}', mode: 'no-cors' });
  await attempt('stop', '/train/', { method: 'DELETE' });
  await attempt('read', '/info/', {});
  await attempt('read blindly', '/datastore/dataset', { mode: 'no-cors' });
  await attempt('with credentials', '/info/', { credentials: 'include' });
  const form = document.createElement('form');
  const frame = document.createElement('iframe');
  frame.name = 'frame';
  Object.assign(form, { method: 'post', action: `${server}/al/sign-out`, target: 'frame', enctype: 'text/plain' });
  document.body.append(frame, form);
  const image = document.createElement('img');
  const seen = new Promise((resolve) => { image.onload = () => resolve('seen'); image.onerror = () => resolve('no'); });
  image.src = `${server}/favicon.ico`;
  document.body.append(image);
  answers.image = await seen;
  form.submit();
  await new Promise((resolve) => { frame.onload = resolve; });
  return answers;
}"""


class _Page(BaseHTTPRequestHandler):
    """The other website."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>Elsewhere</title><body></body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere():
    service = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield service.server_port
    service.shutdown()
    service.server_close()


@pytest.fixture
def server(tmp_path):
    for number in range(3):
        write_volume(tmp_path / "studies" / f"image{number}.nii.gz", np.full((5, 4, 3), number, np.float32))
    with Server(tmp_path / "studies", tmp_path, labels="tumor", preset="small", auto_train="false") as server:
        yield server


def unchanged(server: Server) -> bool:
    return server.get("/al/skipped").json() == [] and server.job("train") is None and server.job("scoring") is None


def test_pages_of_other_websites_neither_read_nor_change_anything(server, elsewhere):
    with chromium("--host-resolver-rules=MAP evil.example 127.0.0.1") as browser:
        # Another site, another service of this machine, and a page without an origin.
        for address in (f"http://evil.example:{elsewhere}/", f"http://127.0.0.1:{elsewhere}/"):
            page = browser.new_page()
            page.goto(address)
            answers = page.evaluate(ATTACK, server.url)
            assert set(answers.values()) <= {"refused", "opaque 0", "no"}, (address, answers)
            page.close()
        page = browser.new_page()
        page.goto(f"data:text/html,<title>x</title>{'<body></body>'}")
        answers = page.evaluate(ATTACK, server.url)
        assert set(answers.values()) <= {"refused", "opaque 0", "no"}, answers
        # Rebinding: the page's own name now leads to the server, so that to the browser it is one origin.
        page.goto(f"http://evil.example:{server.port}/info/")
        assert "--conf hosts" in page.inner_text("body")
        assert unchanged(server)
        # The server's own page may do all that.
        page.goto(f"{server.url}/")
        skip = json.dumps({"image": "image0", "reason": "by me"})
        sent = "([body]) => fetch('/al/skip', {method: 'POST', body, headers: {'Content-Type': 'application/json'}})"
        assert page.evaluate(f"async (given) => (await ({sent})(given)).status", [skip]) == 200
    assert [row["reason"] for row in server.get("/al/skipped").json()] == ["by me"]


def test_the_api_page_the_log_and_the_tries_on_it_need_no_other_host(server):
    with chromium() as browser:
        page = browser.new_page()
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server.url}/docs")
        page.get_by_text("/al/progress").click(timeout=30 * SECONDS)
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.get_by_text('"labelled": 0').first.wait_for(timeout=30 * SECONDS)
        page.goto(f"{server.url}/logs/?lines=2000&refresh=3")
        page.get_by_text("App Init - completed").first.wait_for(timeout=30 * SECONDS)
    assert not [address for address in asked if not address.startswith((server.url, "data:", "blob:"))]
    assert errors == []


def test_clients_that_are_no_browsers_work_as_before(server, tmp_path):
    client = server.client("ann")
    sample = client.next_sample("random", {"client_id": "ann"})
    label = write_volume(tmp_path / "label.nii.gz", np.ones((5, 4, 3), np.uint8))
    client.save_label(sample["id"], str(label), params={"client_id": "ann"})
    assert client.info()["datastore"]["completed"] == 1
    by_name = requests.get(f"http://localhost:{server.port}/info/", timeout=30)
    assert by_name.status_code == 200
