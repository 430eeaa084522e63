"""Classifiers in three parts: the trunk runs once, dropout is repeated."""

import pytest
import torch
import torchvision

from tasks.classification.networks import NETWORKS, ClassifierArchitecture

SIZE = {"alexnet": 64, "resnet34": 32, "small": 32}


def network(name: str, dropout: float = 0.5) -> torch.nn.Module:
    torch.manual_seed(0)
    return ClassifierArchitecture(name, 3, dropout, first_features=4).build().eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_parts_give_what_the_whole_gives(name):
    net = network(name)
    x = torch.randn(2, 3, SIZE[name], SIZE[name])
    features, penultimate, logits = net.embed(x)
    assert logits.shape == (2, 3)
    assert torch.allclose(logits, net(x))
    assert torch.allclose(net.output(penultimate), logits)
    assert features.ndim == penultimate.ndim == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_stochastic_passes_differ_are_reproducible_and_leave_the_network_as_it_was(name):
    net = network(name)
    x = torch.randn(1, 3, SIZE[name], SIZE[name])
    features, _, logits = net.embed(x)
    state = torch.random.get_rng_state()
    first, again, other = (net.sample(features, 8, seed) for seed in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std(0).max() > 0
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(net(x), logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_dropout_all_passes_are_the_same(name):
    net = network(name, dropout=0.0)
    features, _, logits = net.embed(torch.randn(1, 3, SIZE[name], SIZE[name]))
    assert torch.allclose(net.sample(features, 4, "a"), logits.expand(4, -1), atol=1e-5)


@pytest.mark.parametrize("name", ["alexnet", "resnet34"])
def test_the_published_networks_are_torchvision_s(name):
    theirs = getattr(torchvision.models, name)(num_classes=3)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in network(name).parameters())


def test_alexnet_s_penultimate_layer_has_4096_features():
    _, penultimate, _ = network("alexnet").embed(torch.randn(1, 3, 224, 224))
    assert penultimate.shape == (1, 4096)
