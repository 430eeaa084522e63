"""Networks of MONAI, and of other packages, are used like ours."""

import types
from importlib.metadata import EntryPoint

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet
from torch import nn

from tasks.segmentation import outside
from tasks.segmentation.models import SINGLE, segmentation_models
from tasks.segmentation.networks import Architecture
from tasks.segmentation.outside import NetworkError, check_network, registered
from tasks.segmentation.records import SCORES
from tasks.segmentation.whole import WholeNetwork
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.scoring import ScoreVolumes
from tasks.volume_segmentation.training import VolumeTrainTask
from tests.tiny import QUICK, sync_images


def segresnet(in_channels: int, out_channels: int, spatial_dims: int) -> WholeNetwork:
    blocks = {"blocks_down": (1, 1, 1), "blocks_up": (1, 1)}
    network = SegResNet(spatial_dims, 8, in_channels, out_channels, dropout_prob=0.3, **blocks)
    return WholeNetwork(network, "down_layers.2", 4)


def dynunet(in_channels: int, out_channels: int, spatial_dims: int, deep: bool = False) -> WholeNetwork:
    sizes = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 16]}
    heads = {"deep_supervision": deep, "deep_supr_num": 1}
    dropout = ("dropout", {"p": 0.3})
    network = DynUNet(spatial_dims, in_channels, out_channels, **sizes, **heads, dropout=dropout)
    return WholeNetwork(network, "bottleneck", 4)


def deeply_supervised(in_channels: int, out_channels: int, spatial_dims: int) -> WholeNetwork:
    return dynunet(in_channels, out_channels, spatial_dims, deep=True)


@pytest.fixture
def install(monkeypatch):
    """Makes entry points of the group for networks."""

    def make(**contents) -> None:
        module = types.SimpleNamespace(**contents)
        entries = []
        for name in contents:
            entry = EntryPoint(name, f"somebody_s_package:{name}", outside.GROUP)
            object.__setattr__(entry, "load", lambda name=name: _loaded(getattr(module, name)))
            entries.append(entry)
        monkeypatch.setattr(outside, "entry_points", lambda group: [e for e in entries if e.group == group])
        registered.cache_clear()
        outside.divisor_of.cache_clear()

    yield make
    monkeypatch.undo()
    registered.cache_clear()
    outside.divisor_of.cache_clear()


def _loaded(content):
    if isinstance(content, Exception):
        raise content
    return content


NETWORKS = {"segresnet": segresnet, "dynunet": dynunet, "deeply_supervised": deeply_supervised}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_monai_give_what_scoring_asks_for(install, name, dims):
    install(**NETWORKS)
    check_network(name, 3, 4, dims)
    torch.manual_seed(0)
    network = outside.make(name, 3, 4, dims)
    image = torch.rand(2, 3, *[16] * dims)
    with torch.no_grad():
        trained = network.train()(image)
        features, embedding = network.eval().features(image)
        logits = network.head(features)
        assert torch.equal(logits, network(image))
        passes = network.sample_head(features, 5, torch.Generator().manual_seed(1))
        again = network.sample_head(features, 5, torch.Generator().manual_seed(1))
        others = network.sample_head(features, 5, torch.Generator().manual_seed(2))
    assert trained.shape == logits.shape == (2, 4, *[16] * dims)
    assert passes.shape == (5, 4, *[16] * dims)
    assert embedding.shape[0] == 2
    assert not torch.allclose(embedding[0], embedding[1])
    assert torch.equal(passes, again)
    assert not torch.equal(passes, others)
    assert passes.var(0).max() > 0
    assert not any(module.training for module in network.modules())  # scoring has left it as it was


@pytest.mark.parametrize("name", ["segresnet", "dynunet"])
def test_such_a_network_is_trained_published_scored_and_read_again(install, datastore, tmp_path, store, name):
    install(**NETWORKS)
    registry = segmentation_models(tmp_path / "models", store, labels=("tumor",))
    preset = PRESETS["small"].with_network(name)
    task = VolumeTrainTask(SINGLE, "test", registry, preset, ("tumor",))
    stats = task({**QUICK, "optimizer": "adamw"}, datastore)
    assert stats["epoch"] == 2
    checkpoint = registry.load(SINGLE)
    assert checkpoint.architecture.network == name
    sync_images(store, dict.fromkeys(datastore.list_images(), False))
    ScoreVolumes(registry, store, passes=4)({"device": "cpu"}, datastore)
    records = store.records(registry.scoring_version())
    assert len(records) == len(datastore.list_images())
    for record in records:
        assert record.error is None
        assert set(record.scores) == set(SCORES)
        assert record.scores["dropout_variance"] > 0
        assert record.embedding is not None
    registered.cache_clear()
    install()  # the package is gone
    again = segmentation_models(tmp_path / "models", store, labels=("tumor",))
    assert again.current(SINGLE) is None
    (problem,) = again.damaged(SINGLE).values()
    assert problem == f"cannot be used: there is no network {name}: the package that has it is not installed"


class Wrong(nn.Module):
    """One output too many."""

    divisor = 4

    def features(self, x):
        return x, x.flatten(2).mean(2)

    def head(self, features):
        return features[:, :1].expand(-1, 3, *features.shape[2:])

    def sample_head(self, features, passes, generator):
        return features[:1, :1].expand(passes, 2, *features.shape[2:])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda *_: Wrong(), r"network mine: head must give \(2, 2, 8, 8, 8\), got \(2, 3, 8, 8, 8\)"),
        (lambda *_: nn.Conv3d(1, 2, 1), "network mine does not work: AttributeError"),
        (lambda *_: WholeNetwork(nn.Sequential(nn.Conv3d(1, 2, 1)), "nothing", 1), "embed must be the name of a layer"),
        (lambda *_: WholeNetwork(nn.Sequential(nn.Conv3d(1, 2, 1)), "0", 0), "divisor must be at least 1"),
        (lambda *_: WholeNetwork(nn.Sequential(nn.Conv3d(4, 2, 1)), "0", 1), "does not work: RuntimeError"),
        (lambda: None, "cannot be made: TypeError"),
        ("text", "must be a function, got 'text'"),
        (ImportError("no such thing"), "cannot be imported: ImportError: no such thing"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_in_one_line(install, content, words):
    install(mine=content)
    with pytest.raises(NetworkError, match=words) as caught:
        check_network("mine", 1, 2, 3)
    assert "\n" not in str(caught.value)


def test_names_of_ours_and_unknown_ones(install):
    install(small=segresnet)
    with pytest.raises(NetworkError, match="there is a network small already"):
        registered()
    install(segresnet=segresnet)
    with pytest.raises(NetworkError, match="there is no network unheard_of"):
        check_network("unheard_of", 1, 2, 3)
    assert Architecture(1, 2, network="unheard_of").lacks.startswith("there is no network unheard_of")
    assert Architecture(1, 2, network="segresnet").lacks == ""
    preset = PRESETS["small"].with_network("segresnet")
    preset.check()
    with pytest.raises(ValueError, match="network must be one of unet, segresnet"):
        PRESETS["small"].with_options({"network": "other"})


def test_a_layer_that_takes_no_part_and_a_network_without_dropout_are_said(caplog):
    network = nn.Sequential(nn.Conv2d(1, 2, 1))
    network.add_module("aside", nn.Identity())
    network.forward = lambda x: network[0](x)
    whole = WholeNetwork(network, "aside", 1)
    assert "has no dropout layer" in caplog.text
    with pytest.raises(ValueError, match="takes no part"):
        whole.features(torch.zeros(1, 1, 4, 4))
