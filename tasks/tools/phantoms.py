"""Generated brain MR volumes with ring-enhancing tumours, for a first start and for tests without real images.

``python -m tasks.phantoms FOLDER`` writes volumes into FOLDER and true labels into ``FOLDER/oracle``; with
``--slices`` it writes axial slices as PNG, some with tumour and some without, their masks into ``FOLDER/oracle`` and
their classes into ``labels.csv``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import nibabel
import numpy as np
import typer
from PIL import Image
from rich.progress import track
from scipy import ndimage

from tasks.common.files import write_table
from tasks.kinds import kinds
from tasks.learning.groups import LABELS_TABLE

SHAPE = (48, 56, 40)
SPACING = (3.0, 3.0, 3.5)
SLICE_CLASSES = ("no_tumor", "tumor")


def phantom(rng: np.random.Generator, variation: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One volume and its label.

    Args:
        rng: decides head, tumour, contrast and bias field: the patient and scanner.
        variation: decides what differs between near-duplicates: noise, a small shift and a slightly grown tumour.

    Returns:
        Image ``SHAPE`` float32 and label ``SHAPE`` uint8 with values 0 and 1 (tumour: enhancing ring and core).
    """
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    radii = np.array([0.78, 0.88, 0.82]) * rng.uniform(0.92, 1.05, 3)
    head = _ellipsoid(grid, np.zeros(3), radii)
    brain = _ellipsoid(grid, np.zeros(3), radii * 0.88)
    folds = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.5)
    white = brain & (folds > np.quantile(folds, 0.5)) & _ellipsoid(grid, np.zeros(3), radii * 0.75)
    ventricles = _ellipsoid(grid, [0.13, 0, 0.1], [0.09, 0.3, 0.18]) | _ellipsoid(
        grid, [-0.13, 0, 0.1], [0.09, 0.3, 0.18]
    )
    size = rng.uniform(0.12, 0.34) * variation.uniform(0.95, 1.08)
    direction = rng.standard_normal(3)
    centre = direction / np.linalg.norm(direction) * rng.uniform(0.15, 0.45) + variation.uniform(-0.02, 0.02, 3)
    wobble = 1 + 0.25 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 4) / 0.02
    distance = np.sqrt(
        (((grid - centre[:, None, None, None]) / (size * rng.uniform(0.8, 1.2, 3))[:, None, None, None]) ** 2).sum(0)
    )
    tumour = (distance * np.clip(wobble, 0.75, 1.25) < 1) & brain
    core = (distance * np.clip(wobble, 0.75, 1.25) < rng.uniform(0.45, 0.7)) & tumour
    oedema = (distance < rng.uniform(1.3, 1.9)) & brain & ~tumour
    contrast = rng.uniform(0.6, 1.4)
    image = np.zeros(SHAPE)
    for region, value in (
        (head, 0.5),
        (brain, 0.45),
        (white, 0.6),
        (ventricles & brain, 0.15),
        (oedema, 0.45 - 0.1 * contrast),
        (tumour, 0.6 + 0.4 * contrast),
        (core, 0.25),
    ):
        image[region] = value
    image = ndimage.gaussian_filter(image, rng.uniform(0.4, 0.9))
    coefficients = rng.uniform(-0.35, 0.35, 3)
    image *= np.exp((coefficients[:, None, None, None] * grid).sum(0)) * rng.uniform(200, 1500)
    image += variation.normal(0, rng.uniform(0.02, 0.08), SHAPE) * image.max()
    return np.clip(image, 0, None).astype(np.float32), tumour.astype(np.uint8)


def write_phantoms(folder: Path, clusters: int = 12, copies: int = 3, seed: int = 0) -> list[str]:
    """Write ``clusters * copies`` phantoms; the copies of a cluster are near-duplicates.

    Args:
        folder: studies folder; true labels go to ``folder/oracle``.
        clusters: different patients.
        copies: near-duplicates of each.
        seed: makes the files reproducible.

    Returns:
        Image ids.
    """
    oracle = folder / "oracle"
    oracle.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*SPACING, 1.0])
    ids = []
    for cluster in track(range(clusters), description="generating sample studies"):
        for copy in range(copies):
            image, label = phantom(np.random.default_rng([seed, cluster]), np.random.default_rng([seed, cluster, copy]))
            image_id = f"phantom_{cluster:03d}_{copy}"
            nibabel.save(nibabel.Nifti1Image(label, affine), oracle / f"{image_id}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"{image_id}.nii.gz")
            ids.append(image_id)
    return ids


def write_slices(folder: Path, patients: int = 20, slices: int = 6, seed: int = 0) -> list[str]:
    """Write axial slices of phantoms, half of them with tumour where the patient has enough.

    True masks go to ``folder/oracle``, classes to ``labels.csv``.

    Args:
        folder: studies folder.
        patients: different patients.
        slices: of each.
        seed: makes the files reproducible.

    Returns:
        Image ids.
    """
    (folder / "oracle").mkdir(parents=True, exist_ok=True)
    size = (2 * SHAPE[0], 2 * SHAPE[1])
    rows = []
    for patient in track(range(patients), description="generating sample slices"):
        rng = np.random.default_rng([seed, patient])
        image, label = phantom(rng, np.random.default_rng([seed, patient, 0]))
        areas = label.sum((0, 1))
        # Slices that touch the tumour with a few voxels only could be called either way.
        clear = areas > 0.25 * areas.max()
        inside = np.flatnonzero(clear)
        outside = np.flatnonzero((areas == 0) & (np.abs(np.arange(len(areas)) - len(areas) / 2) < len(areas) / 3))
        with_tumor = rng.permutation(inside)[: slices // 2]
        chosen = [*with_tumor, *rng.permutation(outside)[: slices - len(with_tumor)]]
        for index in sorted(int(z) for z in chosen):
            name = f"patient{patient:03d}_{index:02d}.png"
            scaled = np.clip(255 * image[:, :, index] / np.percentile(image, 99.9), 0, 255).astype(np.uint8)
            mask = label[::-1, ::-1, index].T
            Image.fromarray(scaled[::-1, ::-1].T).resize(size).save(folder / name)
            Image.fromarray(mask).resize(size, Image.Resampling.NEAREST).save(folder / "oracle" / name)
            label_name = SLICE_CLASSES[int(clear[index])]
            rows.append({"file": name, "label": label_name, "patient": f"patient{patient:03d}"})
    write_table(folder / LABELS_TABLE, ("file", "label", "patient"), rows)
    return [row["file"].removesuffix(".png") for row in rows]


def _ellipsoid(grid: np.ndarray, centre: np.ndarray | list[float], radii: np.ndarray | list[float]) -> np.ndarray:
    offset = (grid - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    return np.asarray((offset**2).sum(0) < 1)


def main(
    folder: Annotated[Path, typer.Argument(help="studies folder to write")],
    slices: Annotated[bool, typer.Option("--slices", help="slices with classes instead of volumes")] = False,
    app: Annotated[str, typer.Option(help="what this app takes, instead of volumes")] = "",
    clusters: Annotated[int, typer.Option(min=1, help="different patients")] = 12,
    copies: Annotated[int, typer.Option(min=1, help="near-duplicates of each")] = 3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Generate sample studies with true labels in the folder `oracle`."""
    if app and app not in kinds():
        raise typer.BadParameter(f"unknown: {app}; known: {', '.join(kinds())}", param_hint="--app")
    if slices or (app and kinds()[app].samples == "slices"):
        write_slices(folder, seed=seed)
    else:
        write_phantoms(folder, clusters, copies, seed)


if __name__ == "__main__":
    typer.run(main)
