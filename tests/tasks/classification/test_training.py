"""Classifier trainers: the split, the members, what is published and what is refused."""

import json
import pickle
import types
from pathlib import Path

import pytest
import torch
import torchvision

from tasks.classification.datastore import GradedFolder
from tasks.classification.models import CLASSIFIER, COMMITTEE
from tasks.classification.presets import PRESETS
from tasks.classification.training import ClassifierTrainTask
from tasks.common.files import ImageError
from tasks.learning.groups import Grouping
from tasks.learning.training import MembersTrainTask, TrainingError
from tasks.rounds.rounds import Rounds
from tasks.store.label_names import LabelNames
from tests.tasks.classification.conftest import CLASSES, QUICK
from tests.tiny import sync_images, take_label

RATES = {**QUICK, "learning_rates": "0.01,0.001,0.0001"}


def trainer(registry, committee: bool = False, classes=CLASSES, **options) -> ClassifierTrainTask:
    name = COMMITTEE if committee else CLASSIFIER
    return ClassifierTrainTask(name, "test", registry, PRESETS["small"], classes, committee=committee, **options)


def test_the_papers_presets():
    paper, pcdal = PRESETS["paper"], PRESETS["pcdal"]
    assert (paper.network, paper.image_size, paper.optimizer, paper.momentum) == ("alexnet", 224, "sgd", 0.8)
    assert (paper.weight_decay, paper.train_batch_size, paper.max_epochs) == (1e-4, 16, 30)
    assert paper.member_learning_rates == [1e-3, 5e-4, 1e-4]
    assert (pcdal.network, pcdal.image_size, pcdal.optimizer) == ("resnet34", 512, "adamw")
    assert (pcdal.learning_rate, pcdal.train_batch_size) == (1e-4, 16)


def test_a_single_classifier_is_published_with_its_statistics(registry, datastore):
    stats = trainer(registry)(dict(QUICK), datastore)
    assert (stats["epoch"], stats["total_epochs"], stats["labelled"], stats["members"]) == (2, 2, 12, 1)
    assert {"auc", "accuracy", "precision", "best_metric", "loss"} <= set(stats)
    assert stats["start"] == "random weights"
    assert stats["failed_members"] == {}
    checkpoint = registry.load(CLASSIFIER)
    assert checkpoint.labels == list(CLASSES)
    assert checkpoint.preprocessing == {"image_size": 32}
    assert json.loads((registry.folder / CLASSIFIER / "train_stats.json").read_text()) == stats


def test_a_committee_has_a_member_per_learning_rate_from_the_same_start(registry, datastore, monkeypatch):
    starts, rates = [], []
    original = ClassifierTrainTask.optimizer

    def optimizer(self, context):
        starts.append([p.detach().clone() for p in context.network.parameters()])
        made = original(self, context)
        rates.append(made.param_groups[0]["lr"])
        return made

    monkeypatch.setattr(ClassifierTrainTask, "optimizer", optimizer)
    stats = trainer(registry, committee=True)(dict(RATES), datastore)
    assert stats["members"] == 3
    assert rates == [0.01, 0.001, 0.0001]
    assert all(torch.equal(a, b) for other in starts[1:] for a, b in zip(starts[0], other, strict=True))
    members = registry.load(COMMITTEE).members
    assert len(members) == 3
    assert not torch.equal(members[0]["output.weight"], members[2]["output.weight"])


def test_a_failed_member_is_reported_and_the_others_stay(registry, datastore, monkeypatch):
    original = MembersTrainTask._train_member

    def fail_second(self, options, datastore):
        if options["member"] == 1:
            raise RuntimeError("out of luck")
        return original(self, options, datastore)

    monkeypatch.setattr(MembersTrainTask, "_train_member", fail_second)
    stats = trainer(registry, committee=True)(dict(RATES), datastore)
    assert stats["failed_members"] == {"2": "out of luck"}
    assert len(registry.load(COMMITTEE).members) == 2


def test_a_diverged_member_is_left_out_and_a_training_without_members_fails(registry, datastore):
    diverging = {**QUICK, "optimizer": "sgd", "momentum": 0.99, "iterations_per_epoch": 30, "augmentation": False}
    stats = trainer(registry, committee=True)({**diverging, "learning_rates": "0.001,10"}, datastore)
    task = trainer(registry, committee=True)
    if not stats["failed_members"]:
        pytest.skip("a learning rate of 10 did not diverge here")
    assert "not finite" in stats["failed_members"]["2"]
    before = registry.store.current_model(COMMITTEE).version
    with pytest.raises(RuntimeError, match="not finite"):
        task({**diverging, "learning_rates": "10", "iterations_per_epoch": 80}, datastore)
    assert registry.store.current_model(COMMITTEE).version == before


def test_slices_of_a_patient_are_never_on_both_sides(registry, datastore):
    task = trainer(registry, grouping=Grouping(pattern=r"^(p\d+)"))
    items = task.gather(datastore, PRESETS["small"], 0)[0]
    for item in items:
        task.check_item(item)
    for seed in range(20):
        request = {"seed": seed, "member": 0, "members": 1}
        training, validation = task.partition_datalist(types.SimpleNamespace(datalist=items, request=request))
        assert validation
        patients = [{item["id"][:-2] for item in part} for part in (training, validation)]
        assert not patients[0] & patients[1]
        assert {item["label"] for item in training} == {0, 1}


def test_the_patient_is_found_by_the_image_s_name_not_by_that_of_the_file_a_link_leads_to(registry, tmp_path, truth):
    studies = tmp_path / "studies"
    for number, name in enumerate(truth):
        (studies / f"{name}.png").rename(tmp_path / f"raw{number}.png")
        (studies / f"{name}.png").symlink_to(tmp_path / f"raw{number}.png")
    datastore = GradedFolder(str(studies), classes=CLASSES)
    for name, label in truth.items():
        datastore.save_class(name, label, "final", {})
    items = trainer(registry, grouping=Grouping(pattern=r"^(p\d+)")).gather(datastore, PRESETS["small"], 0)[0]
    assert {item["id"] for item in items} == set(truth)
    assert len({item["group"] for item in items}) == 8


def test_a_rare_class_counts_more(registry):
    context = types.SimpleNamespace(train_datalist=[{"label": n} for n in (0, 0, 0, 1)], device="cpu")
    weights = trainer(registry).loss_function(context).weight
    assert weights.tolist() == pytest.approx([4 / 6, 2.0])
    only = types.SimpleNamespace(train_datalist=[{"label": 1}], device="cpu")
    assert trainer(registry).loss_function(only).weight.tolist() == [0, 1]


def test_of_equal_auc_the_smaller_cross_entropy_is_better(registry):
    task = trainer(registry)
    judged = [task.judge({"auc": auc, "cross_entropy": ce}) for auc, ce in ((1.0, 0.5), (1.0, 0.2), (0.9, 0.1))]
    assert max(judged) == judged[1]
    assert task.judge({"auc": float("nan"), "cross_entropy": 0.3}) > task.judge(
        {"auc": float("nan"), "cross_entropy": 0.4}
    )
    assert task.report({"auc": float("nan"), "accuracy": 0.5, "precision": 0.25})["auc"] is None


def test_one_class_only_is_no_training(registry, datastore, truth):
    for name, label in list(truth.items())[:12]:
        if label == "disc":
            datastore.remove_label(name, "final")
    with pytest.raises(TrainingError, match="labelled images are 'clear': training needs two classes"):
        trainer(registry)(dict(QUICK), datastore)


def test_unusable_images_and_labels_are_named(registry, datastore, tmp_path):
    label = Path(datastore.get_label_uri("p0_0", "final"))
    label.write_text('{"label": "ring"}')
    with pytest.raises(ImageError, match=r"p0_0\.json has the class 'ring'"):
        trainer(registry)(dict(QUICK), datastore)
    label.write_text('{"label": "disc"}')
    Path(datastore.get_image_uri("p1_0")).write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"p1_0\.png cannot be read"):
        trainer(registry)(dict(QUICK), datastore)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("learning_rates", "0.1,x", "learning_rates must be numbers with commas, got '0.1,x'"),
        ("learning_rates", "0.1,100", "learning_rates must be between"),
        ("network", "vgg", "network must be one of alexnet, resnet34, small"),
        ("image_size", "16", "image_size must be between 32 and 2048"),
        ("network", "resnet34", "image_size must be at least 64 for resnet34, got 32"),
    ],
)
def test_wrong_options_stop_before_training(registry, datastore, option, value, words):
    with pytest.raises(TrainingError, match=words):
        trainer(registry, committee=True)({**QUICK, option: value}, datastore)


@pytest.mark.parametrize("network", ["alexnet", "resnet34"])
def test_the_published_networks_train_and_say_what_they_start_from(registry, datastore, tmp_path, network):
    torch.manual_seed(0)
    torch.save(getattr(torchvision.models, network)(weights=None).state_dict(), tmp_path / "weights.pth")
    task = trainer(registry, weights=str(tmp_path / "weights.pth"))
    options = {"network": network, "imagenet": True, "image_size": 64, "max_epochs": 1, "iterations_per_epoch": 1}
    stats = task({**options, "val_interval": 1}, datastore)
    assert stats["start"] == "weights of weights.pth"
    assert registry.load(CLASSIFIER).architecture.network == network


def test_a_trainer_can_be_sent_to_the_processes_of_several_gpus(registry, datastore):
    task = pickle.loads(pickle.dumps(trainer(registry, grouping=Grouping(pattern="^p"))))
    assert task.registry.store.current_model(CLASSIFIER) is None
    task.registry.store.close()


def test_viewers_see_the_options_that_count(registry):
    single, committee = trainer(registry).config(), trainer(registry, committee=True).config()
    assert single["learning_rate"] == 3e-3
    assert "learning_rates" not in single
    assert committee["learning_rates"] == "0.003,0.0015,0.0005"
    assert "learning_rate" not in committee


def test_grades_of_before_a_class_was_added_say_nothing_about_it(registry, datastore, truth, monkeypatch):
    """Their loss does not depend on the new class's output; they do not validate."""
    names, store, classes = LabelNames(registry.store), registry.store, (*CLASSES, "ring")
    names.declare(CLASSES, first_value=0)
    sync_images(store, {name: now.label is not None for name, now in datastore.images_now().items()})
    names.declare(classes, first_value=0, add=True)
    stats = trainer(registry, classes=classes)(dict(QUICK), datastore)
    assert registry.load(CLASSIFIER).labels == list(CLASSES)
    assert stats["partial_labels"] == 0

    old, new = list(truth)[:8], list(truth)[8:12]
    for image_id in new:
        take_label(Rounds(store, 4), image_id, "ann")
    task = trainer(registry, classes=classes)
    seen = []
    loss_function = task.loss_function

    class Spy(torch.nn.Module):
        def __init__(self, loss) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, logits, label):
            seen.extend(logits.detach().softmax(1)[:, 2].tolist())
            return self.loss(logits, label)

    monkeypatch.setattr(task, "loss_function", lambda context: Spy(loss_function(context)))
    stats = task({**QUICK, "iterations_per_epoch": 6}, datastore)
    assert registry.load(CLASSIFIER).labels == list(classes)
    assert stats["partial_labels"] == len(old)
    assert min(seen) == 0 < max(seen)
    items = task.gather(datastore, PRESETS["small"], 0)[0]
    assert {item["id"] for item in items if item["known"] == 2} == set(old)
