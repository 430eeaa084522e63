"""Cost of scoring one volume: our full record and stock ``EpistemicScoring``, in single forward passes.

``python -m benchmarks.scoring [IMAGES]``. Same network, same volumes, one run, measured in turn on every volume; the
unit is one plain forward pass over the preprocessed volume. Weights are random: they do not change the cost.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from monai.transforms import Activationsd
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tasks.datastore.folder import StudiesFolder
from tasks.geometry.volumes import IMAGE_ENDINGS
from tasks.learning.checkpoints import Checkpoint
from tasks.rounds.reconciliation import ImageState
from tasks.rounds.rounds import Rounds
from tasks.segmentation.models import SINGLE, segmentation_models
from tasks.segmentation.networks import SplitUNet
from tasks.store.store import Store
from tasks.tools.phantoms import write_phantoms
from tasks.volume_segmentation.inference import checkpoint_preprocessing, volume_inferer
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.scoring import ScoreVolumes


class StockInfer(BasicInferTask):
    """A stock infer task as ``EpistemicScoring`` needs it: dropout active, probabilities, no file written."""

    def __init__(self, checkpoint: Checkpoint, network: SplitUNet) -> None:
        super().__init__(
            path=None,
            network=network,
            type=InferType.SEGMENTATION,
            labels={label: value for value, label in enumerate(checkpoint.labels, start=1)},
            dimension=3,
            description="stock",
            train_mode=True,
            skip_writer=True,
        )
        self.checkpoint = checkpoint

    def pre_transforms(self, data: Any = None) -> list[Callable[..., Any]]:
        return [checkpoint_preprocessing(self.checkpoint, ())]

    def inferer(self, data: Any = None) -> Callable[..., Any]:
        return volume_inferer(self.checkpoint)

    def post_transforms(self, data: Any = None) -> list[Callable[..., Any]]:
        return [Activationsd("pred", softmax=True)]


def seconds(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(
    images: Annotated[Path | None, typer.Argument(help="folder of volumes; default: generated phantoms")] = None,
    count: Annotated[int, typer.Option(min=1, help="volumes to measure on")] = 8,
    preset: Annotated[str, typer.Option(help="network and windows")] = "small",
    passes: Annotated[int, typer.Option(min=2, help="stochastic passes of both")] = 20,
) -> None:
    """Measure, and print a table."""
    logging.disable(logging.WARNING)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        if images is None:
            write_phantoms(studies, clusters=count + 1, copies=1)
        else:
            for path in sorted(p for p in images.iterdir() if p.name.endswith(IMAGE_ENDINGS))[: count + 1]:
                (studies / path.name).symlink_to(path.resolve())
        times = measure(studies, Path(folder), preset, passes, device)
    medians = {name: statistics.median(values) for name, values in times.items()}
    unit = medians["one forward pass"]
    table = Table(title=f"{len(times['one forward pass'])} volumes, preset {preset}, {passes} passes, {device}")
    table.add_column("what")
    table.add_column("median seconds per volume", justify="right")
    table.add_column("in forward passes", justify="right")
    for name, value in medians.items():
        table.add_row(name, f"{value:.3f}", f"{value / unit:.1f}")
    console.print(table)


def measure(studies: Path, folder: Path, preset: str, passes: int, device: str) -> dict[str, list[float]]:
    """Seconds per volume of each way of scoring."""
    settings = PRESETS[preset]
    network = SplitUNet(settings.architecture(1, 3)).eval()
    checkpoint = Checkpoint(
        network.architecture,
        [network.state_dict()],
        settings.inference_settings,
        ("anterior", "posterior"),
    )
    store = Store(folder / "store.sqlite")
    registry = segmentation_models(folder / "models", store)
    registry.publish(SINGLE, checkpoint, 0, {})
    datastore = StudiesFolder(str(studies), extensions=[f"*{ending}" for ending in IMAGE_ENDINGS])
    transform, inferer = checkpoint_preprocessing(checkpoint, ()), volume_inferer(checkpoint)
    network.to(device)
    ours = ScoreVolumes(registry, store, passes=passes)
    stock = EpistemicScoring(StockInfer(checkpoint, network), simulation_size=passes)
    times: dict[str, list[float]] = {
        name: []
        for name in ("one forward pass", "full record: 7 scores, embedding", f"stock, {passes} passes: 1 number")
    }

    class One:
        """The datastore, narrowed to one image."""

        def __init__(self, image_id: str) -> None:
            self.image_id = image_id

        def list_images(self) -> list[str]:
            return [self.image_id]

        def image_file(self, image_id: str) -> Path:
            return datastore.image_file(image_id)

        def get_image_uri(self, image_id: str) -> str:
            return datastore.get_image_uri(image_id)

    def forward(image: torch.Tensor) -> None:
        with torch.inference_mode():
            inferer(image[None].to(device), network)

    images = sorted(datastore.list_images())
    Rounds(store).note([ImageState(image_id) for image_id in images])
    for number, image_id in enumerate(track(images, description="measuring")):
        image = transform({"image": datastore.get_image_uri(image_id)})["image"].as_tensor()
        network.eval()
        works = (
            partial(forward, image),
            partial(ours, {"device": device}, One(image_id)),
            partial(stock.run_scoring, image_id, passes, number, datastore),
        )
        spent = [seconds(work, device) for work in works]
        if number > 0:  # the first is a warm-up only: its record is there afterwards
            for values, value in zip(times.values(), spent, strict=True):
                values.append(value)
    return times


if __name__ == "__main__":
    typer.run(main)
