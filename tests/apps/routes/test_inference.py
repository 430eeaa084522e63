"""One inference: what is the request's fault, and what is ours."""

import dataclasses
import logging

import pytest
import torch

from tasks.segmentation.models import SINGLE
from tasks.segmentation.networks import SplitUNet
from tests.apps.server.test_protection import app, folder, infer  # noqa: F401
from tests.tasks.learning.test_checkpoints import checkpoint

JSON = {"output": "json", "params": '{"device": "cpu"}'}


def of_another_network(seed: int):
    """A checkpoint that is what was published, with weights that fit no network of ours."""
    return dataclasses.replace(checkpoint(seed), members=[{"weight": torch.zeros(3 + seed)}])


def of_odd_settings(seed: int):
    return dataclasses.replace(checkpoint(seed), preprocessing={"roi_size": seed})


@pytest.mark.parametrize("broken", [of_another_network, of_odd_settings])
def test_a_checkpoint_that_cannot_be_used_is_told_and_the_one_before_serves(http, app, broken, caplog):  # noqa: F811
    old = app.registry.publish(SINGLE, checkpoint(0), 1, {})
    new = app.registry.publish(SINGLE, broken(1), 1, {})
    for _ in range(2):
        assert http.request(**infer(**JSON)).status_code == 200
    assert app.registry.current(SINGLE).version == old
    listed = http.get("/al/problems", params={"kind": "model"}).json()["problems"]
    assert [row["id"] for row in listed] == [f"{SINGLE}-{new}.pt"]
    assert listed[0]["reason"].startswith("the checkpoint cannot be used: ")
    assert http.get("/al/progress").json()["problems"]["counts"]["model"] == 1
    assert caplog.text.count("cannot be used") == 1
    assert "Traceback" not in caplog.text


def test_where_no_model_can_be_used_it_is_the_server_s_fault(http, app, caplog):  # noqa: F811
    version = app.registry.publish(SINGLE, of_another_network(1), 1, {})
    answer = http.request(**infer(**JSON))
    assert answer.status_code == 503
    assert f"{SINGLE}-{version}.pt cannot be used" in answer.json()["detail"]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("model", "image"), [(SINGLE, "image0"), ("nothing", "image0"), (SINGLE, "unreadable")])
def test_a_refusal_leaves_no_traceback(http, app, folder, model, image, caplog):  # noqa: F811
    if image == "unreadable":
        app.registry.publish(SINGLE, checkpoint(0), 1, {})
        (folder / "unreadable.nii.gz").write_bytes(b"nonsense")
        app.datastore().refresh()
    caplog.clear()
    answer = http.request(**infer(model=model, image=image, **JSON))
    assert answer.status_code == 400
    assert str(folder) not in answer.text
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def test_what_goes_wrong_in_the_network_is_not_the_request_s_fault(http, app, monkeypatch):  # noqa: F811
    app.registry.publish(SINGLE, checkpoint(0), 1, {})

    def fail(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(SplitUNet, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        http.request(**infer(**JSON))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_said_whoever_lacks_it(http, app, monkeypatch, error):  # noqa: F811
    app.registry.publish(SINGLE, checkpoint(0), 1, {})

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(SplitUNet, "forward", fail)
    answer = http.request(**infer(**JSON))
    assert answer.status_code == 503
    assert "too little memory" in answer.json()["detail"]
