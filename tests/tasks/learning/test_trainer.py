"""A training loop of somebody else: its model is checked, published and scored like ours."""

import dataclasses

import pytest
import torch

from tasks.learning.checkpoints import Checkpoint
from tasks.learning.training import TrainingError
from tasks.segmentation.models import SINGLE
from tasks.segmentation.records import SCORES
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.scoring import ScoreVolumes
from tasks.volume_segmentation.training import VolumeTrainTask
from tests.test_extending import blocks
from tests.tiny import QUICK, sync_images


@pytest.fixture
def plain_loop():
    names: dict = {}
    exec(compile(blocks("A trainer")[0], "docs/extending.md", "exec"), names)
    return names["PlainLoop"]


def task_with(registry, trainer) -> VolumeTrainTask:
    task = VolumeTrainTask(SINGLE, "test", registry, PRESETS["small"], ("tumor",))
    task.trainer = trainer
    return task


def test_the_loop_of_the_page_trains_a_model_that_is_scored_like_ours(plain_loop, registry, datastore):
    stats = task_with(registry, plain_loop(epochs=3))(dict(QUICK), datastore)
    assert (stats["epoch"], stats["total_epochs"], stats["labelled"]) == (3, 3, 6)
    assert stats["validation"] == "1 of 6 labelled images"
    store = registry.store
    assert stats["model_version"] == store.current_model(SINGLE).version
    assert store.trainings(SINGLE)[0].error is None
    sync_images(store, dict.fromkeys(datastore.list_images(), False))
    ScoreVolumes(registry, store, passes=4)({"device": "cpu"}, datastore)
    records = store.records(registry.scoring_version())
    assert {record.error for record in records} == {None}
    assert set(records[0].scores) == set(SCORES)
    again = task_with(registry, plain_loop(epochs=3))(dict(QUICK), datastore)
    assert again["unchanged"]


class Looks:
    """Keeps what it is given."""

    def train(self, items, settings, report):
        self.items, self.settings, self.first = items, settings, settings.read(items[0])
        raise ZeroDivisionError("as loops do")


def test_it_is_given_the_same_split_images_and_network_as_ours(registry, datastore):
    looks = Looks()
    task = task_with(registry, looks)
    with pytest.raises(ZeroDivisionError):
        task({**QUICK, "seed": 3}, datastore)
    assert registry.store.trainings(SINGLE)[0].error == "as loops do"
    assert [item.id for item in looks.items] == [f"image{number}" for number in range(6)]
    assert sum(item.validating for item in looks.items) == 1
    assert looks.first["image"].ndim == looks.first["label"].ndim == 4
    assert looks.first["image"].shape[1:] == looks.first["label"].shape[1:]
    assert looks.settings.architecture == task.architecture(task.preset.with_options(QUICK))
    assert (looks.settings.seed, looks.settings.labels, looks.settings.start) == (3, ["tumor"], None)


class Gives:
    """Gives a checkpoint that has been changed."""

    def __init__(self, **changes) -> None:
        self.changes = changes

    def train(self, items, settings, report):
        states = [settings.architecture.build().state_dict()]
        made = Checkpoint(settings.architecture, states, settings.preprocessing, settings.labels)
        for name, change in self.changes.items():
            made = dataclasses.replace(made, **{name: change(getattr(made, name))})
        return made


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (type("Nothing", (), {"train": lambda *_: None})(), "trainer Nothing: it gives no Checkpoint but NoneType"),
        (Gives(labels=lambda labels: ["other"]), r"its labels must be \['tumor'\], got \['other'\]"),
        (Gives(members=lambda members: []), "it has no members"),
        (Gives(members=lambda members: [{"x": torch.ones(1)}]), "its weights do not fit its architecture"),
        (
            Gives(members=lambda members: [{name: value * float("nan") for name, value in members[0].items()}]),
            "its weights are not finite",
        ),
        (Gives(preprocessing=lambda values: {}), "its preprocessing has no overlap, roi_size, spacing"),
        (Gives(architecture=lambda architecture: "unet"), "its architecture must be a Architecture, got str"),
    ],
)
def test_what_cannot_be_served_is_not_published_and_the_reason_said(registry, datastore, trainer, words):
    with pytest.raises(TrainingError, match=words):
        task_with(registry, trainer)(dict(QUICK), datastore)
    assert registry.store.current_model(SINGLE) is None
