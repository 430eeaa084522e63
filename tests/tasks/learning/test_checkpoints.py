"""Checkpoints: content-addressed, published by one row, pruned, read without running code."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from tasks.learning.checkpoints import Checkpoint, ModelRegistry, read_checkpoint
from tasks.segmentation.models import BOOTSTRAP, SINGLE, segmentation_models
from tasks.segmentation.networks import Architecture, SplitUNet
from tasks.store.tables import Training, now
from tests.tiny import change_images, sync_images

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


@pytest.mark.parametrize("place", ["os.fsync", "Path.replace", "add_model", "Path.unlink"])
def test_a_kill_anywhere_in_publishing_leaves_a_good_model_and_the_next_publishing_mends_the_rest(
    registry, monkeypatch, place
):
    versions = [registry.publish(SINGLE, checkpoint(seed), 1, {}) for seed in range(3)]

    def killed(*_, **__):
        raise KeyboardInterrupt

    owner = {"os.fsync": os, "add_model": registry.store}.get(place, Path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, place.split(".")[-1], killed)
        with pytest.raises(KeyboardInterrupt):
            registry.publish(SINGLE, checkpoint(3), 2, {})
    published = place == "Path.unlink"  # the row was there before the oldest file was to go
    assert (registry.current(SINGLE).version == versions[-1]) != published
    assert (registry.load(SINGLE) is not None, registry.problems()) == (True, {})
    version = registry.publish(SINGLE, checkpoint(3), 2, {})
    registry.publish(SINGLE, checkpoint(4), 2, {})
    assert registry.store.models(SINGLE)[1].version == version
    assert len(list(registry.folder.glob("*.pt"))) == 3


def test_old_checkpoints_go_and_the_current_one_of_every_name_stays(registry):
    registry.publish(BOOTSTRAP, checkpoint(9), 1, {})
    for seed in range(5):
        registry.publish(SINGLE, checkpoint(seed), 1, {})
    files = {path.name for path in registry.folder.iterdir()}
    assert len(files) == 4
    assert {registry.path(SINGLE).name, registry.path(BOOTSTRAP).name} <= files


def test_nothing_published_is_no_model(registry):
    assert (registry.path(SINGLE), registry.load(SINGLE), registry.scoring_version()) == (None, None, "")
    assert registry.problems() == {}


def test_the_same_result_again_publishes_nothing_and_its_file_stays(registry, caplog):
    caplog.set_level("INFO")
    for _ in range(5):
        version = registry.publish(SINGLE, checkpoint(0), 1, {})
    assert len(registry.store.models(SINGLE)) == 1
    assert registry.load(SINGLE) is not None
    assert caplog.text.count(f"{SINGLE} {version} is unchanged: nothing new is published") == 4


def test_a_file_that_a_kept_row_names_is_never_removed(registry):
    for seed in (0, 1, 0, 2, 0, 1, 3, 0):
        registry.publish(SINGLE, checkpoint(seed), 1, {})
        registry.publish(BOOTSTRAP, checkpoint(seed), 1, {})
        kept = {row.path for row in registry.store.models(SINGLE)[:3]}
        assert all((registry.folder / name).is_file() for name in kept)
        assert registry.problems() == {}
    assert len(list(registry.folder.glob(f"{SINGLE}-*.pt"))) == 3


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "words"), [(Path.unlink, "is gone"), (truncate, "is damaged"), (flip_a_bit, "is damaged")]
)
def test_a_checkpoint_that_is_gone_or_damaged_is_told_and_the_one_before_serves(registry, harm, words, caplog):
    old, new = (registry.publish(SINGLE, checkpoint(seed), 1, {}) for seed in (0, 1))
    harm(registry.path(SINGLE))
    assert registry.current(SINGLE).version == registry.scoring_version() == old
    assert torch.equal(registry.load(SINGLE).members[0]["projection.bias"], checkpoint(0).members[0]["projection.bias"])
    ((name, problem),) = registry.problems().items()
    assert name == f"{SINGLE}-{new}.pt"
    assert problem.startswith(words)
    assert caplog.text.count(words) == 1
    assert registry.publish(SINGLE, checkpoint(1), 1, {}) == new  # trained again with the same result
    assert (registry.current(SINGLE).version, registry.problems()) == (new, {})
    assert len(registry.store.models(SINGLE)) == 2


def test_a_checkpoint_is_read_once_and_again_when_its_file_changes(registry, monkeypatch):
    registry.publish(SINGLE, checkpoint(0), 1, {})
    path = registry.path(SINGLE)
    opened = []
    read = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self) or read(self, *a, **k))
    for _ in range(5):
        assert registry.path(SINGLE) == path
    assert opened == []
    os.utime(path, ns=(1, 1))
    for _ in range(5):
        assert registry.path(SINGLE) == path
    assert opened == [path]


def test_a_checkpoint_of_other_labels_does_not_serve_and_one_of_the_first_labels_does(registry, tmp_path):
    registry.publish(SINGLE, checkpoint(0), 1, {})

    def declared(*labels: str) -> ModelRegistry:
        return segmentation_models(registry.folder, registry.store, labels=labels)

    assert declared("tumor").load(SINGLE) is not None
    assert declared("tumor", "edema").load(SINGLE) is not None
    for labels in (("edema", "tumor"), ("tumour",)):
        assert declared(*labels).load(SINGLE) is None
        assert "was trained for the labels tumor; declared are" in str(declared(*labels).problems())


def test_few_of_the_checkpoints_deleted_by_hand_are_kept(registry):
    for seed in range(6):
        registry.publish(SINGLE, checkpoint(seed), 1, {})
        path = registry.path(SINGLE)
        path.rename(f"{path}.2026010{seed + 1}_000000.deleted")
    registry.tidy()
    kept = sorted(file.name.split(".")[-2] for file in registry.folder.glob("*.deleted"))
    assert kept == ["20260104_000000", "20260105_000000", "20260106_000000"]


def test_what_a_killed_publishing_left_goes_but_not_what_is_being_written(registry):
    registry.publish(SINGLE, checkpoint(0), 1, {})
    old, new = registry.folder / f"{SINGLE}-a.tmp", registry.folder / f"{SINGLE}-b.tmp"
    for part in (old, new):
        part.write_bytes(b"part")
    os.utime(old, (1, 1))
    registry.publish(SINGLE, checkpoint(1), 1, {})
    assert (old.exists(), new.exists()) == (False, True)


def test_a_committee_that_has_seen_fewer_labels_than_the_single_model_is_not_scored_with_it(registry):
    store = registry.store
    sync_images(store, dict.fromkeys("abc", False))
    change_images(store, {"a": True})
    single, committee = (registry.publish(name, checkpoint(0), 1, {}, run(store, name)) for name in (SINGLE, BOOTSTRAP))
    assert registry.scoring_version() == f"{single}+{committee}"
    change_images(store, {"b": True})
    newer = registry.publish(SINGLE, checkpoint(1), 2, {}, run(store, SINGLE))
    assert (registry.scoring_version(), registry.outdated()) == (newer, [BOOTSTRAP])
    registry.publish(BOOTSTRAP, checkpoint(0), 2, {}, run(store, BOOTSTRAP))  # unchanged, but it has seen them now
    assert (registry.scoring_version(), registry.outdated()) == (f"{newer}+{committee}", [])


def run(store, name: str) -> Training:
    return Training(name=name, started_at=now(), finished_at=now(), label_revision=store.label_revision())


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


def test_a_checkpoint_that_is_given_up_is_told_and_is_looked_at_again_when_it_changes(registry):
    old, new = (registry.publish(SINGLE, checkpoint(seed), 1, {}) for seed in (0, 1))
    registry.give_up(registry.current(SINGLE), "cannot be used: it has no members")
    assert registry.problems() == {f"{SINGLE}-{new}.pt": "cannot be used: it has no members"}
    assert registry.current(SINGLE).version == old
    os.utime(registry.folder / f"{SINGLE}-{new}.pt", ns=(1, 1))
    assert (registry.current(SINGLE).version, registry.problems()) == (new, {})
