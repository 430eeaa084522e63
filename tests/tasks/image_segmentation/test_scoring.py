"""One scoring pass over an image gives what the acquisition functions define, for every network."""

import zlib

import numpy as np
import pytest
import torch

from strategies import acquisition
from tasks.image_segmentation.networks import ImageArchitecture
from tasks.segmentation.inferer import whole_image
from tasks.segmentation.records import SCORES, Scorer
from tests.tasks.image_segmentation.test_networks import SMALL


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_every_score_is_that_of_the_acquisition_function_on_full_passes(name):
    torch.manual_seed(0)
    architecture = ImageArchitecture(name, 2, dropout=0.4, **SMALL[name])
    network = architecture.build().eval()
    image = torch.randn(3, 64, 32, generator=torch.Generator().manual_seed(1))
    result = Scorer(network, [], whole_image(64, architecture.divisor), ["lesion"], passes=6)("a", image)
    assert set(result.scores) == set(SCORES)
    features, embedding = network.features(image[None])
    sampled = network.sample_head(features, 6, torch.Generator().manual_seed(zlib.crc32(b"0/a"))).softmax(1)
    single = network(image[None]).softmax(1)[0]
    views = [network(image[None].flip(axes)).softmax(1).flip(axes)[0] for axes in ((2,), (3,), (2, 3))]
    expected = {
        "variance_sum": acquisition.variance_sum(sampled),
        "dropout_variance": acquisition.variance(sampled, 0.001),
        "bald": acquisition.bald(sampled),
        "margin": acquisition.margin(single),
        "flip_consistency": acquisition.flip_consistency(torch.stack([single, *views])),
    }
    for score, value in expected.items():
        assert result.scores[score] == pytest.approx(float(value), rel=1e-3, abs=1e-6), score
    np.testing.assert_allclose(result.embedding, embedding[0].numpy(), atol=1e-4)


def test_an_image_that_is_no_multiple_of_the_divisor_is_padded_not_cut():
    torch.manual_seed(0)
    architecture = ImageArchitecture("unet_resnet34", 2)
    scorer = Scorer(architecture.build().eval(), [], whole_image(64, 32), ["lesion"], passes=2)
    with torch.inference_mode():
        probs = scorer.inferer(torch.randn(1, 3, 64, 41), lambda x: x[:, :2])
    assert probs.shape == (1, 2, 64, 41)
    assert np.isfinite(list(scorer("a", torch.randn(3, 64, 41)).scores.values())).all()
