"""The split of the network and the sampled head."""

import pytest
import torch

from tasks.segmentation.networks import Architecture, SplitUNet

SMALL = Architecture(in_channels=2, out_channels=3, levels=3, first_features=8, norm="instance", activation="leakyrelu")


@pytest.fixture
def network() -> SplitUNet:
    torch.manual_seed(0)
    return SplitUNet(SMALL).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(1, 2, 16, 12, 8, generator=torch.Generator().manual_seed(1))


def test_features_then_head_is_the_network(network, x):
    features, embedding = network.features(x)
    assert features.shape == (1, 8, 16, 12, 8)
    assert embedding.shape == (1, 32)
    assert torch.equal(network.head(features), network(x))
    assert network(x).shape == (1, 3, 16, 12, 8)


def test_the_paper_has_512_features_at_the_deepest_of_5_levels():
    network = SplitUNet(Architecture(in_channels=2, out_channels=2)).eval()
    with torch.inference_mode():
        features, embedding = network.features(torch.randn(1, 2, 16, 16, 16))
    assert embedding.shape == (1, 512)
    assert features.shape == (1, 32, 16, 16, 16)
    assert sum(isinstance(m, torch.nn.GroupNorm) for m in network.modules()) == 18


def test_dropout_is_active_in_training_and_on_request_only(network, x):
    features, _ = network.features(x)
    assert torch.equal(network.head(features), network.head(features))
    assert not torch.equal(network.head(features, stochastic=True), network.head(features, stochastic=True))
    assert torch.equal(network.features(x)[0], features)
    network.train()
    assert not torch.equal(network.head(features), network.head(features))


def test_sampling_the_head_at_once_equals_dropping_features_one_pass_at_a_time(network, x):
    features, _ = network.features(x)
    sampled = network.sample_head(features, 6, torch.Generator().manual_seed(5))
    masks = torch.rand(6, 8, generator=torch.Generator().manual_seed(5)) < 0.5
    for logits, mask in zip(sampled, masks, strict=True):
        dropped = features * mask.to(features)[None, :, None, None, None] / 0.5
        assert torch.allclose(logits, network.projection(dropped)[0], atol=1e-5)


def test_sampled_masks_follow_the_dropout_probability(network):
    features = torch.ones(1, 8, 1, 1, 1)
    with torch.no_grad():
        network.projection.weight.fill_(1.0)
        network.projection.bias.zero_()
    kept = network.sample_head(features, 4000, torch.Generator().manual_seed(0))[:, 0].flatten() * 0.5
    assert kept.mean().item() == pytest.approx(4, abs=0.1)
    assert kept.var().item() == pytest.approx(2, abs=0.2)


def test_an_architecture_survives_a_checkpoint():
    assert Architecture(**SMALL.as_dict()) == SMALL
    assert SMALL.divisor == 4
