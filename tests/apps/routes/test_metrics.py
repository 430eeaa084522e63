"""What Prometheus is told."""

import pytest
from monailabel.interfaces.utils.app import app_instance
from prometheus_client.parser import text_string_to_metric_families

from tests.apps.server.test_protection import folder, put  # noqa: F401
from tests.server import APP


@pytest.fixture
def app(folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    app = app_instance(str(APP), str(folder), {"labels": "tumor", "preset": "small", "auto_train": "false"})
    yield app
    app.store.close()


def samples(http) -> dict:
    answer = http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_requests_labels_jobs_and_memory_are_counted(http):
    before = samples(http)
    for number in range(3):
        assert http.request(**put(image=f"image{number}")).status_code == 200
    assert http.request(**put(image="a reader's secret")).status_code == 404
    assert http.get("/no/such/route").status_code == 404
    after = samples(http)

    def more(*key: str) -> float:
        return after[key] - before.get(key, 0)

    name = "active_learning_requests_total"
    assert more(name, *sorted(("PUT", "/datastore/label", "200"))) == 3
    assert more(name, *sorted(("PUT", "/datastore/label", "404"))) == 1
    assert more(name, *sorted(("GET", "none", "404"))) == 1
    assert more("active_learning_request_seconds_count", "/datastore/label", "PUT") == 4
    assert after["active_learning_images",] == 4
    assert after["active_learning_labels", "final"] == 3
    assert after["active_learning_jobs_running", "train"] == after["active_learning_jobs_waiting", "scoring"] == 0
    assert after["active_learning_inferences_waiting",] == 0
    assert after["process_resident_memory_bytes",] > 1e8
    assert after["process_open_fds",] > 2
    assert "secret" not in http.get("/metrics").text
