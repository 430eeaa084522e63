"""Kill -9, again and again, while labels are on their way to an archive.

``python -m tests.e2e.sending FOLDER RUNS SEED``. A real Orthanc survives; each life of the server is a fork, see
:mod:`tests.e2e.crashes`. Two readers label one series after the other until the server is killed, one time in five
while it starts. No label is given twice, so that each segmentation of the archive tells which one it is. At the end the
archive must have every label that is the last one of its image, and none of them twice. Prints counts as JSON.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import requests
from monailabel.config import settings

from apps.volume_segmentation import main as app_module
from tests.dicom import mr_series
from tests.e2e.crashes import forked, killed, listen, prepare, wait_for_server
from tests.e2e.orthanc import Orthanc
from tests.server import free_port, wait_for

SHAPE = (5, 8, 6)
"""Slices, rows and columns."""
SERIES = 6
READERS = 2
BITS = 30
LONGEST_LIFE = 1.2


def mask(number: int) -> np.ndarray:
    """``[columns, rows, slices]``, another one for every number."""
    values = np.zeros(np.prod(SHAPE), np.uint8)
    values[:BITS] = [int(bit) for bit in f"{number:0{BITS}b}"]
    values[BITS:] = 1  # never empty: there is something to send, on every slice but the first
    return values.reshape(SHAPE).transpose(2, 1, 0)


def number_of(seg: pydicom.Dataset) -> int:
    """Which label a segmentation is, read frame by frame."""
    frames = seg.pixel_array.reshape(-1, *SHAPE[1:])
    groups = seg.PerFrameFunctionalGroupsSequence
    heights = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups]
    first = [frame for frame, height in zip(frames, heights, strict=True) if height < 0.5]
    bits = first[0].ravel()[:BITS] if first else np.zeros(BITS, np.uint8)
    return int("".join(str(int(bit)) for bit in bits), 2)


@dataclass
class Known:
    """What readers sent of each series, in order, and the last one that was acknowledged."""

    sent: dict[str, list[int]] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    labels: int = 0


def label(url: str, known: Known, reader: str, numbers: range, series: list[str]) -> None:
    """Label until the server is gone."""
    http, rng = requests.Session(), random.Random(numbers[0])
    try:
        for number in numbers:
            image = rng.choice(series)
            answer = http.get(f"{url}/datastore/image", params={"image": image}, timeout=30)
            answer.raise_for_status()
            affine = nibabel.Nifti1Image.from_bytes(unpacked(answer.content)).affine
            known.sent.setdefault(image, []).append(number)
            stored = http.put(
                f"{url}/datastore/label",
                params={"image": image},
                files={
                    "label": ("label.nii.gz", gzip.compress(nibabel.Nifti1Image(mask(number), affine).to_bytes(), 1))
                },
                data={"params": json.dumps({"client_id": reader})},
                timeout=30,
            )
            assert stored.status_code == 200, stored.text
            known.stored[image] = number
            known.labels += 1
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        pass
    except Exception as error:
        known.refused.append(f"{reader}: {error!r}")


def unpacked(content: bytes) -> bytes:
    """A NIfTI file, compressed or not."""
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def live(life: int, archive: str, known: Known, series: list[str], seconds: float) -> bool:
    """One start, work, and a kill; whether the server was up before it."""
    port = free_port()

    def serve() -> None:
        prepare(archive)
        listen(port)

    child, readers = forked(serve), []
    url, early = f"http://127.0.0.1:{port}", life % 5 == 4
    try:
        if not early:
            wait_for_server(url, child)
            for place in range(READERS):
                numbers = range(1000 * (READERS * life + place) + 1, 1000 * (READERS * life + place + 1))
                mine = series[place::READERS]  # its own only, so that the order of what was sent is known
                readers.append(threading.Thread(target=label, args=(url, known, f"ann{place}", numbers, mine)))
                readers[-1].start()
        time.sleep(seconds)
    finally:
        killed(child)
        for reader in readers:
            reader.join()
    assert not known.refused, known.refused
    return not early


def look(archive: Orthanc, studies: str, known: Known) -> None:
    """Everything acknowledged is in the archive, as it was sent, and no label is there twice."""
    port = free_port()

    def serve() -> None:
        prepare(studies)
        listen(port)

    child, url = forked(serve), f"http://127.0.0.1:{port}"
    try:
        wait_for_server(url, child)

        def states() -> dict[str, Any]:
            infos = {
                image: requests.get(
                    f"{url}/datastore/label/info", params={"label": image, "tag": "final"}, timeout=30
                ).json()
                for image in known.stored
            }
            return {image: info["archive"] for image, info in infos.items()}

        wait_for(lambda: all(one["state"] == "stored" for one in states().values()), 120, lambda: f"{states()}")
        segs = archive.instances("SEG")
        of_series = {seg.SeriesInstanceUID: number_of(seg) for seg in segs}
        assert len(of_series) == len(segs), "a series of the archive has more than one segmentation"
        twice = [number for number, count in Counter(of_series.values()).items() if count > 1]
        assert not twice, f"labels {twice} are in the archive more than once"
        assert set(of_series.values()) <= {number for sent in known.sent.values() for number in sent}
        for image, state in states().items():
            later = known.sent[image][known.sent[image].index(known.stored[image]) :]
            assert of_series[state["series"]] in later, f"the archive has an older label of {image}"
    finally:
        killed(child)


def main(folder: Path, runs: int, seed: int) -> None:
    assert app_module.VolumeSegmentation  # imported here, so that the forks need not
    folder.mkdir(parents=True)
    settings.MONAI_LABEL_DATASTORE_CACHE_PATH = str(folder / "kept")
    archive, rng, known = Orthanc(folder), random.Random(seed), Known()
    try:
        for number in range(SERIES):
            archive.upload(mr_series(f"patient{number}", np.full(SHAPE, 100 + number)))
        series = sorted(row["SeriesInstanceUID"] for row in archive.series("MR"))
        studies, started = f"{archive.url}/dicom-web", 0
        for life in range(runs):
            started += live(life, studies, known, series, rng.uniform(0.0, LONGEST_LIFE))
        look(archive, studies, known)
        sent = len(archive.series("SEG"))
    finally:
        archive.stop()
    print(json.dumps({"kills": runs, "started": started, "labels": known.labels, "segmentations": sent}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
