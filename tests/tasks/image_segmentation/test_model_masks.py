"""Scoring, the model's own labels, and how they come into the datastore and leave it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from strategies.catalogue import CATALOGUE
from tasks.common.files import LabelError
from tasks.image_segmentation.model_masks import PSEUDO, PseudoLabeller, PseudoLabelShelf, mask_file, pseudo_labelled
from tasks.image_segmentation.presets import PRESETS
from tasks.image_segmentation.scoring import ScoreSlices
from tasks.image_segmentation.training import ImageTrainTask
from tasks.rounds.pseudo_labels import PseudoLabels
from tasks.rounds.rounds import Rounds
from tasks.segmentation.models import SINGLE
from tasks.segmentation.records import SCORES
from tests.tasks.image_segmentation.conftest import QUICK, label
from tests.tiny import sync_images, take_label

CEAL = CATALOGUE["ceal"]


class Loop:
    """Trains, scores and settles as the server and its jobs do, over twelve pictures; a batch of 4."""

    def __init__(self, registry, datastore, folder: Path) -> None:
        self.registry, self.datastore, self.folder = registry, datastore, folder
        self.store = registry.store
        self.rounds = Rounds(self.store, batch_size=4)
        self.labels = PseudoLabels(self.store, "ceal")
        self.shelf = PseudoLabelShelf(self.labels, folder, ("lesion",), wanted=True)
        self.sync()

    def sync(self) -> None:
        labelled = set(self.datastore.get_labeled_images())
        sync_images(self.store, {name: name in labelled for name in self.datastore.list_images()})

    def train(self, seed: int = 0) -> dict:
        task = ImageTrainTask(SINGLE, "test", self.registry, PRESETS["small"], ("lesion",))
        return task({**QUICK, "seed": seed}, self.datastore)

    def scoring(self) -> ScoreSlices:
        labeller = PseudoLabeller(self.rounds, CEAL, self.registry, self.folder)
        return ScoreSlices(self.registry, self.store, labeller)

    def score(self) -> dict:
        return self.scoring()({"device": "cpu"}, self.datastore)

    def settle(self) -> dict[str, float]:
        self.shelf.settle(self.datastore)
        return {item["id"]: item["score"] for item in pseudo_labelled(self.datastore)}


@pytest.fixture
def loop(registry, datastore, tmp_path) -> Loop:
    for name in ("p1_02", "p1_03", "p2_04", "p2_05", "p3_06", "p3_07"):
        datastore.remove_label(name, "final")
    return Loop(registry, datastore, tmp_path / "pseudo")


def test_one_pass_scores_every_image_and_labels_what_is_left_to_the_model(loop):
    loop.train()
    result = loop.score()
    assert (result["scored"], result["failed"]) == (12, 0)
    assert result["pseudo_labels"] == {"made": 2, "failed": 0}  # a batch of 4: 2 in the first round
    version = loop.store.serving_version()
    records = {record.image_id: record for record in loop.store.records(version)}
    assert set(records["p0_00"].scores) == set(SCORES)
    assert records["p0_00"].embedding.ndim == 1
    assert list(records["p0_00"].class_entropies) == ["lesion"]
    pseudo = loop.settle()
    assert {name: records[name].scores["variance_sum"] for name in pseudo} == pytest.approx(pseudo)
    for name in pseudo:
        info = loop.datastore.get_label_info(name, PSEUDO)
        assert (info["model_version"], info["round"], info["strategy"]) == (version, 1, "ceal")
        mask = np.asarray(Image.open(loop.datastore.get_label_uri(name, PSEUDO)))
        assert mask.shape == (24, 36)
        assert set(np.unique(mask)) <= {0, 1}
    status = loop.datastore.status()
    assert (status["completed"], status["label_tags"]) == (2, {"final": 2, "pseudo": 2})
    assert len(loop.datastore.datalist()) == 2
    assert loop.store.labelled_count() == 2


def test_scores_do_not_depend_on_the_order_and_a_second_run_skips(loop):
    loop.train()
    loop.score()
    version = loop.store.serving_version()
    before = {record.image_id: record.scores for record in loop.store.records(version)}
    made = loop.labels.current()
    assert loop.score()["skipped"] == 12
    assert loop.labels.current() == made
    prepared = loop.scoring().prepare(torch.device("cpu"))
    again = prepared.score("p3_07", prepared.read(loop.datastore.get_image_uri("p3_07")))
    assert again.scores == pytest.approx(before["p3_07"])


def test_the_next_round_replaces_the_pseudo_labels_and_uses_them_before(loop):
    loop.train()
    loop.score()
    first = loop.settle()
    stats = loop.train(seed=1)
    assert stats["pseudo_labels"]["used"] == len(first) == 2
    assert stats["pseudo_labels"]["scores"] == [min(first.values()), max(first.values())]
    loop.score()
    second = loop.settle()
    assert len(second) == 4
    versions = {loop.datastore.get_label_info(name, PSEUDO)["model_version"] for name in second}
    assert versions == {loop.store.serving_version()}
    files = {path.stem for path in Path(loop.datastore._datastore.label_path(PSEUDO)).glob("*.png")}
    assert files == set(second)


def test_a_person_s_label_takes_the_pseudo_label_away_at_once_and_is_compared(loop, tmp_path):
    loop.train()
    loop.score()
    name = next(iter(loop.settle()))
    truth = np.asarray(Image.open(tmp_path / "oracle" / f"{name}.png"))
    ours = np.asarray(Image.open(mask_file(loop.folder, name)))
    label(loop.datastore, name)
    take_label(loop.rounds, name, "ann")
    assert name not in loop.settle()
    assert PSEUDO not in loop.datastore.get_labels_by_image_id(name)
    assert not (tmp_path / "studies" / "labels" / PSEUDO / f"{name}.png").exists()
    (row,) = loop.labels.summary()
    both = truth.sum() + ours.sum()
    assert row["compared"] == 1
    assert row["dice"] == pytest.approx(2 * (truth * ours).sum() / both if both else 1.0)


def test_a_killed_job_goes_on_where_it_stopped(loop, monkeypatch):
    loop.train()
    made = []

    def die_after_one(folder, mask):
        if made:
            raise KeyboardInterrupt
        made.append(folder)
        return write(folder, mask)

    from tasks.image_segmentation import model_masks as pseudo_labels

    write = pseudo_labels.write_mask
    monkeypatch.setattr(pseudo_labels, "write_mask", die_after_one)
    with pytest.raises(KeyboardInterrupt):
        loop.score()
    monkeypatch.undo()
    assert loop.store.serving_version()  # annotators have their round
    assert len(loop.labels.due()) == 1
    assert loop.settle() == {}  # no half generation
    assert loop.score() | {"model_version": ""} == {
        "model_version": "",
        "scored": 0,
        "skipped": 12,
        "failed": 0,
        "pseudo_labels": {"made": 1, "failed": 0},
    }
    assert len(loop.settle()) == 2


def test_an_image_that_cannot_be_read_any_more_is_left_out(loop):
    loop.train()
    loop.scoring().labeller = None
    ScoreSlices(loop.registry, loop.store)({"device": "cpu"}, loop.datastore)
    loop.rounds.open_scored(CEAL)
    broken, other = (pseudo.image_id for pseudo in loop.labels.due())
    Path(loop.datastore.get_image_uri(broken)).write_bytes(b"nonsense")
    labeller = PseudoLabeller(loop.rounds, CEAL, loop.registry, loop.folder)
    assert labeller(loop.datastore, torch.device("cpu")) == {"made": 1, "failed": 1}
    assert set(loop.settle()) == {other}
    assert loop.labels.summary()[0]["failed"] == 1


def test_a_model_published_in_the_meantime_scores_first(loop):
    loop.train()
    ScoreSlices(loop.registry, loop.store)({"device": "cpu"}, loop.datastore)
    loop.train(seed=1)
    labeller = PseudoLabeller(loop.rounds, CEAL, loop.registry, loop.folder)
    assert labeller(loop.datastore, torch.device("cpu")) == {"made": 0, "failed": 0}
    assert loop.score()["pseudo_labels"]["made"] == 4
    assert len(loop.settle()) == 4


def test_another_strategy_takes_the_pseudo_labels_away(loop):
    loop.train()
    loop.score()
    assert loop.settle()
    PseudoLabelShelf(loop.labels, loop.folder, ("lesion",), wanted=False).settle(loop.datastore)
    assert list(pseudo_labelled(loop.datastore)) == []
    assert loop.settle()


def test_settling_again_writes_nothing(loop, monkeypatch):
    loop.train()
    loop.score()
    loop.settle()
    monkeypatch.setattr(loop.datastore, "set_labels", lambda *_: pytest.fail("wrote although nothing changed"))
    loop.settle()
    mask_file(loop.folder, "p9_99").write_bytes(b"of an image that is not there")
    loop.settle()


def test_after_a_restart_the_index_still_knows_them(loop, tmp_path):
    from tasks.image_segmentation.datastore import MaskFolder

    loop.train()
    loop.score()
    names = set(loop.settle())
    again = MaskFolder(str(tmp_path / "studies"), names=("lesion",), auto_reload=False)
    assert {item["id"] for item in pseudo_labelled(again)} == names
    assert again.status()["completed"] == 2


def test_only_the_model_writes_pseudo_labels_and_masks_must_fit(loop, tmp_path):
    oracle = tmp_path / "oracle" / "p1_02.png"
    with pytest.raises(LabelError, match="tag 'pseudo' is for what the model labels itself"):
        loop.datastore.save_label("p1_02", str(oracle), PSEUDO, {})
    Image.fromarray(np.full((24, 36), 3, np.uint8)).save(tmp_path / "bad.png")
    with pytest.raises(LabelError, match="p1_02: the label contains the values 3; declared are 0 to 1"):
        loop.datastore.save_label("p1_02", str(tmp_path / "bad.png"), "final", {})
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "bad.png")
    with pytest.raises(LabelError, match=r"the label has 3x3 pixels, its image 36x24"):
        loop.datastore.save_label("p1_02", str(tmp_path / "bad.png"), "final", {})
    assert "final" not in loop.datastore.get_labels_by_image_id("p1_02")
