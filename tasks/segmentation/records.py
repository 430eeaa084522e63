"""One scoring pass over one image: every acquisition score and the embedding from one run of the network.

The network runs once up to the layer before dropout, for the image and its three flipped views as one batch; the
head is sampled on the features of the image itself. Volumes larger than the window are scored window by window:
statistics of every voxel (mean probabilities, variance, entropy ...) are stitched, not the ``T`` maps, so memory
does not grow with ``T`` and overlapping windows do not average the variance away. Where one window holds the
image, the scores are exactly those of :mod:`strategies.acquisition` on the full maps.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch

from strategies import acquisition
from tasks.learning.scores import Scores
from tasks.segmentation.inferer import WindowInferer
from tasks.segmentation.networks import StochasticNetwork

FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Views of ``[B, C, X, Y, ...]``: identity and flips in the image plane; the slice axis is never flipped."""

SCORES = (
    "dropout_variance",
    "variance_sum",
    "predictive_entropy",
    "bald",
    "margin",
    "least_confidence",
    "flip_consistency",
)
COMMITTEE_SCORES = ("bootstrap_variance", "entropy_kl")


class Scorer:
    """Scores images with one model and, where there is one, a committee.

    Args:
        network: the single model, in evaluation mode on ``device``.
        committee: members of the bootstrap committee; empty leaves their scores out.
        inferer: sliding windows, the same as for inference.
        labels: foreground label names, value 1 first.
        passes: stochastic passes ``T``.
        seed: with the image id, decides the dropout masks: a score does not depend on the order of scoring.
        device: where the networks are.
    """

    def __init__(
        self,
        network: StochasticNetwork,
        committee: Sequence[torch.nn.Module],
        inferer: WindowInferer,
        labels: Sequence[str],
        passes: int = 20,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if passes < 2:
            raise ValueError(f"passes must be at least 2, got {passes}")
        self.network = network
        self.committee = list(committee)
        self.inferer = inferer
        self.labels = list(labels)
        self.passes = passes
        self.seed = seed
        self.device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, image_id: str, image: torch.Tensor) -> Scores:
        """Score one preprocessed image.

        Args:
            image_id: id in the datastore, seeds the dropout masks.
            image: ``[C, *S]``, the image plane first.

        Raises:
            ValueError: a score that is not finite.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{image_id}".encode()))
        embeddings: list[torch.Tensor] = []

        def statistics(window: torch.Tensor) -> torch.Tensor:
            with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
                return self._statistics(window, generator, embeddings)

        classes = len(self.labels) + 1
        maps = self.inferer(image[None].to(self.device), statistics)[0]
        mean, single, rest = maps[:classes], maps[classes : 2 * classes], maps[2 * classes :]
        entropy = acquisition.predictive_entropy_map(mean[None])
        predictive_entropy = entropy.mean(dtype=torch.float64)
        variance, expected_entropy, flip_variance = rest[:3]
        scores = {
            "dropout_variance": acquisition.top_mean(variance, acquisition.DROPOUT_VARIANCE_FRACTION),
            "variance_sum": variance.sum(dtype=torch.float64),
            "predictive_entropy": predictive_entropy,
            "bald": (predictive_entropy - expected_entropy.mean(dtype=torch.float64)).clamp(min=0),
            "margin": acquisition.margin_map(single).mean(dtype=torch.float64),
            "least_confidence": acquisition.least_confidence_map(single).mean(dtype=torch.float64),
            "flip_consistency": flip_variance.mean(dtype=torch.float64),
        }
        if self.committee:
            bootstrap_variance, entropy_kl = rest[3:]
            fraction = acquisition.BOOTSTRAP_VARIANCE_FRACTION
            scores["bootstrap_variance"] = acquisition.top_mean(bootstrap_variance, fraction)
            scores["entropy_kl"] = entropy_kl.mean(dtype=torch.float64)
        values = {name: float(value) for name, value in scores.items()}
        if not np.isfinite(list(values.values())).all():
            raise ValueError(f"the model's output for {image_id} is not finite")
        weighted = acquisition.weighted_entropies(mean, entropy)[1:]
        return Scores(
            scores=values,
            class_entropies=dict(zip(self.labels, weighted.tolist(), strict=True)),
            embedding=torch.stack(embeddings).mean(0).cpu().numpy(),
        )

    def _statistics(
        self, window: torch.Tensor, generator: torch.Generator, embeddings: list[torch.Tensor]
    ) -> torch.Tensor:
        """Per-voxel statistics of one window: mean and single probabilities, then the maps, ``[1, n, *S]``."""
        views = torch.cat([window.flip(axes) if axes else window for axes in FLIPS])
        features, embedding = self.network.features(views)
        embeddings.append(embedding[0].float())
        probs = self.network.head(features).float().softmax(1)
        flipped_back = torch.stack(
            [view.flip([axis - 1 for axis in axes]) if axes else view for view, axes in zip(probs, FLIPS, strict=True)]
        )
        sampled = self.network.sample_head(features, self.passes, generator).float().softmax(1)
        maps = [
            *sampled.mean(0),
            *probs[0],
            acquisition.variance_map(sampled),
            acquisition.expected_entropy_map(sampled),
            acquisition.variance_map(flipped_back),
        ]
        if self.committee:
            members = torch.cat([member(window).float().softmax(1) for member in self.committee])
            maps += [acquisition.variance_map(members), acquisition.entropy_kl_map(members)]
        return torch.stack(maps)[None]
