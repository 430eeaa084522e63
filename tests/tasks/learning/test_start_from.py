"""Trainings that start from weights of one's own."""

import pickle

import pytest
import torch
from torch import nn

from tasks.learning.pretrained import WeightsError
from tasks.learning.start_from import load_matching, read_weights
from tasks.learning.training import TrainingError
from tasks.segmentation.models import SINGLE
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.training import VolumeTrainTask
from tests.tiny import QUICK


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "network", "net", "members"])
@pytest.mark.parametrize("prefix", ["", "module.", "net.", "module.net."])
def test_weights_are_found_wherever_the_file_keeps_them(tmp_path, wrap, prefix):
    source, target = network(), network()
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    content = {None: state, "members": {"members": [state], "labels": ["a"]}}.get(wrap, {wrap: state, "epoch": 3})
    torch.save(content, tmp_path / "weights.pt")
    matched = load_matching(target, read_weights(tmp_path / "weights.pt"))
    assert str(matched) == "4 of 4 tensors"
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


def test_what_does_not_fit_is_left_random_and_named(tmp_path):
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {**network(5).state_dict(), "extra": torch.ones(1)}
    del state["1.bias"]
    matched = load_matching(target, state)
    assert matched.loaded == ()
    assert str(matched) == (
        "0 of 4 tensors; not in the file: 1.bias; of another shape: 0.weight (5x2, here 3x2), 0.bias (5, here 3), "
        "1.weight (1x5, here 1x3); in the file and not in the network: extra"
    )
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


class Evil:
    def __reduce__(self):
        return (print, ("code has run",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file"),
        (b"", "cannot be read as weights"),
        (b"text", "cannot be read as weights"),
        (pickle.dumps(Evil()), "cannot be read as weights"),
        ([1, 2], "holds no weights by name"),
        ({}, "holds no weights by name"),
        ({"epoch": 3}, "holds no weights by name"),
    ],
)
def test_other_files_are_refused_and_no_code_in_them_runs(tmp_path, capfd, content, words):
    file = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(WeightsError, match=words) as caught:
        read_weights(file)
    assert str(file) in str(caught.value)
    assert "code has run" not in capfd.readouterr().out


def test_a_training_starts_from_them_and_says_what_it_has_taken(registry, datastore, tmp_path, caplog):
    caplog.set_level("INFO")
    task = VolumeTrainTask(SINGLE, "test", registry, PRESETS["small"], ("tumor",))
    task({**QUICK, "seed": 1}, datastore)
    first = registry.load(SINGLE).members[0]
    torch.save({"state_dict": dict(first)}, tmp_path / "weights.pt")
    task.start_from = str(tmp_path / "weights.pt")
    task({**QUICK, "seed": 2, "learning_rate": 1e-9}, datastore)
    assert all(torch.allclose(first[key], value, atol=1e-4) for key, value in registry.load(SINGLE).members[0].items())
    assert f"starts from {task.start_from}: {len(first)} of {len(first)} tensors" in caplog.text
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(TrainingError, match=r"option start_from: nothing of .*weights.pt fits the network"):
        task(dict(QUICK), datastore)
