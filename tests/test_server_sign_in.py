"""A server with authentication: browsers by cookie, other clients by token, and the realm's bad days."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClientException

from tests.realm import Realm, realm
from tests.server import Server
from tests.tiny import write_volume

pytestmark = pytest.mark.slow

SECONDS = 4.0
"""A token's life here; it is renewed after half of it."""
PAGE = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    for number in range(4):
        write_volume(folder / "studies" / f"image{number}.nii.gz", np.full((5, 4, 3), number, np.float32))
    patch = pytest.MonkeyPatch()
    conf = {"labels": "tumor", "preset": "small", "auto_train": "false"}
    with realm(patch, SECONDS) as service, Server(folder / "studies", folder, **conf) as server:
        yield service, server
    patch.undo()


@pytest.fixture
def service(site) -> Realm:
    service, _ = site
    service.closed = service.broken = False
    return service


@pytest.fixture
def server(site) -> Server:
    return site[1]


def signed_in(server: Server, name: str, password: str = "secret", next: str = "/ohif/") -> requests.Session:
    """A browser after the page to sign in was sent."""
    browser = requests.Session()
    form = {"username": name, "password": password, "next": next}
    browser.answer = browser.post(f"{server.url}/al/sign-in", data=form, allow_redirects=False, timeout=30)
    return browser


def test_who_wants_a_page_is_sent_to_sign_in_and_comes_back(service, server):
    wanted = "/ohif/monai-label?StudyInstanceUIDs=1.2&x=y"
    sent = server.get(wanted, headers=PAGE, allow_redirects=False)
    assert sent.status_code == 303
    assert sent.headers["Location"].startswith("/al/sign-in?next=%2Fohif%2F")
    page = server.get(sent.headers["Location"])
    assert (page.status_code, "password" in page.text) == (200, True)
    browser = signed_in(server, "ada", next=wanted)
    assert (browser.answer.status_code, browser.answer.headers["Location"]) == (303, wanted)
    assert {"HttpOnly", "SameSite=lax"} <= set(browser.answer.headers["Set-Cookie"].split("; "))
    assert browser.get(f"{server.url}{wanted}", headers=PAGE, timeout=30).status_code == 200
    assert browser.get(f"{server.url}/al/session", timeout=30).json()["user"] == "ada"


def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_only(service, server):
    for scheme, secure in (("https", True), ("http", False)):
        answer = requests.post(
            f"{server.url}/al/sign-in",
            data={"username": "ada", "password": "secret"},
            headers={"X-Forwarded-Proto": scheme},
            allow_redirects=False,
            timeout=30,
        )
        assert answer.status_code == 303
        assert ("Secure" in answer.headers["Set-Cookie"].split("; ")) == secure


def test_what_a_script_asks_for_is_a_plain_401(service, server):
    for path in ("/info/", "/al/progress", "/ohif/app-config.js", "/proxy/dicom/qido/studies", "/al/history"):
        assert server.get(path).status_code == 401, path
    assert server.post("/reload").status_code == 401


def test_a_wrong_password_is_said_and_gives_no_cookie(service, server):
    browser = signed_in(server, "ada", "wrong<script>")
    assert browser.answer.status_code == 401
    assert "Invalid user credentials" in browser.answer.text
    assert not browser.cookies


@pytest.mark.parametrize("next", ["https://elsewhere.org/", "//elsewhere.org", "/\\elsewhere.org", "ohif", "/a\nb", ""])
def test_signing_in_leads_nowhere_else(service, server, next):
    assert signed_in(server, "ada", next=next).answer.headers["Location"] == "/"
    shown = server.get("/al/sign-in", params={"next": f'{next}"><script>'})
    assert "<script>" not in shown.text


def test_the_token_is_renewed_while_the_browser_is_used(service, server):
    browser = signed_in(server, "ada")
    before, end = service.renewals, time.monotonic() + 1.5 * SECONDS
    while time.monotonic() < end:
        assert browser.get(f"{server.url}/al/session", timeout=30).status_code == 200
        time.sleep(0.25)
    assert 2 <= service.renewals - before <= 4
    assert browser.get(f"{server.url}/al/session", timeout=30).json()["user"] == "ada"


def test_when_the_realm_gives_no_more_tokens_one_signs_in_again(service, server):
    browser = signed_in(server, "ada")
    service.closed = True
    time.sleep(0.6 * SECONDS)
    assert browser.get(f"{server.url}/al/session", timeout=30).status_code == 200  # it has not expired yet
    time.sleep(0.6 * SECONDS)
    assert browser.get(f"{server.url}/al/session", timeout=30).status_code == 401
    assert browser.get(f"{server.url}/ohif/", headers=PAGE, timeout=30, allow_redirects=False).status_code == 303


def test_a_realm_that_is_away_is_a_503_and_nobody_is_signed_out(service, server):
    browser = signed_in(server, "ada")
    service.broken = True
    assert signed_in(server, "ada").answer.status_code == 503
    assert server.post("/auth/token", data={"username": "ada", "password": "secret"}).status_code == 503
    time.sleep(1.2 * SECONDS)
    answer = browser.get(f"{server.url}/al/session", timeout=30)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    service.broken = False
    assert browser.get(f"{server.url}/al/session", timeout=30).status_code == 200


def test_pages_of_other_sites_cannot_use_the_cookie(service, server):
    browser = signed_in(server, "ada")
    skip = {"image": "image0", "reason": "no"}
    for origin in ("https://elsewhere.org", "null", server.url.replace("http:", "http://x@elsewhere.org/")):
        answer = browser.post(f"{server.url}/al/skip", json=skip, headers={"Origin": origin}, timeout=30)
        assert answer.status_code == 403, origin
    form = {"username": "rita", "password": "secret"}
    sign_in = f"{server.url}/al/sign-in"
    assert browser.post(sign_in, data=form, headers={"Origin": "https://elsewhere.org"}, timeout=30).status_code == 403
    assert browser.get(f"{server.url}/al/session", headers={"Origin": server.url}, timeout=30).status_code == 200


def test_signing_out_ends_the_session_for_good(service, server):
    browser = signed_in(server, "ada")
    key = browser.cookies["active-learning"]
    assert browser.post(f"{server.url}/al/sign-out", timeout=30).status_code == 204
    assert not browser.cookies
    assert server.get("/al/session", cookies={"active-learning": key}).status_code == 401


def test_roles_count_whoever_asks_and_however(service, server):
    reader, annotator, admin = (signed_in(server, name) for name in ("rita", "ada", "root"))
    skip = {"image": "image0", "reason": "no"}
    assert reader.post(f"{server.url}/activelearning/random", json={}, timeout=30).status_code == 200
    assert reader.post(f"{server.url}/al/skip", json=skip, timeout=30).status_code == 403
    assert annotator.post(f"{server.url}/al/skip", json=skip, timeout=30).status_code == 200
    assert annotator.get(f"{server.url}/al/history", timeout=30).status_code == 403
    assert "skipped,image0,ada" in admin.get(f"{server.url}/al/history", timeout=30).text
    assert admin.post(f"{server.url}/reload", timeout=30).status_code == 404


def test_slicer_s_client_signs_in_with_a_token(service, server, tmp_path):
    client = server.client("somebody else")
    assert client.auth_enabled()
    with pytest.raises(MONAILabelClientException) as refused:
        client.auth_token("ada", "wrong")
    assert refused.value.status_code == 401
    client.update_auth(client.auth_token("ada", "secret"))
    sample = client.next_sample("random", {"client_id": "somebody else"})
    file = write_volume(tmp_path / "label.nii.gz", np.ones((5, 4, 3), np.uint8))
    client.save_label(sample["id"], str(file), params={"client_id": "somebody else"})
    token = {"Authorization": f"Bearer {client.auth_token('ada', 'secret')['access_token']}"}
    about = {"label": sample["id"], "tag": "final"}
    said = {"info": json.dumps({"client_id": "somebody else", "note": "kept"})}
    address = f"{server.url}/datastore/label/info"
    assert requests.put(address, params=about, data=said, headers=token, timeout=30).status_code == 200
    info = requests.get(address, params=about, headers=token, timeout=30).json()
    assert (info["client_id"], info["note"]) == ("ada", "kept")
    root = signed_in(server, "root")
    history = root.get(f"{server.url}/al/history", timeout=30).text
    assert f"leased,{sample['id']},ada" in history
    assert f"labelled,{sample['id']},ada" in history
    assert "somebody else" not in history
    assert json.loads(root.get(f"{server.url}/info/", timeout=30).text)["datastore"]["completed"] == 1
