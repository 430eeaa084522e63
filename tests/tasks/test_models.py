"""Checkpoints: content-addressed, published by one row, pruned, read without running code."""

import pickle

import pytest
import torch

from tasks.models import Checkpoint, read_checkpoint
from tasks.segmentation.models import BOOTSTRAP, SINGLE
from tasks.segmentation.networks import Architecture, SplitUNet

ARCHITECTURE = Architecture(1, 2, levels=2, first_features=4, norm="instance")
SETTINGS = {"spacing": 0.0, "roi_size": "16x16x16", "overlap": 0.25}


def checkpoint(seed: int) -> Checkpoint:
    torch.manual_seed(seed)
    return Checkpoint(ARCHITECTURE, [SplitUNet(ARCHITECTURE).state_dict()], SETTINGS, ["tumor"])


def test_what_is_published_is_what_is_loaded(registry):
    published = checkpoint(0)
    version = registry.publish(SINGLE, published, 7, {"best_metric": 0.5})
    loaded = registry.load(SINGLE)
    assert (loaded.architecture, loaded.preprocessing, loaded.labels) == (ARCHITECTURE, SETTINGS, ["tumor"])
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(published.networks()[0](x), loaded.networks()[0](x))
    row = registry.store.current_model(SINGLE)
    assert (row.version, row.labelled_count) == (version, 7)
    assert registry.path(SINGLE).name == f"segmentation-{version}.pt"


def test_the_version_is_a_hash_of_the_content(registry):
    first, again, other = (registry.publish(SINGLE, checkpoint(seed), 1, {}) for seed in (0, 0, 1))
    assert first == again != other
    assert registry.store.current_model(SINGLE).version == other


def test_a_kill_before_the_row_leaves_the_old_model(registry, monkeypatch):
    old = registry.publish(SINGLE, checkpoint(0), 1, {})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry.store, "add_model", killed)
    with pytest.raises(KeyboardInterrupt):
        registry.publish(SINGLE, checkpoint(1), 2, {})
    assert registry.store.current_model(SINGLE).version == old
    assert registry.load(SINGLE) is not None


def test_old_checkpoints_go_and_the_current_one_of_every_name_stays(registry):
    registry.publish(BOOTSTRAP, checkpoint(9), 1, {})
    for seed in range(5):
        registry.publish(SINGLE, checkpoint(seed), 1, {})
    files = {path.name for path in registry.folder.iterdir()}
    assert len(files) == 4
    assert {registry.path(SINGLE).name, registry.path(BOOTSTRAP).name} <= files


def test_nothing_published_or_a_lost_file_is_no_model(registry):
    assert (registry.path(SINGLE), registry.load(SINGLE), registry.scoring_version()) == (None, None, "")
    registry.publish(SINGLE, checkpoint(0), 1, {})
    registry.path(SINGLE).unlink()
    assert registry.load(SINGLE) is None


def test_a_committee_changes_the_version_that_scores_belong_to(registry):
    single = registry.publish(SINGLE, checkpoint(0), 1, {})
    assert registry.scoring_version() == single
    committee = registry.publish(BOOTSTRAP, checkpoint(1), 1, {})
    assert registry.scoring_version() == f"{single}+{committee}"


def test_a_checkpoint_cannot_carry_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"architecture": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError):
        read_checkpoint(tmp_path / "evil.pt", Architecture)
