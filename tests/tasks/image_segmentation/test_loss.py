"""Every image counts with its weight."""

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from tasks.image_segmentation.loss import LOSSES, WeightedLoss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 8, 8, generator=generator)
    return logits, torch.randint(0, 3, (3, 1, 8, 8), generator=generator).float()


@pytest.mark.parametrize("kind", LOSSES)
def test_weights_of_one_give_the_usual_loss(kind, batch):
    logits, label = batch
    options = {"include_background": False, "to_onehot_y": True, "softmax": True}
    expected = {
        "dice": DiceLoss(**options),
        "cross_entropy": lambda a, b: torch.nn.functional.cross_entropy(a, b[:, 0].long()),
        "dice_cross_entropy": DiceCELoss(**options),
    }[kind](logits, label)
    assert WeightedLoss(kind)(logits, (label, torch.ones(3))).item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_is_linear_in_the_weights(kind, batch):
    logits, label = batch
    loss = WeightedLoss(kind)
    single = [loss(logits, (label, torch.eye(3)[i])).item() for i in range(3)]
    weights = torch.tensor([1.0, 0.25, 0.0])
    expected = sum(float(w) * value for w, value in zip(weights, single, strict=True))
    assert loss(logits, (label, weights)).item() == pytest.approx(expected, rel=1e-5)
    assert loss(logits, (label, torch.zeros(3))).item() == 0


def test_an_image_of_weight_0_gives_no_gradient(batch):
    logits, label = batch
    logits.requires_grad_()
    WeightedLoss("dice_cross_entropy")(logits, (label, torch.tensor([1.0, 0.0, 1.0]))).backward()
    assert logits.grad[1].abs().max() == 0
    assert logits.grad[0].abs().max() > 0
