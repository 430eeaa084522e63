"""Prepare a BraTS 2019 or 2020 folder for the apps.

``python -m tasks.brats slices BRATS STUDIES`` makes three-channel axial slices with tumour and a ``labels.csv`` for
``image_classification`` (Hao et al. 2021, section 2.2.1); ``python -m tasks.brats volumes BRATS STUDIES`` makes
volumes with ``channels/`` and true labels in ``oracle/`` for ``volume_segmentation``.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import nibabel
import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from tasks.common.files import ImageError, split_names, write_table
from tasks.learning.groups import LABELS_TABLE

GRADES = ("LGG", "HGG")
SLICE_SEQUENCES = ("t1", "t1ce", "t2")
SLICES = 20
BALANCED_SLICES = {"LGG": 30, "HGG": 10}
"""Slices per patient, so that both grades have about as many (259 HGG and 76 LGG patients)."""

_ENHANCING = 4  # BraTS leaves out the value 3
_COLUMNS = ("file", "label", "patient")

app = typer.Typer(help="Prepare a BraTS 2019 or 2020 folder: HGG|LGG/<patient>/<patient>_<sequence>.nii[.gz].")


@dataclass(frozen=True)
class Patient:
    """One patient folder.

    Attributes:
        name: of the folder.
        grade: ``"LGG"`` or ``"HGG"``.
        folder: where the sequences lie.
    """

    name: str
    grade: str
    folder: Path

    def file(self, sequence: str) -> Path:
        """File of a sequence or of the segmentation.

        Raises:
            ImageError: there is none.
        """
        for ending in (".nii.gz", ".nii"):
            path = self.folder / f"{self.name}_{sequence}{ending}"
            if path.is_file():
                return path
        raise ImageError(f"{self.folder} has no {self.name}_{sequence}.nii or .nii.gz")


def patients(brats: Path) -> list[Patient]:
    """All patients by grade and name.

    Raises:
        ValueError: the folder has none.
    """
    found = [
        Patient(folder.name, grade, folder)
        for grade in GRADES
        for folder in sorted((brats / grade).glob("*"))
        if folder.is_dir()
    ]
    if not found:
        raise ValueError(f"{brats} has no patient folders in {' or '.join(GRADES)}")
    return found


def slices_with_tumor(segmentation: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Random axial slices that contain tumour, ascending; all of them if there are fewer than asked for.

    Args:
        segmentation: ``[X, Y, Z]``, 0 is background.
        count: slices.
        rng: decides which.
    """
    holding = np.flatnonzero((segmentation > 0).any((0, 1)))
    return sorted(int(index) for index in rng.permutation(holding)[:count])


def write_slices(patient: Patient, target: Path, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Write a patient's slices ``[X, Y, 1, 3]`` (T1, T1c, T2) with their place in the volume's geometry.

    Returns:
        Rows ``file``, ``label`` and ``patient``.

    Raises:
        ImageError: a sequence is missing or has another shape.
    """
    segmentation = nibabel.load(patient.file("seg"))
    volumes = [nibabel.load(patient.file(sequence)) for sequence in SLICE_SEQUENCES]
    for sequence, volume in zip(SLICE_SEQUENCES, volumes, strict=True):
        if volume.shape != segmentation.shape:
            raise ImageError(f"{patient.file(sequence)} has the shape {volume.shape}, not {segmentation.shape}")
    channels = np.stack([np.asarray(volume.dataobj) for volume in volumes], -1)
    rng = np.random.default_rng([seed, zlib.crc32(patient.name.encode())])
    rows = []
    for index in slices_with_tumor(np.asarray(segmentation.dataobj), count, rng):
        affine = segmentation.affine.copy()
        affine[:3, 3] += index * affine[:3, 2]
        name = f"{patient.name}_{index:03d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(channels[:, :, index : index + 1], affine), target / name)
        rows.append({"file": name, "label": patient.grade, "patient": patient.name})
    return rows


def write_volume(patient: Patient, target: Path, channels: Sequence[str], whole: bool) -> dict[str, str]:
    """Copy a patient's sequences, the first to the root and the others to ``channels/<name>``, and its label.

    Args:
        patient: whose.
        target: studies folder.
        channels: sequences, the one that viewers show first.
        whole: one label for the whole tumour; else 1 necrotic, 2 oedema, 3 enhancing.

    Returns:
        Row with ``file``, ``label`` (the grade) and ``patient``.

    Raises:
        ImageError: a sequence is missing.
    """
    sources = [patient.file(sequence) for sequence in channels]
    segmentation = nibabel.load(patient.file("seg"))
    name = f"{patient.name}.nii.gz"
    for number, (sequence, source) in enumerate(zip(channels, sources, strict=True)):
        path = target / name if number == 0 else target / "channels" / sequence / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".gz":
            shutil.copyfile(source, path)
        else:
            nibabel.save(nibabel.load(source), path)
    values = np.asarray(segmentation.dataobj)
    label = (values > 0) if whole else np.where(values == _ENHANCING, 3, values)
    (target / "oracle").mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), segmentation.affine), target / "oracle" / name)
    return {"file": name, "label": patient.grade, "patient": patient.name}


def _each(brats: Path, console: Console) -> Iterator[Patient]:
    try:
        found = patients(brats)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="BRATS") from error
    yield from track(found, description="preparing patients", console=console)


BraTS = Annotated[Path, typer.Argument(help="folder with HGG and LGG", exists=True, file_okay=False)]
Studies = Annotated[Path, typer.Argument(help="studies folder to write")]


@app.command()
def slices(
    brats: BraTS,
    studies: Studies,
    count: Annotated[int, typer.Option("--slices", min=1, help="slices per patient")] = SLICES,
    balanced: Annotated[bool, typer.Option(help="30 slices of each LGG patient, 10 of each HGG patient")] = False,
    seed: Annotated[int, typer.Option(min=0, help="decides which slices")] = 0,
) -> None:
    """Three-channel slices with tumour, and their grades in labels.csv."""
    console = Console()
    studies.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for patient in _each(brats, console):
        wanted = BALANCED_SLICES[patient.grade] if balanced else count
        try:
            written = write_slices(patient, studies, wanted, seed)
        except ImageError as error:
            console.print(f"[yellow]left out:[/] {error}")
            continue
        if len(written) < wanted:
            console.print(f"{patient.name}: only {len(written)} slices with tumour")
        rows += written
    write_table(studies / LABELS_TABLE, _COLUMNS, rows)
    console.print(f"{len(rows)} slices of {len({row['patient'] for row in rows})} patients in {studies}")


@app.command()
def volumes(
    brats: BraTS,
    studies: Studies,
    channels: Annotated[str, typer.Option(help="sequences, comma separated, the shown one first")] = "t1ce,t2",
    whole: Annotated[bool, typer.Option(help="one label for the whole tumour")] = False,
) -> None:
    """Volumes with one file per sequence, and true labels in oracle."""
    console = Console()
    studies.mkdir(parents=True, exist_ok=True)
    names = split_names(channels)
    rows = []
    for patient in _each(brats, console):
        try:
            rows.append(write_volume(patient, studies, names, whole))
        except ImageError as error:
            console.print(f"[yellow]left out:[/] {error}")
    write_table(studies / LABELS_TABLE, _COLUMNS, rows)
    console.print(f"{len(rows)} patients in {studies}; start the server with --conf channels {','.join(names)}")


if __name__ == "__main__":
    app()
