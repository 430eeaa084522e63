"""Options of jobs and inferences: known names, the right kinds and ranges, and what the viewers add by themselves."""

import pytest

from tasks.jobs.options import batch_options, inference_options, means_default, scoring_options, without_added
from tasks.segmentation.models import SINGLE
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.training import VolumeTrainTask

TAGS = {"original", "draft"}


@pytest.fixture
def trainer(registry):
    return VolumeTrainTask(SINGLE, "", registry, PRESETS["small"], ["tumor"])


def test_what_the_viewers_show_can_be_sent_back_as_it_is(trainer):
    config = trainer.info()["config"]
    sent = trainer.checked(without_added({**config, "client_id": "ann", "model": SINGLE}))
    assert sent == {"device": "cpu", "pretrained": False, "seed": 0}


def test_an_emptied_options_table_of_slicer_means_the_defaults(trainer):
    config = trainer.info()["config"]
    empty = {name: 0 if isinstance(value, int | float) else "" for name, value in config.items()}
    del empty["augmentation"]  # a tick box
    assert trainer.checked(without_added(empty)) == {"seed": 0}
    assert trainer.checked({"members": 0, "seed": "", "weight_decay": 0.0, "pretrained": ""}) == {}


@pytest.mark.parametrize(
    ("value", "default", "means"),
    [
        (0, 0.01, True),
        (0.0, 5, True),
        ("", 3, True),
        (0, "adamw", True),
        (None, "", True),
        ("", "", False),
        (0, 0, False),
        ("0", 0.01, False),
        (False, True, False),
        (0.5, 0.01, False),
        ([], 1, False),
    ],
)
def test_zero_and_nothing_stand_for_a_default_that_is_something_else(value, default, means):
    assert means_default(value, default) is means


def test_hyper_parameters_are_changed_by_numbers_and_by_text(trainer):
    assert trainer.checked(
        {
            "max_epochs": "7",
            "learning_rate": "0.5",
            "augmentation": "true",
            "seed": 3,
            "pretrained": 1,
            "momentum": "0",
        }
    ) == {"max_epochs": 7, "learning_rate": 0.5, "augmentation": True, "seed": 3, "pretrained": True, "momentum": 0.0}


BIG = 10**400
WRONG = [
    ({"bundle_path": "/tmp/x"}, "unknown option 'bundle_path'; known are activation"),
    ({"PYTHONPATH": "/tmp/x"}, "unknown option 'PYTHONPATH'"),
    ({"train_ds": "/etc/passwd"}, "unknown option 'train_ds'"),
    ({"tracking_uri": "http://evil"}, "unknown option 'tracking_uri'"),
    ({"name": "../x"}, "unknown option 'name'"),
    ({"dataloader": "x"}, "unknown option 'dataloader'"),
    ({"local_rank": 1}, "unknown option 'local_rank'"),
    ({"x" * 500: 1}, "unknown option 'xxx"),
    ({"max_epochs": 2.5}, "max_epochs must be a whole number, got 2.5"),
    ({"max_epochs": "many"}, "max_epochs must be a whole number, got 'many'"),
    ({"max_epochs": True}, "max_epochs must be a whole number, got True"),
    ({"max_epochs": [0]}, "max_epochs must be between 1 and 100000, got 0"),
    ({"max_epochs": []}, "max_epochs must be a whole number"),
    ({"max_epochs": {"a": 1}}, "max_epochs must be a whole number"),
    ({"max_epochs": -1}, "max_epochs must be between 1 and"),
    ({"max_epochs": BIG}, "max_epochs must be between 1 and"),
    ({"max_epochs": float("inf")}, "max_epochs must be a whole number"),
    ({"learning_rate": float("nan")}, "learning_rate must be a number, got nan"),
    ({"learning_rate": "inf"}, "learning_rate must be a number, got 'inf'"),
    ({"learning_rate": BIG}, "learning_rate must be a number"),
    ({"learning_rate": 11}, "learning_rate must be between"),
    ({"augmentation": "perhaps"}, "augmentation must be true or false, got 'perhaps'"),
    ({"optimizer": "lion"}, "optimizer must be one of sgd, adamw; got 'lion'"),
    ({"optimizer": 3}, "optimizer must be text, got 3"),
    ({"dataset": ["/etc"]}, "dataset must be one of"),
    ({"device": "cuda:99"}, "device must be one of"),
    ({"device": ["__import__('os')"]}, "device must be one of"),
    ({"device": 7}, "device must be text, got 7"),
    ({"pretrained": "maybe"}, "pretrained must be true or false"),
    ({"members": 33}, "members must be between 1 and 32, got 33"),
    ({"members": 1.5}, "members must be a whole number"),
    ({"seed": -1}, "seed must be between 0 and"),
    ({"seed": 2**40}, "seed must be between 0 and"),
    ({"patch_size": "7x7x7"}, "patch_size must be multiples of"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_a_training_takes_no_other_option(trainer, options, words):
    with pytest.raises(ValueError, match="^" + words.replace("(", r"\(")):
        trainer.checked(options)


def test_a_scoring_takes_the_device_only():
    assert scoring_options({"device": "cpu"}) == {"device": "cpu"}
    assert scoring_options({"device": [""]}) == {}
    for options in ({"bundle_path": "/x"}, {"device": "tpu"}, {"passes": 3}):
        with pytest.raises(ValueError, match=next(iter(options))):
            scoring_options(options)


def test_an_inference_keeps_what_it_knows_and_drops_the_rest():
    sent = {
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": "false",
        "label": "/etc/passwd",
        "bundle_path": "/tmp/x",
        "session": {"a": 1},
        "roi_size": "boom",
        "network": "x",
        "client_id": "ann",
        "device": ["cpu"],
        "timeout": 0,
        "logging": "info",
    }
    kept = inference_options(sent, TAGS)
    assert kept == {
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
        "client_id": "ann",
        "device": "cpu",
        "logging": "info",
    }


ODD = [
    ("result_extension", ".py"),
    ("result_extension", "../../x"),
    ("result_extension", [".nrrd"]),
    ("result_extension", 5),
    ("result_dtype", "object"),
    ("result_dtype", "S9"),
    ("result_dtype", {"a": 1}),
    ("device", "cuda:99"),
    ("device", {"a": 1}),
    ("device", True),
    ("timeout", "soon"),
    ("timeout", -1),
    ("timeout", 1e9),
    ("timeout", float("inf")),
    ("timeout", [3]),
    ("logging", "loud"),
    ("logging", 10),
    ("model", 3),
    ("model", ["a"]),
    ("image", {"a": 1}),
    ("label_tag", "final"),
    ("label_tag", "pseudo"),
    ("label_tag", "../x"),
    ("label_tag", 1),
    ("skip_writer", True),
    ("skip_writer", "yes"),
    ("save_label", "perhaps"),
    ("result_compress", 7),
]


@pytest.mark.parametrize(("name", "value"), ODD)
def test_an_odd_value_of_an_inference_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}"):
        inference_options({name: value}, TAGS)


def test_a_batch_inference_does_not_choose_where_results_go():
    assert batch_options({"label_tag": "draft", "save_label": False, "max_batch_size": "3", "image": "x"}, TAGS) == {
        "max_batch_size": 3
    }
    with pytest.raises(ValueError, match="max_batch_size must be between"):
        batch_options({"max_batch_size": -1}, TAGS)
