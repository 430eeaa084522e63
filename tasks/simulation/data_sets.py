"""Data sets with true labels, split into a pool and test images that share no patient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tasks.common.files import image_id
from tasks.learning.groups import hold_out, read_grouping
from tasks.oracle import Oracle

TEST_SHARE = 0.25


@dataclass(frozen=True)
class Pool:
    """Images with true labels.

    Attributes:
        name: name of the data set.
        pool: image name -> image file, what may be labelled.
        test: image name -> image file, never labelled.
        labels: image name -> true label file or class name.
        groups: image name -> number of its group, empty where each image stands alone.
        semi_synthetic: what was changed, empty for real images as they are.
    """

    name: str
    pool: Mapping[str, Path]
    test: Mapping[str, Path]
    labels: Mapping[str, str]
    groups: Mapping[str, int] = field(default_factory=dict)
    semi_synthetic: str = ""


def read_pool(folder: Path, oracle: Oracle, group_by: str = "", seed: int = 0) -> Pool:
    """Find images, true labels and the test split of a folder.

    Args:
        folder: with ``images/`` and a ``dataset.json`` that lists ``pool`` and ``test``; or with images in its root,
            of which a quarter (whole groups) becomes the test set.
        oracle: knows where true labels are.
        group_by: column of ``labels.csv`` or regular expression on image ids that finds the patient.
        seed: decides the test set where the folder does not.

    Raises:
        ValueError: an image without label, no images, or a group on both sides.
    """
    description = folder / "dataset.json"
    described = description.is_file()
    images = folder / "images" if described else folder
    if described:
        content = json.loads(description.read_text())
        pool, test = content["pool"], content["test"]
        names = [*pool, *test]
    else:
        names = sorted(path.name for path in images.iterdir() if path.name.lower().endswith(tuple(oracle.endings)))
    groups = dict(zip(names, read_grouping(folder, group_by)([image_id(n) for n in names]).tolist(), strict=True))
    if not described:
        held = hold_out(list(groups.values()), TEST_SHARE, np.random.default_rng(seed))
        test = [names[index] for index in held]
        pool = [name for name in names if name not in set(test)]
    if not pool or not test:
        raise ValueError(f"{folder} has no images with labels")
    for name in names:
        if not (images / name).is_file():
            raise ValueError(f"{images / name} is missing")
    both = {groups[name] for name in pool} & {groups[name] for name in test}
    if both:
        shown = next(name for name in test if groups[name] in both)
        raise ValueError(f"{description}: the group of test image {shown} is also in the pool")
    return Pool(
        name=folder.name,
        pool={name: images / name for name in pool},
        test={name: images / name for name in test},
        labels=oracle.truth(folder, names, described),
        groups=groups if group_by else {},
    )


def subset(pool: Pool, pool_size: int, test_size: int, seed: int) -> Pool:
    """At most so many images for the pool and the test set (0: all), drawn by the seed."""

    def draw(files: Mapping[str, Path], size: int) -> dict[str, Path]:
        names = sorted(files)
        if 0 < size < len(names):
            names = sorted(str(name) for name in np.random.default_rng(seed).permutation(names)[:size])
        return {name: files[name] for name in names}

    return replace(pool, pool=draw(pool.pool, pool_size), test=draw(pool.test, test_size))
