"""The reader of images in a simulation, and the examination by AUC and accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monailabel.utils.others.generic import name_to_device

from tasks.classification.models import COMMITTEE
from tasks.common.files import read_table
from tasks.datastore.rules import FINAL
from tasks.geometry.images import IMAGE_ENDINGS
from tasks.learning.groups import LABELS_TABLE
from tasks.learning.metrics import classification_metrics
from tasks.oracle import ANNOTATOR, Measure, Oracle


class ClassificationOracle(Oracle):
    """True classes are in ``labels.csv``; the committee is examined, at the same cost for every strategy."""

    model = COMMITTEE
    endings = IMAGE_ENDINGS
    measures = (Measure("auc", "AUC"), Measure("accuracy", "accuracy"))

    def truth(self, folder: Path, names: Sequence[str], described: bool) -> dict[str, str]:
        """Class names."""
        found = {row["file"]: row["label"] for row in read_table(folder / LABELS_TABLE, ("file", "label"))}
        missing = [name for name in names if not found.get(name)]
        if missing:
            raise ValueError(f"{folder / LABELS_TABLE} has no label for {missing[0]}")
        return {name: found[name] for name in names}

    def answer(self, app: Any, image_id: str, truth: str) -> str:
        """Store the true class."""
        label_id: str = app.datastore().save_class(image_id, truth, FINAL, {"client_id": ANNOTATOR})
        return label_id

    def examine(self, app: Any, test: Mapping[str, Path], truth: Mapping[str, str]) -> dict[str, Any]:
        """AUC, accuracy and precision; per image whether it was right."""
        classes = list(app.options.labels)
        names = sorted(test)
        request = {"device": name_to_device("cuda"), "logging": "ERROR"}
        results = [app.inferers()[COMMITTEE]({**request, "image": str(test[name])})[1] for name in names]
        probs = torch.tensor([[result["probabilities"][label] for label in classes] for result in results])
        metrics = classification_metrics(probs, torch.tensor([classes.index(truth[name]) for name in names]))
        return {
            **{name: round(metrics[name], 5) for name in ("auc", "accuracy", "precision")},
            "per_image": [float(result["label"] == truth[name]) for name, result in zip(names, results, strict=True)],
        }
