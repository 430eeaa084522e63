"""ImageNet weights: from a file, from torchvision, or honestly not."""

import urllib.error

import pytest
import torch
import torchvision

from tasks.classification.networks import ClassifierArchitecture, start_from
from tasks.learning import pretrained
from tasks.learning.pretrained import WeightsError, imagenet_weights


def classifier(name: str):
    torch.manual_seed(1)
    return ClassifierArchitecture(name, 2).build().eval()


@pytest.mark.parametrize(("name", "size"), [("alexnet", 224), ("resnet34", 64)])
def test_a_file_gives_all_layers_but_the_last(tmp_path, name, size):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = classifier(name)
    last = ours.output.weight.clone()
    found = imagenet_weights(name, str(tmp_path / "weights.pth"))
    start_from(ours, found)
    assert found.origin == "weights of weights.pth"
    assert torch.equal(ours.output.weight, last)
    x = torch.randn(1, 3, size, size)
    _, penultimate, _ = ours.embed(x)
    output = theirs.classifier[-1] if name == "alexnet" else theirs.fc
    assert torch.allclose(output(penultimate), theirs(x), atol=1e-4)


def test_torchvision_s_weights_are_asked_for_by_their_enum(monkeypatch):
    torch.manual_seed(0)
    state = torchvision.models.resnet34(weights=None).state_dict()
    asked = []

    def get_state_dict(self, **options):
        asked.append((self, options))
        return state

    monkeypatch.setattr(torchvision.models.ResNet34_Weights, "get_state_dict", get_state_dict)
    found = imagenet_weights("resnet34")
    assert asked[0][0] is torchvision.models.ResNet34_Weights.IMAGENET1K_V1
    assert asked[0][1]["check_hash"]
    assert found.state is state
    assert "ImageNet" in found.origin


@pytest.mark.parametrize("error", [urllib.error.URLError("no route to host"), TimeoutError("timed out")])
def test_without_internet_the_start_is_random_and_says_why(monkeypatch, error):
    def get_state_dict(self, **options):
        raise error

    monkeypatch.setattr(torchvision.models.AlexNet_Weights, "get_state_dict", get_state_dict)
    found = imagenet_weights("alexnet")
    assert found.state is None
    assert found.origin.startswith("random weights: ImageNet weights could not be had")
    net = classifier("alexnet")
    before = net.output.weight.clone()
    start_from(net, found)
    assert torch.equal(net.output.weight, before)


def test_the_small_network_has_no_pretrained_weights():
    assert imagenet_weights("small").state is None


def test_files_that_do_not_fit_are_named(tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match=r"bad\.pth cannot be read"):
        imagenet_weights("alexnet", str(tmp_path / "bad.pth"))
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth do not fit alexnet"):
        start_from(classifier("alexnet"), imagenet_weights("alexnet", str(tmp_path / "other.pth")))


def test_weights_cannot_carry_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth cannot be read"):
        imagenet_weights("alexnet", str(tmp_path / "evil.pth"))


def test_every_network_with_published_weights_is_known():
    assert set(pretrained._WEIGHTS) == {"alexnet", "resnet34"}
