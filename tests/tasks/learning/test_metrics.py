"""Metrics and statistics of a simulation."""

import numpy as np
import pytest
import torch
from scipy import stats

from tasks.learning import metrics as e


def test_dice_and_hausdorff_distance_per_class():
    label, prediction = torch.zeros(10, 10, 10), torch.zeros(10, 10, 10)
    label[2:6, 2:6, 2:6] = 1
    prediction[2:6, 2:6, 4:8] = 1
    label[8, 8, 8] = 2
    dice, hd95 = e.segmentation_metrics(prediction, label, 3, (1, 1, 2.5))
    assert dice.tolist() == pytest.approx([0.5, 0])
    assert np.isnan(hd95[1])
    assert 2.5 <= hd95[0] <= 5


def test_hausdorff_distance_is_in_mm():
    label, prediction = torch.zeros(10, 10, 10), torch.zeros(10, 10, 10)
    label[2, 2, 2] = prediction[2, 2, 4] = 1
    assert e.segmentation_metrics(prediction, label, 2, (1, 1, 2.5))[1].tolist() == pytest.approx([5.0])


def test_area_under_a_curve_is_its_mean_height():
    assert e.area_under_curve([5, 10, 20], [0.2, 0.4, 0.6]) == pytest.approx((0.3 * 5 + 0.5 * 10) / 15)
    assert e.area_under_curve([5], [0.3]) == pytest.approx(0.3)


def test_the_bound_is_twice_where_the_full_model_is_equivalent_to_itself():
    full = np.random.default_rng(0).normal(0.7, 0.2, 40)
    half = e.equivalence_bound(full) / 2
    assert stats.ttest_ind(full + half, full, alternative="greater").pvalue == pytest.approx(0.05, abs=1e-6)


def test_equivalence():
    full = np.random.default_rng(0).normal(0.7, 0.1, 60)
    assert e.equivalent(full + 0.001, full)
    assert not e.equivalent(full - 0.1, full)
    assert not e.equivalent(full + 0.1, full)


def test_labels_needed_is_the_first_equivalent_point():
    full = np.random.default_rng(0).normal(0.7, 0.1, 60)
    curve = {20: full - 0.001, 5: full - 0.4, 10: full - 0.2}
    assert e.labels_needed(curve, full) == 20
    assert e.labels_needed({5: full - 0.4}, full) is None


def test_first_reaching():
    assert e.first_reaching([5, 10, 15], [0.2, 0.5, 0.4], 0.4) == 10
    assert e.first_reaching([5], [0.2], 0.4) is None


def test_holm():
    assert e.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert e.holm([0.6, 0.9]) == [1.0, 1.0]


def test_paired_comparison():
    rows = e.compare_to_baseline([0.5, 0.6, 0.7], {"a": [0.52, 0.63, 0.72], "b": [0.5, 0.59, 0.71]})
    assert rows["a"]["difference"] == pytest.approx(0.07 / 3)
    assert rows["a"]["p"] == pytest.approx(stats.ttest_rel([0.52, 0.63, 0.72], [0.5, 0.6, 0.7]).pvalue)
    assert rows["a"]["p_holm"] == pytest.approx(2 * rows["a"]["p"])


def test_classification_metrics_of_two_classes():
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    metrics = e.classification_metrics(probs, torch.tensor([0, 1, 0, 1]))
    assert metrics["auc"] == 1.0
    assert metrics["accuracy"] == 0.75
    assert metrics["precision"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["cross_entropy"] == pytest.approx(-np.log([0.9, 0.4, 0.7, 0.8]).mean(), abs=1e-6)


def test_auc_of_more_classes_is_the_mean_of_one_against_the_rest():
    rng = np.random.default_rng(0)
    probs = torch.from_numpy(rng.dirichlet(np.ones(3), 60))
    classes = torch.from_numpy(rng.integers(0, 3, 60))
    areas = []
    for index in range(3):
        positive, negative = probs[classes == index, index], probs[classes != index, index]
        pairs = (positive[:, None] > negative[None]).double() + 0.5 * (positive[:, None] == negative[None]).double()
        areas.append(float(pairs.mean()))
    assert e.classification_metrics(probs, classes)["auc"] == pytest.approx(np.mean(areas))
    without = classes.clone()
    without[without == 2] = 0
    assert np.isfinite(e.classification_metrics(probs, without)["auc"])
    assert np.isnan(e.classification_metrics(probs, torch.zeros(60))["auc"])


def test_a_class_never_predicted_has_no_precision():
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    assert e.classification_metrics(probs, torch.tensor([0, 1]))["precision"] == 0.25


def test_without_a_finding_dice_is_left_out_or_says_whether_anything_was_found():
    empty, something = torch.zeros(6, 6), torch.zeros(6, 6)
    something[2:4, 2:4] = 1
    assert np.isnan(e.dice_per_label(something, empty, 2)[0])
    assert e.dice_per_label(empty, empty, 2, ignore_empty=False)[0] == 1
    assert e.dice_per_label(something, empty, 2, ignore_empty=False)[0] == 0
    assert e.dice_per_label(something, something, 2, ignore_empty=False)[0] == 1
