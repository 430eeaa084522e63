"""A label that does not know a class neither teaches nor punishes it."""

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional

from tasks.learning.partial_labels import KnownClassesLoss, known_logits


def logits(batch: int = 2, classes: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, classes, 3, 3, generator=generator, requires_grad=True)


def test_unknown_classes_count_as_background():
    values = logits()
    probabilities = known_logits(values, torch.tensor([2, 4]), background=True).softmax(1)
    expected = values.softmax(1)
    torch.testing.assert_close(probabilities[1], expected[1])
    torch.testing.assert_close(probabilities[0, 0], expected[0, [0, 2, 3]].sum(0))
    torch.testing.assert_close(probabilities[0, 1], expected[0, 1])
    assert not probabilities[0, 2:].any()


def test_without_background_the_known_classes_share_the_probability():
    values = logits()
    probabilities = known_logits(values, torch.tensor([3, 3]), background=False).softmax(1)
    torch.testing.assert_close(probabilities[:, :3], values[:, :3].softmax(1))
    assert not probabilities[:, 3].any()


def test_class_vectors_work_like_maps():
    values = torch.randn(2, 3)
    loss = KnownClassesLoss(torch.nn.CrossEntropyLoss(), background=False)
    found = loss(values, (torch.tensor([0, 1]), torch.tensor([2, 2])))
    torch.testing.assert_close(found, functional.cross_entropy(values[:, :2], torch.tensor([0, 1])))


def test_labels_that_know_everything_change_nothing():
    values = logits()
    assert known_logits(values, torch.tensor([4, 4]), background=True) is values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_background_split_among_unknown_classes_makes_no_difference_to_the_loss(dtype):
    """Whether a voxel is background or of a class that the label does not know: the loss must not tell."""
    loss = KnownClassesLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True), background=True)
    label = torch.zeros(1, 1, 4, 4)
    label[..., 1] = 1
    values = torch.zeros(1, 3, 4, 4, dtype=dtype)
    values[:, 1, :, 1] = 8
    results = []
    for unknown in (-8.0, 8.0):
        shifted = values.clone()
        shifted[:, 2, :, 2:] = unknown
        shifted[:, 0, :, 2:] = -unknown
        results.append(float(loss(shifted, (label, torch.tensor([2])))))
    assert results[0] == pytest.approx(results[1], abs=1e-3)


def test_its_gradient_does_not_push_background_and_unknown_class_apart():
    values = logits(1, 3)
    label = torch.zeros(1, 1, 3, 3)
    KnownClassesLoss(DiceCELoss(to_onehot_y=True, softmax=True), background=True)(
        values, (label, torch.tensor([2]))
    ).backward()
    probabilities = values.detach().softmax(1)
    # Both move together: in proportion to their probabilities.
    torch.testing.assert_close(
        values.grad[:, 0] * probabilities[:, 2], values.grad[:, 2] * probabilities[:, 0], atol=1e-6, rtol=1e-4
    )
    assert values.grad.isfinite().all()
