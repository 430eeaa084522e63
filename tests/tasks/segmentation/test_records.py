"""One scoring pass gives exactly what the acquisition functions define."""

import zlib

import numpy as np
import pytest
import torch

from strategies import acquisition
from tasks.segmentation.inferer import WindowInferer
from tasks.segmentation.networks import Architecture, SplitUNet
from tasks.segmentation.records import COMMITTEE_SCORES, SCORES, Scorer

PASSES = 5
SMALL = Architecture(in_channels=1, out_channels=3, levels=2, first_features=4, norm="instance", dropout=0.4)


def networks(count: int) -> list[SplitUNet]:
    result = []
    for seed in range(count):
        torch.manual_seed(seed)
        result.append(SplitUNet(SMALL).eval())
    return result


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 12, 10, 8, generator=torch.Generator().manual_seed(3))


def scorer(roi=(12, 10, 8), members: int = 0, **options) -> Scorer:
    single, *committee = networks(1 + members)
    return Scorer(
        single, committee, WindowInferer(roi, 0.5, SMALL.divisor), ["core", "oedema"], passes=PASSES, **options
    )


def test_in_one_window_every_score_is_that_of_the_acquisition_function_on_the_full_maps(image):
    result = scorer(members=3)("a", image)
    network, *committee = networks(4)
    x = image[None]
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(zlib.crc32(b"0/a"))
        features, embedding = network.features(x)
        sampled = network.sample_head(features, PASSES, generator).softmax(1)
        single = network(x).softmax(1)[0]
        views = [single]
        for axes in ((2,), (3,), (2, 3)):
            views.append(network(x.flip(axes)).softmax(1).flip(axes)[0])
        members = torch.cat([member(x).softmax(1) for member in committee])
    expected = {
        "dropout_variance": acquisition.variance(sampled, 0.001),
        "variance_sum": acquisition.variance_sum(sampled),
        "predictive_entropy": acquisition.predictive_entropy(sampled),
        "bald": acquisition.bald(sampled),
        "margin": acquisition.margin(single),
        "least_confidence": acquisition.least_confidence(single),
        "flip_consistency": acquisition.flip_consistency(torch.stack(views)),
        "bootstrap_variance": acquisition.variance(members, 1.0),
        "entropy_kl": acquisition.entropy_kl(members),
    }
    assert set(expected) == set(SCORES + COMMITTEE_SCORES) == set(result.scores)
    for name, value in expected.items():
        assert result.scores[name] == pytest.approx(float(value), rel=1e-4, abs=1e-7), name
    np.testing.assert_allclose(result.embedding, embedding[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(
        list(result.class_entropies.values()), acquisition.class_entropies(sampled)[1:].numpy(), rtol=1e-4
    )


def test_without_a_committee_its_scores_are_left_out(image):
    assert set(scorer()("a", image).scores) == set(SCORES)


def test_a_score_depends_on_the_image_not_on_the_order_of_scoring(image):
    one = scorer()
    first = one("a", image).scores
    one("b", image)
    assert one("a", image).scores == first
    assert one("b", image).scores["dropout_variance"] != first["dropout_variance"]
    assert one("b", image).scores["flip_consistency"] == first["flip_consistency"]


def test_larger_volumes_are_scored_window_by_window(image):
    whole, windows = scorer()("a", image), scorer(roi=(8, 6, 8))("a", image)
    assert np.isfinite(list(windows.scores.values())).all()
    assert windows.embedding.shape == whole.embedding.shape
    for name in ("predictive_entropy", "least_confidence", "margin"):
        assert windows.scores[name] == pytest.approx(whole.scores[name], rel=0.2)


def test_flipping_the_image_in_plane_leaves_flip_consistency_as_it_is(image):
    flipped = scorer()("a", image.flip(1)).scores["flip_consistency"]
    assert flipped == pytest.approx(scorer()("a", image).scores["flip_consistency"], rel=1e-4)


def test_a_model_that_gives_nan_is_an_error_that_names_the_image(image):
    broken = scorer()
    with torch.no_grad():
        broken.network.projection.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="a is not finite"):
        broken("a", image)


def test_fewer_than_two_passes_are_refused():
    with pytest.raises(ValueError, match="passes"):
        Scorer(networks(1)[0], [], WindowInferer((8, 8, 8), 0, 2), ["tumor"], passes=1)
