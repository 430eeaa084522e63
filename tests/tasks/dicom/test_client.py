"""An archive is known by the name of its host."""

import pytest

from tasks.dicom import client


@pytest.mark.parametrize(
    ("studies", "google"),
    [
        ("https://healthcare.googleapis.com/v1/projects/p/dicomWeb", True),
        ("https://HEALTHCARE.googleapis.com/v1", True),
        ("https://googleapis.com.evil.example/", False),
        ("https://evilgoogleapis.com/", False),
        ("https://archive.example/googleapis.com", False),
        ("https://googleapis.com@archive.example/", False),
    ],
)
def test_the_server_s_google_account_is_for_google_alone(studies, google):
    assert client.is_google(studies) == google


@pytest.mark.parametrize("url", ["https://googleapis.com.evil.example/dicom", "https://archive.example/googleapis.com"])
def test_the_server_s_google_account_is_not_shown_to_others(url, monkeypatch):
    def sign_in():
        raise AssertionError("signed in as the server's Google account")

    monkeypatch.setattr(client, "create_session_from_gcp_credentials", sign_in)
    client._session(url, client.Settings())
