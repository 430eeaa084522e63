"""The inferers ``classifier`` and ``classifier_committee`` (mean of the committee)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.inferers import SimpleInferer
from monai.transforms import Compose
from monailabel.interfaces.tasks.infer_v2 import InferType

from tasks.classification.transforms import preprocessing
from tasks.learning.checkpoints import Checkpoint, ModelRegistry
from tasks.learning.inference import CurrentModelInferTask


class ClassifierInferTask(CurrentModelInferTask):
    """Class probabilities of an image by the current model of a name.

    Args:
        name: name of the published model.
        description: one line for people.
        registry: finds the current checkpoint.
        classes: class names, in the order of the network's outputs.
    """

    def __init__(self, name: str, description: str, registry: ModelRegistry, classes: Sequence[str]) -> None:
        values = {label: value for value, label in enumerate(classes)}
        super().__init__(name, description, registry, InferType.CLASSIFICATION, values, dimension=2)

    def preprocessing(self, checkpoint: Checkpoint) -> Compose:
        """Size and normalisation."""
        return preprocessing(checkpoint.preprocessing["image_size"])

    def inferer(self, data: dict[str, Any] | None = None) -> SimpleInferer:
        """The network as it is."""
        return SimpleInferer()

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """None: the network's output are probabilities."""
        return []

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[None, dict[str, Any]]:
        """No file, but ``label``, ``probabilities`` by class, and MONAI Label's own list ``prediction``."""
        labels = self.current(data).checkpoint.labels
        probabilities = dict(zip(labels, map(float, data[self.output_label_key].tolist()), strict=True))
        prediction = [
            {"idx": index, "label": label, "score": score} for index, (label, score) in enumerate(probabilities.items())
        ]
        best = max(probabilities, key=lambda label: probabilities[label])
        return None, {"label": best, "probabilities": probabilities, "prediction": prediction}
