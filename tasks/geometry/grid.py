"""Where the voxels of a volume are: shapes, affines, and label maps brought onto the grid of their image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from scipy.ndimage import affine_transform

from tasks.common.files import LabelError, reading
from tasks.geometry.sizes import check_volume, is_nrrd, sides

TOLERANCE = 0.05
"""Voxels (of the smallest side) that corners may be apart for two grids to be the same."""
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Voxels in space.

    Attributes:
        shape: voxels per axis.
        affine: ``[4, 4]``, voxel index to RAS coordinates in mm.
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """Voxel sizes in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def corners(self) -> np.ndarray:
        """``[8, 3]``, centres of the corner voxels in RAS mm."""
        ends = np.stack(np.meshgrid(*[(0, side - 1) for side in self.shape], indexing="ij"), -1).reshape(-1, 3)
        return ends @ self.affine[:3, :3].T + self.affine[:3, 3]

    def is_like(self, other: Grid) -> bool:
        """Whether both have the same voxels at the same places."""
        if self.shape != other.shape:
            return False
        apart = np.abs(self.corners() - other.corners()).max()
        return bool(apart <= TOLERANCE * min(self.spacing.min(), other.spacing.min()))


def read_grid(file: Path) -> Grid:
    """The grid of a NIfTI or NRRD volume, from its header.

    Raises:
        ImageError: missing, unreadable or no volume.
    """
    check_volume(file)
    with reading(file):
        if is_nrrd(file):
            reader = SimpleITK.ImageFileReader()
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
            return _itk_grid(reader)
        header = nibabel.load(file)
        if len(header.shape) < 3:
            raise ValueError("it is no volume")
        return Grid(tuple(map(int, header.shape[:3])), np.asarray(header.affine, dtype=float))


def _itk_grid(image: SimpleITK.Image | SimpleITK.ImageFileReader) -> Grid:
    if image.GetDimension() < 3:
        raise ValueError("it is no volume")
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return Grid(tuple(image.GetSize()[:3]), _RAS @ affine)


def onto(label: np.ndarray, grid: Grid, image: Grid) -> tuple[np.ndarray, str]:
    """Bring a label map onto the grid of its image where the two differ in their directions only.

    Args:
        label: ``[X, Y, Z]`` values.
        grid: where they are.
        image: where they should be.

    Returns:
        The label map on the grid of the image, and what was done, empty if nothing.

    Raises:
        LabelError: other size, spacing or place.
    """
    if grid.is_like(image):
        return label, ""
    turn = ornt_transform(io_orientation(grid.affine), io_orientation(image.affine))
    turned = Grid(
        tuple(int(side) for side in apply_orientation(np.empty(grid.shape, np.bool_), turn).shape),
        grid.affine @ inv_ornt_aff(turn, grid.shape),
    )
    if turned.shape != image.shape:
        raise LabelError(f"the label has {sides(grid.shape)} voxels, its image {sides(image.shape)}")
    if not np.allclose(turned.spacing, image.spacing, rtol=0.01):
        raise LabelError(f"the label has voxels of {_mm(turned.spacing)} mm, its image {_mm(image.spacing)} mm")
    reordered = np.ascontiguousarray(apply_orientation(label, turn))
    if turned.is_like(image):
        codes = ("".join(aff2axcodes(one.affine)) for one in (grid, image))
        return reordered, "reordered from {} to {}".format(*codes)
    middles = [one.corners().mean(0) for one in (turned, image)]
    if np.abs(middles[0] - middles[1]).max() > image.spacing.max() / 2 and not np.allclose(
        turned.affine[:3, 3], image.affine[:3, 3], atol=float(image.spacing.min()) * TOLERANCE
    ):
        raise LabelError(
            f"the label lies elsewhere: its first voxel at {_mm(turned.affine[:3, 3])} mm, "
            f"that of the image at {_mm(image.affine[:3, 3])} mm"
        )
    pull = np.linalg.inv(turned.affine) @ image.affine
    return affine_transform(reordered, pull, output_shape=image.shape, order=0), "resampled to the image's direction"


def _mm(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
