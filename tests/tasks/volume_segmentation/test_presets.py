"""Hyper-parameters: the papers' values, and options from viewers."""

import pytest

from tasks.learning.hyperparameters import default_preset
from tasks.volume_segmentation.presets import PRESETS, voxels


def test_paper_preset_is_kim_et_al():
    paper = PRESETS["paper"]
    architecture = paper.architecture(2, 2)
    assert architecture.first_features * 2 ** (architecture.levels - 1) == 512
    assert (architecture.norm, architecture.activation) == ("group", "relu")
    assert (paper.patch_size, paper.patches_per_image, paper.overlap) == ("128x128x128", 2, 0.75)
    assert (paper.optimizer, paper.learning_rate, paper.weight_decay) == ("sgd", 1e-3, 2e-5)
    assert (paper.schedule, paper.train_batch_size, paper.spacing) == ("cosine_restarts", 1, 1.0)
    assert (paper.max_epochs, paper.early_stop_patience) == (500, 50)


def test_pcdal_preset():
    pcdal = PRESETS["pcdal"]
    assert (pcdal.patch_size, pcdal.train_batch_size, pcdal.learning_rate) == ("96x96x96", 4, 0.1)
    assert (pcdal.optimizer, pcdal.schedule) == ("sgd", "cosine")


def test_the_default_suits_the_machine(monkeypatch):
    for cuda, name in ((True, "paper"), (False, "small")):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        assert default_preset() == name


def test_options_come_as_text_numbers_or_choices():
    options = {
        "max_epochs": "7",
        "learning_rate": "0.5",
        "augmentation": "true",
        "dataset": ["Dataset", "x"],
        "other": 1,
    }
    changed = PRESETS["small"].with_options(options)
    assert (changed.max_epochs, changed.learning_rate, changed.augmentation, changed.dataset) == (
        7,
        0.5,
        True,
        "Dataset",
    )
    assert PRESETS["small"].max_epochs != 7


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_themselves(preset):
    assert PRESETS[preset].with_options({}) == PRESETS[preset]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_epochs", "many"),
        ("max_epochs", 0),
        ("augmentation", "perhaps"),
        ("patch_size", "32x32"),
        ("patch_size", "30x32x32"),
        ("roi_size", "a lot"),
        ("norm", "batch"),
        ("optimizer", "rmsprop"),
        ("schedule", "step"),
        ("overlap", 1.0),
        ("learning_rate", -1),
        ("levels", 1),
        ("levels", 0),
        ("dropout", 1),
    ],
)
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(ValueError, match=option):
        PRESETS["small"].with_options({option: value})


def test_voxels():
    assert voxels("96x96x64", "patch_size") == (96, 96, 64)
    assert voxels("96, 96, 64", "patch_size") == (96, 96, 64)
