"""The networks for images, and the interface that scoring uses."""

import pytest
import torch
import torchvision

from tasks.image_segmentation.networks import ImageArchitecture, ResNetUNet, start_from
from tasks.learning.pretrained import Pretrained, WeightsError, imagenet_weights
from tasks.segmentation.networks import SplitUNet

SMALL = {"small": {"levels": 3, "first_features": 4}, "unet": {"first_features": 4}, "unet_resnet34": {}}


def network(name: str, dropout: float = 0.4):
    torch.manual_seed(0)
    return ImageArchitecture(name, 3, dropout=dropout, **SMALL[name]).build().eval()


@pytest.fixture(params=SMALL)
def net(request):
    return network(request.param)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.inference_mode()
def test_features_then_head_is_the_network(net, x):
    features, embedding = net.features(x)
    assert torch.allclose(net.head(features), net(x), atol=1e-5)
    assert net(x).shape == (2, 3, 64, 96)
    assert embedding.shape[0] == 2
    assert embedding.ndim == 2


@torch.inference_mode()
def test_stochastic_passes_differ_are_seeded_and_are_of_the_first_image(net, x):
    features, _ = net.features(x)
    first = net.sample_head(features, 5, generator())
    assert first.shape == (5, 3, 64, 96)
    assert torch.allclose(first, net.sample_head(net.features(x[:1])[0], 5, generator()), atol=1e-4)
    assert not torch.allclose(first, net.sample_head(features, 5, generator(1)))
    assert not torch.allclose(first[0], first[1])
    assert torch.allclose(net.head(features), net(x), atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_without_dropout_every_pass_is_the_deterministic_one(name, x):
    net = network(name, dropout=0.0)
    features, _ = net.features(x)
    assert torch.allclose(net.sample_head(features, 3, generator()), net(x[:1]).expand(3, -1, -1, -1), atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "unet_resnet34"])
@torch.inference_mode()
def test_sampling_in_batches_equals_passes_one_at_a_time_in_mean_and_keeps_the_caller_s_randomness(name, monkeypatch):
    net = network(name)
    x = torch.randn(1, 3, 32, 32, generator=generator())
    features, _ = net.features(x)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    batched = net.sample_head(features, 200, generator()).mean(0)
    assert torch.equal(torch.rand(1), expected)
    monkeypatch.setattr("tasks.image_segmentation.networks._PIXELS_AT_ONCE", 1)
    single = net.sample_head(features, 200, generator(7)).mean(0)
    assert torch.allclose(batched, single, atol=0.35)
    assert not net.training


def test_the_paper_s_network_has_31_million_weights():
    paper = ImageArchitecture("unet", 2, first_features=64, dropout=0.1).build()
    weights = sum(weight.numel() for weight in paper.parameters())
    assert weights == pytest.approx(31e6, rel=0.01)
    convolutions = [m for m in paper.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 18  # five pairs down, four up
    assert sum(isinstance(m, torch.nn.ConvTranspose2d) for m in paper.modules()) == 4
    assert sum(isinstance(m, torch.nn.Dropout) for m in paper.modules()) == 18


def test_the_small_network_has_the_split_head():
    small = network("small")
    assert isinstance(small, SplitUNet)
    assert small.architecture.spatial_dims == 2


@torch.inference_mode()
def test_imagenet_weights_fit_the_encoder_exactly(tmp_path):
    torch.manual_seed(5)
    theirs = torchvision.models.resnet34(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = network("unet_resnet34")
    start_from(ours, imagenet_weights("resnet34", str(tmp_path / "weights.pth")))
    assert isinstance(ours, ResNetUNet)
    x = torch.randn(1, 3, 64, 64)
    deepest = ours.net.encoder(x)[-1]
    assert torch.allclose(theirs.fc(deepest.mean((2, 3))), theirs(x), atol=1e-4)


def test_weights_of_another_network_are_refused_and_other_networks_have_none():
    other = Pretrained(torchvision.models.resnet18(weights=None).state_dict(), "weights of a.pth")
    with pytest.raises(WeightsError, match=r"weights of a\.pth do not fit resnet34"):
        start_from(network("unet_resnet34"), other)
    small = network("small")
    before = small.projection.weight.clone()
    start_from(small, other)
    assert torch.equal(small.projection.weight, before)


@pytest.mark.parametrize("name", SMALL)
def test_an_architecture_survives_a_checkpoint(name):
    architecture = ImageArchitecture(name, 3, **SMALL[name])
    assert ImageArchitecture(**architecture.as_dict()) == architecture
    assert architecture.divisor == {"small": 4, "unet": 16, "unet_resnet34": 32}[name]
