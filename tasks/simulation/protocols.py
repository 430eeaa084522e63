"""Make part of a pool look as if it came from other scanners: a semi-synthetic test of a hospital's mixed pool.

Every transform is MONAI's, drawn with an explicit seed; labels stay as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandShiftIntensity,
    RandSimulateLowResolution,
    ScaleIntensity,
)

from tasks.common.files import write_json
from tasks.simulation.data_sets import Pool

ORIGINAL = "original"
PROTOCOLS: Mapping[str, Callable[[], Compose]] = {
    "inverted": lambda: Compose([ScaleIntensity(1.0, 0.0), RandShiftIntensity(0.05, prob=1)]),
    "low_resolution": lambda: Compose([ScaleIntensity(), RandSimulateLowResolution(prob=1, zoom_range=(0.35, 0.5))]),
    "bias_field": lambda: Compose([ScaleIntensity(), RandBiasField(degree=3, coeff_range=(0.5, 0.8), prob=1)]),
    "noise": lambda: Compose(
        [
            ScaleIntensity(),
            RandGaussianSmooth((0.6, 0.9), (0.6, 0.9), (0.6, 0.9), prob=1),
            RandGaussianNoise(1, 0, 0.12, sample_std=False),
        ]
    ),
}
"""Protocol -> transform of one channel scaled to [0, 1]."""


def near_duplicate() -> Compose:
    """A follow-up on the same scanner: almost the same intensities."""
    return Compose(
        [ScaleIntensity(), RandGaussianNoise(1, 0, 0.01, sample_std=False), RandShiftIntensity(0.02, prob=1)]
    )


def assign(names: Sequence[str], share: float, seed: int) -> dict[str, str]:
    """Give a share of the images another protocol, the protocols in turn.

    Args:
        names: image names.
        share: share of the images that change, in [0, 1].
        seed: decides which.

    Returns:
        Name -> protocol, ``"original"`` for the others.

    Raises:
        ValueError: ``share`` out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"protocols must be a share between 0 and 1, got {share}")
    order = np.random.default_rng(seed).permutation(sorted(names))
    changed = order[: round(share * len(order))]
    kinds = list(PROTOCOLS)
    protocol = {str(name): kinds[i % len(kinds)] for i, name in enumerate(changed)}
    return {name: protocol.get(name, ORIGINAL) for name in names}


def balanced(names: Sequence[str], seed: int) -> dict[str, str]:
    """Spread images evenly over the original and all other protocols, for a test set."""
    kinds = [ORIGINAL, *PROTOCOLS]
    order = np.random.default_rng(seed).permutation(sorted(names))
    return {str(name): kinds[i % len(kinds)] for i, name in enumerate(order)}


def apply(source: Path, target: Path, transform: Compose, seed: int) -> None:
    """Write a changed copy of a volume.

    Args:
        source: NIfTI, 3D or 4D with channels last; zero voxels (background) stay zero.
        target: file to write, with the geometry of the source.
        transform: one of :data:`PROTOCOLS` or :func:`near_duplicate`.
        seed: with the file name, decides the transform's parameters.
    """
    image = nibabel.load(source)
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    channels = voxels[None] if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0)
    state = zlib.crc32(f"{seed}/{target.name}".encode())
    changed = []
    for channel in channels:
        transform.set_random_state(seed=state)
        result = np.asarray(transform(torch.from_numpy(channel[None].copy())))[0]
        changed.append(np.where(channel == 0, 0, 1000 * (result - result.min() + 1e-3)))
    stacked = np.stack(changed, -1) if voxels.ndim == 4 else changed[0]
    nibabel.save(nibabel.Nifti1Image(stacked.astype(np.float32), image.affine), target)


def mix_protocols(pool: Pool, share: float, duplicates: int, seed: int, folder: Path) -> Pool:
    """A pool as if from several scanners, with near-duplicates, and a test set balanced over the

    Args:
        pool: real images.
        share: share of the pool that changes protocol.
        duplicates: near-duplicates added to the pool.
        seed: decides everything random.
        folder: where changed images are written (kept if they are there).
    """
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, source: Path, transform: Any) -> Path:
        target = folder / name
        if not target.is_file():
            temporary = folder / f"part_{name}"
            apply(source, temporary, transform, seed)
            temporary.replace(target)
        return target

    def change(files: Mapping[str, Path], kinds: Mapping[str, str]) -> dict[str, Path]:
        return {
            name: files[name] if kind == ORIGINAL else write(name, files[name], PROTOCOLS[kind]())
            for name, kind in kinds.items()
        }

    pool_kinds, test_kinds = assign(list(pool.pool), share, seed), balanced(list(pool.test), seed)
    changed, test = change(pool.pool, pool_kinds), change(pool.test, test_kinds)
    labels = dict(pool.labels)
    for name in np.random.default_rng([seed, 1]).permutation(sorted(changed))[:duplicates]:
        copy = f"duplicate_{name}"
        changed[copy] = write(copy, changed[str(name)], near_duplicate())
        labels[copy] = pool.labels[str(name)]
    write_json(folder / "protocols.json", {"pool": pool_kinds, "test": test_kinds})
    words = f"semi-synthetic: {share:.0%} of the pool with changed protocol, {duplicates} near-duplicates"
    return replace(pool, pool=changed, test=test, labels=labels, semi_synthetic=words)
