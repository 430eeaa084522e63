"""The scoring pass over images, and inference."""

import numpy as np
import pytest
import torch

from strategies import acquisition
from tasks.classification.inference import ClassifierInferTask
from tasks.classification.models import CLASSIFIER, COMMITTEE
from tasks.classification.networks import ClassifierArchitecture
from tasks.classification.scoring import COMMITTEE_SCORES, SCORES, ImageScorer, ScoreImages
from tasks.learning.checkpoints import Checkpoint
from tests.tasks.classification.conftest import CLASSES

X = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))


def networks(count: int, dropout: float = 0.5):
    built = []
    for seed in range(count):
        torch.manual_seed(seed)
        built.append(ClassifierArchitecture("small", 2, dropout, first_features=2).build().eval())
    return built


def publish(registry, name: str, count: int) -> str:
    members = networks(count)
    states = [member.state_dict() for member in members]
    checkpoint = Checkpoint(members[0].architecture, states, {"image_size": 32}, list(CLASSES))
    return registry.publish(name, checkpoint, 12, {})


def test_committee_scores_are_those_of_the_acquisition_functions():
    members = networks(3)
    result = ImageScorer(members, CLASSES)("a", X)
    views = torch.stack([X, X.flip(2), X.flip(1), X.flip(1, 2)])
    with torch.inference_mode():
        probs = torch.stack([member(views).double().softmax(1) for member in members])
    expected = {
        "entropy_kl": acquisition.entropy_kl(probs[:, 0]),
        "predictive_entropy": acquisition.predictive_entropy(probs[:, 0]),
        "bald": acquisition.bald(probs[:, 0]),
        "least_confidence": acquisition.least_confidence(probs.mean(0)[0]),
        "margin": acquisition.margin(probs.mean(0)[0]),
        "flip_consistency": acquisition.flip_consistency(probs.mean(0)),
    }
    assert set(result.scores) == set(expected) == {*SCORES, *COMMITTEE_SCORES}
    for name, value in expected.items():
        assert result.scores[name] == pytest.approx(float(value), rel=1e-6), name
    assert list(result.class_entropies) == list(CLASSES)
    assert sum(result.class_entropies.values()) == pytest.approx(result.scores["predictive_entropy"])
    with torch.inference_mode():
        np.testing.assert_allclose(result.embedding, members[0].embed(X[None])[1][0].numpy(), atol=1e-6)


def test_a_single_model_uses_its_dropout_and_has_no_committee_score():
    (member,) = networks(1)
    result = ImageScorer([member], CLASSES, passes=6)("a", X)
    with torch.inference_mode():
        sampled = member.sample(member.embed(X[None])[0], 6, "0/a").double().softmax(1)
    assert result.scores["bald"] == pytest.approx(float(acquisition.bald(sampled)))
    assert result.scores["predictive_entropy"] == pytest.approx(float(acquisition.predictive_entropy(sampled)))
    assert set(result.scores) == set(SCORES)


def test_without_committee_and_dropout_there_is_no_bald():
    result = ImageScorer(networks(1, dropout=0.0), CLASSES)("a", X)
    assert set(result.scores) == set(SCORES) - {"bald"}


def test_a_score_depends_on_the_image_not_on_the_order():
    scorer = ImageScorer(networks(1), CLASSES)
    first = scorer("a", X).scores
    scorer("b", X)
    assert scorer("a", X).scores == first
    assert ImageScorer(networks(1), CLASSES, seed=1)("a", X).scores["bald"] != first["bald"]


def test_the_pool_is_scored_with_whatever_was_trained_last(registry, datastore, store):
    task = ScoreImages(registry, store, passes=4)
    with pytest.raises(ValueError, match="no trained model"):
        task({"device": "cpu"}, datastore)
    committee = publish(registry, COMMITTEE, 3)
    assert task({"device": "cpu"}, datastore) == {"model_version": committee, "scored": 16, "skipped": 0, "failed": 0}
    assert "entropy_kl" in store.records(committee)[0].scores
    single = publish(registry, CLASSIFIER, 1)
    assert task({"device": "cpu"}, datastore)["model_version"] == single
    assert "entropy_kl" not in store.records(single)[0].scores
    assert task({"device": "cpu"}, datastore)["skipped"] == 16


def test_an_unreadable_image_is_an_error_record(registry, datastore, store, tmp_path):
    (tmp_path / "studies" / "p3_0.png").write_bytes(b"no image")
    version = publish(registry, COMMITTEE, 2)
    assert ScoreImages(registry, store)({"device": "cpu"}, datastore)["failed"] == 1
    assert "p3_0.png cannot be read" in store.errors(version)["p3_0"]


def test_inference_is_the_mean_of_the_committee(registry, datastore, tmp_path):
    publish(registry, COMMITTEE, 3)
    task = ClassifierInferTask(COMMITTEE, "test", registry, CLASSES)
    file, result = task({"image": datastore.get_image_uri("p0_0"), "device": "cpu"})
    assert file is None
    assert list(result["probabilities"]) == list(CLASSES)
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert result["label"] == max(result["probabilities"], key=result["probabilities"].get)
    assert [row["label"] for row in result["prediction"]] == list(CLASSES)
