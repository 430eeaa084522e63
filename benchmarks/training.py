"""Dice on test images and training time of a preset with a given number of labelled images.

``python -m benchmarks.training FOLDER --labels anterior,posterior --labelled 60``. The folder is one that the
simulation reads; images are drawn by a seed, trained through the app, and tested on all its test images.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from tasks.kinds import kinds
from tasks.simulation.data_sets import read_pool, subset
from tasks.simulation.play import FULL_DATA, Plan, simulate

APP = "volume_segmentation"


def main(
    data: Annotated[Path, typer.Argument(help="folder with images and true labels")],
    labels: Annotated[str, typer.Option(help="label names, comma separated")] = "tumor",
    labelled: Annotated[int, typer.Option(min=2, help="labelled images")] = 60,
    preset: Annotated[str, typer.Option(help="hyper-parameters")] = "small",
    seed: Annotated[int, typer.Option(min=0, help="decides the images and the training")] = 0,
) -> None:
    """Train once and print what came out."""
    logging.disable(logging.WARNING)
    pool = subset(read_pool(data, kinds()[APP].oracle), labelled, 0, seed)
    plan = Plan(APP, labels, labelled, 1, 0, preset, {}, torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        row = simulate(pool, plan, FULL_DATA, seed, Path(folder))[0]
    per_label = ", ".join(f"{name} {row[f'dice_{name}']:.3f}" for name in labels.split(","))
    Console().print(
        f"{pool.name}, {row['labelled']} labelled, preset {preset}, {plan.threads} threads: trained in "
        f"{row['train_seconds']:.0f} s; mean Dice {row['dice_mean']:.3f} ({per_label}) on {len(pool.test)} test images"
    )


if __name__ == "__main__":
    typer.run(main)
