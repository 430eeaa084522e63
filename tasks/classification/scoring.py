"""The scoring method ``records`` for images: every acquisition score and the embedding from one run of the models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from strategies import acquisition
from tasks.classification.networks import ImageClassifier
from tasks.classification.transforms import preprocessing
from tasks.learning.scores import Scores
from tasks.learning.scoring import Prepared, ScoreRecords

FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
"""Views of ``[B, C, rows, columns]`` (PCDAL 2023, figure 1)."""

SCORES = ("predictive_entropy", "bald", "least_confidence", "margin", "flip_consistency")
COMMITTEE_SCORES = ("entropy_kl",)


class ImageScorer:
    """Scores images with the members of a committee, or with one model and its dropout.

    Args:
        members: networks in evaluation mode on ``device``; the first one gives the embedding.
        classes: class names, in the order of the networks' outputs.
        passes: stochastic passes ``T`` of a single model.
        seed: with the image id, decides the dropout masks: a score does not depend on the order of scoring.
        device: where the networks are.
    """

    def __init__(
        self,
        members: Sequence[ImageClassifier],
        classes: Sequence[str],
        passes: int = 20,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if passes < 2:
            raise ValueError(f"passes must be at least 2, got {passes}")
        self.members = list(members)
        self.classes = list(classes)
        self.passes = passes
        self.seed = seed
        self.device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, image_id: str, image: torch.Tensor) -> Scores:
        """Score one preprocessed image.

        Args:
            image_id: id in the datastore, seeds the dropout masks.
            image: ``[3, rows, columns]``.

        Raises:
            ValueError: a score that is not finite.
        """
        single = image[None].to(self.device)
        views = torch.cat([single.flip(axes) if axes else single for axes in FLIPS])
        runs = [member.embed(views) for member in self.members]
        probs = torch.stack([_softmax(logits) for _, _, logits in runs])
        mean = probs.mean(0)
        scores = {
            "least_confidence": acquisition.least_confidence(mean[0]),
            "margin": acquisition.margin(mean[0]),
            "flip_consistency": acquisition.flip_consistency(mean),
        }
        stochastic = probs[:, 0]
        if len(self.members) > 1:
            scores["entropy_kl"] = acquisition.entropy_kl(stochastic)
        elif self.members[0].architecture.dropout > 0:
            sampled = self.members[0].sample(runs[0][0][:1], self.passes, f"{self.seed}/{image_id}")
            stochastic = _softmax(sampled)
        scores["predictive_entropy"] = acquisition.predictive_entropy(stochastic)
        if len(stochastic) > 1:
            scores["bald"] = acquisition.bald(stochastic)
        weighted = acquisition.class_entropies(stochastic).tolist()
        return Scores(
            scores={name: float(value) for name, value in scores.items()},
            class_entropies=dict(zip(self.classes, weighted, strict=True)),
            embedding=runs[0][1][0].float().cpu().numpy(),
        )


class ScoreImages(ScoreRecords):
    """Scores images with the committee or the single model, whichever was trained last."""

    def prepare(self, device: torch.device) -> Prepared:
        """Load the newest model."""
        models = self.registry.scoring_models()
        if not models:
            raise ValueError("the checkpoint of the current model is missing: train again")
        checkpoint = self.registry.read(models[0])
        scorer = ImageScorer(checkpoint.networks(device), checkpoint.labels, self.passes, self.seed, device)
        transform = preprocessing(checkpoint.preprocessing["image_size"])
        return Prepared(lambda image: torch.as_tensor(transform({"image": image})["image"]), scorer)


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    """Class probabilities in float64, as the scores of class vectors are defined."""
    return logits.double().softmax(-1)
