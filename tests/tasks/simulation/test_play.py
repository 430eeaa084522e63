"""The simulation: pools, protocols, reproducible and resumable runs, the command line."""

import csv
import json
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from tasks.classification.oracle import ClassificationOracle
from tasks.image_segmentation.oracle import ImageOracle
from tasks.simulation import curves as learning_curves
from tasks.simulation import play as simulation
from tasks.simulation.data_sets import read_pool, subset
from tasks.simulation.play import FULL_DATA, INITIAL, Plan, simulate
from tasks.simulation.protocols import mix_protocols
from tasks.volume_segmentation.oracle import VolumeOracle
from tests.server import ROOT
from tests.tasks.classification.conftest import QUICK as QUICK_CLASSIFIER
from tests.tasks.classification.conftest import write_discs
from tests.tasks.image_segmentation.conftest import QUICK as QUICK_IMAGES
from tests.tiny import QUICK

VOLUMES = VolumeOracle()
IMAGES = ImageOracle()
PLAN = Plan("volume_segmentation", "tumor", 2, 1, 2, "small", {name: str(value) for name, value in QUICK.items()}, 1)


@pytest.fixture
def folder(datastore, tmp_path) -> Path:
    """Eight tiny volumes in the root and their labels in ``oracle``."""
    (tmp_path / "oracle").rename(tmp_path / "studies" / "oracle")
    return tmp_path / "studies"


def test_a_folder_with_an_oracle_is_split_by_the_seed(folder):
    pool = read_pool(folder, VOLUMES)
    assert (len(pool.pool), len(pool.test)) == (6, 2)
    assert set(pool.labels) == {*pool.pool, *pool.test}
    assert not set(pool.pool) & set(pool.test)
    assert read_pool(folder, VOLUMES) == pool
    assert read_pool(folder, VOLUMES, seed=1) != pool


def test_a_folder_with_a_description_keeps_its_split(tmp_path, folder):
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    for name in ("image0.nii.gz", "image1.nii.gz"):
        (folder / name).rename(folder / "images" / name)
        (folder / "oracle" / name).rename(folder / "labels" / name)
    (folder / "dataset.json").write_text(json.dumps({"pool": ["image0.nii.gz"], "test": ["image1.nii.gz"]}))
    pool = read_pool(folder, VOLUMES)
    assert (list(pool.pool), list(pool.test)) == (["image0.nii.gz"], ["image1.nii.gz"])
    (folder / "labels" / "image1.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"labels/image1\.nii\.gz is missing"):
        read_pool(folder, VOLUMES)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no images with labels"):
        read_pool(tmp_path, VOLUMES)


def test_a_subset_is_drawn_by_the_seed(folder):
    pool = read_pool(folder, VOLUMES)
    small = subset(pool, 3, 1, seed=0)
    assert (len(small.pool), len(small.test)) == (3, 1)
    assert set(small.pool) <= set(pool.pool)
    assert subset(pool, 3, 1, seed=0) == small
    assert subset(pool, 0, 0, seed=0) == pool


def test_mixed_protocols_change_images_add_duplicates_and_name_the_pool(folder, tmp_path):
    pool = read_pool(folder, VOLUMES)
    mixed = mix_protocols(pool, 0.5, 2, 0, tmp_path / "mixed")
    assert mixed.semi_synthetic == "semi-synthetic: 50% of the pool with changed protocol, 2 near-duplicates"
    assert len(mixed.pool) == len(pool.pool) + 2
    assert sum(mixed.pool[name] != pool.pool[name] for name in pool.pool) == 3
    for name in set(mixed.pool) - set(pool.pool):
        source = name.removeprefix("duplicate_")
        assert mixed.labels[name] == pool.labels[source]
        a, b = (np.asarray(nibabel.load(file).dataobj).ravel() for file in (mixed.pool[name], mixed.pool[source]))
        assert np.corrcoef(a, b)[0, 1] > 0.95
    kinds = json.loads((tmp_path / "mixed" / "protocols.json").read_text())
    assert sorted(kinds["test"]) == sorted(pool.test)
    assert len(set(kinds["test"].values())) == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mixed").glob("*.nii.gz")}
    assert mix_protocols(pool, 0.5, 2, 0, tmp_path / "mixed") == mixed
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def without_times(rows):
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in rows]


def test_a_run_is_reproducible_and_a_killed_one_ends_as_if_it_had_not_been(folder, tmp_path):
    pool = read_pool(folder, VOLUMES)
    straight = simulate(pool, PLAN, "dropout_variance", 0, tmp_path / "straight")
    assert [row["labelled"] for row in straight] == [2, 3, 4]
    assert {"dice_mean", "dice_tumor", "hd95_tumor", "train_seconds", "score_seconds"} <= set(straight[0])
    assert all(0 <= row["dice_mean"] <= 1 for row in straight)

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(pool, PLAN, "dropout_variance", 0, tmp_path / "killed", progress=kill)
    resumed = simulate(pool, PLAN, "dropout_variance", 0, tmp_path / "killed")
    assert without_times(resumed) == without_times(straight)


def test_strategies_of_a_seed_start_from_the_same_initial_run(folder, tmp_path):
    pool = read_pool(folder, VOLUMES)
    first = simulate(pool, PLAN, INITIAL, 0, tmp_path / "initial")
    assert len(first) == 1
    runs = {
        name: simulate(pool, PLAN, name, 0, tmp_path / name, tmp_path / "initial") for name in ("random", "core_set")
    }
    for rows in runs.values():
        assert without_times(rows)[0] | {"strategy": INITIAL} == without_times(first)[0]
        assert [row["labelled"] for row in rows] == [2, 3, 4]
    assert simulate(pool, PLAN, FULL_DATA, 0, tmp_path / "full")[0]["labelled"] == 6


def rows(strategy: str, seed: int, dice: list[float]) -> list[dict]:
    return [
        {
            "strategy": strategy,
            "seed": seed,
            "round": number,
            "labelled": 5 * (number + 1),
            "dice_mean": value,
            "per_image": [value - 0.01, value, value + 0.01],
        }
        for number, value in enumerate(dice)
    ]


def test_the_summary_counts_labels_relative_to_random():
    data = [row for seed in range(3) for row in rows("random", seed, [0.4, 0.6, 0.7 + seed / 1000])]
    data += [row for seed in range(3) for row in rows("bald", seed, [0.4, 0.75, 0.8 + seed / 1000])]
    data += [row | {"labelled": 40} for seed in range(3) for row in rows(FULL_DATA, seed, [0.8])]
    summary = learning_curves.summarise(data, VOLUMES, "pool", "", target=0.7)
    bald = summary["strategies"]["bald"]
    assert bald["labels_to_target"] == [10, 10, 10]
    assert summary["strategies"]["random"]["labels_to_target"] == [15, 15, 15]
    assert bald["labels_to_target_relative_to_random"] == pytest.approx(2 / 3, abs=1e-3)
    assert bald["area_under_curve"]["mean"] > summary["strategies"]["random"]["area_under_curve"]["mean"]
    assert bald["against_random"]["difference"] > 0
    assert summary["full_data"]["dice_mean"]["mean"] == 0.8
    assert summary["rise_from_first_to_last_round"]["random"]["mean"] == pytest.approx(0.301)


def test_one_seed_gives_no_p_value_and_valid_json():
    data = rows("random", 0, [0.1, 0.2]) + rows("bald", 0, [0.2, 0.3])
    summary = learning_curves.summarise(data, VOLUMES, "pool", "", target=0.0)
    assert summary["strategies"]["bald"]["against_random"]["p_holm"] is None
    json.dumps(summary, allow_nan=False)
    assert learning_curves.table(summary).row_count == 2


def test_a_target_nobody_reaches_is_no_number():
    data = [row for seed in range(2) for row in rows("random", seed, [0.1, 0.2])]
    summary = learning_curves.summarise(data, VOLUMES, "pool", "", target=0.9)
    assert summary["strategies"]["random"]["labels_to_target"] == [None, None]
    assert summary["strategies"]["random"]["labels_to_target_relative_to_random"] is None


@pytest.fixture
def command():
    app = Typer()
    app.command()(simulation.main)

    def run(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strategies", "random,best"], "unknown: best"),
        (["--rounds", 9, "--initial", 2, "--batch", 1], "are more than the pool's 6"),
        (["--initial", 2, "--batch", 1, "--train", "max_epochs"], "is not NAME=VALUE"),
    ],
)
def test_wrong_arguments_are_explained(command, folder, tmp_path, options, words):
    result = command(folder, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


@pytest.mark.slow
@pytest.mark.e2e  # minutes
def test_make_simulate_writes_everything_resumes_and_refuses_other_settings(folder, tmp_path):
    out = tmp_path / "out"
    options = "--labels tumor --strategies random,dropout_variance --seeds 1 --initial 2 --rounds 1 --preset small"
    options += " --protocols 0.5 --near-duplicates 1 " + " ".join(f"--train {k}={v}" for k, v in QUICK.items())

    def make(batch: int) -> subprocess.CompletedProcess[str]:
        line = ["make", "simulate", f"DATA={folder}", f"OUT={out}", f"SIMULATE={options} --batch {batch}"]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)

    first = make(1)
    assert first.returncode == 0, first.stdout + first.stderr
    with (out / "rounds.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [(row["strategy"], row["labelled"]) for row in written] == [
        ("random", "2"),
        ("random", "3"),
        ("dropout_variance", "2"),
        ("dropout_variance", "3"),
        (FULL_DATA, "7"),
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["semi_synthetic"].startswith("semi-synthetic")
    assert "semi-synthetic" in first.stdout
    assert (out / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    times = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/rounds.json")}
    assert make(1).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/rounds.json")} == times
    other = make(2)
    assert other.returncode != 0
    assert "other settings" in other.stdout + other.stderr


def test_images_are_graded_in_a_simulation_with_patients_kept_together(tmp_path):
    write_discs(tmp_path / "discs", count=24)
    reader = ClassificationOracle()
    pool = read_pool(tmp_path / "discs", reader, "patient")
    assert (len(pool.pool), len(pool.test)) == (18, 6)
    patients = [{name.split("_")[0] for name in side} for side in (pool.pool, pool.test)]
    assert not patients[0] & patients[1]
    assert set(pool.labels.values()) == {"clear", "disc"}
    train = {name: str(value) for name, value in QUICK_CLASSIFIER.items()} | {"learning_rates": "0.01,0.001"}
    plan = Plan("image_classification", "clear,disc", 8, 2, 1, "small", train, 1)
    rows = simulate(pool, plan, "entropy_kl", 0, tmp_path / "run")
    assert [row["labelled"] for row in rows] == [8, 10]
    assert all(0 <= row["auc"] <= 1 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert len(rows[0]["per_image"]) == 6
    assert np.mean(rows[0]["per_image"]) == pytest.approx(rows[0]["accuracy"], abs=1e-4)
    groups = (tmp_path / "run" / "studies" / "labels.csv").read_text().splitlines()
    assert groups[0] == "file,group"
    assert len(groups) == 19


@pytest.fixture
def squares(tmp_path) -> Path:
    """Twenty-four pictures with a bright square, and their masks."""
    rng = np.random.default_rng(0)
    (tmp_path / "squares" / "oracle").mkdir(parents=True)
    for number in range(24):
        mask = np.zeros((24, 36), np.uint8)
        x, y = rng.integers(2, 12, 2)
        mask[y : y + 9, x : x + 12] = 1
        picture = (100 * mask + rng.integers(0, 40, mask.shape)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "squares" / f"image{number:02d}.png")
        Image.fromarray(mask).save(tmp_path / "squares" / "oracle" / f"image{number:02d}.png")
    return tmp_path / "squares"


def test_pseudo_labels_are_trained_on_and_their_dice_is_told(squares, tmp_path):
    pool = read_pool(squares, IMAGES)
    assert (len(pool.pool), len(pool.test)) == (18, 6)
    plan = Plan(
        "image_segmentation", "square", 4, 4, 2, "small", {name: str(value) for name, value in QUICK_IMAGES.items()}, 1
    )
    initial = simulate(pool, plan, INITIAL, 0, tmp_path / "initial")
    runs = {
        name: simulate(pool, plan, name, 0, tmp_path / name, tmp_path / "initial") for name in ("ceal", "ceal_oracle")
    }
    assert [row["pseudo_used"] for row in runs["ceal"]] == [None, 2, 4]
    assert runs["ceal"][0]["pseudo_dice"] is None
    assert all(0 <= row["pseudo_dice"] <= 1 for row in runs["ceal"][1:])
    assert {row["pseudo_used"] for row in runs["ceal_oracle"]} == {None}
    assert {row["pseudo_dice"] for row in runs["ceal_oracle"]} == {None}
    assert runs["ceal"][0]["dice_mean"] == runs["ceal_oracle"][0]["dice_mean"] == initial[0]["dice_mean"]
    assert [row["labelled"] for row in runs["ceal"]] == [4, 8, 12]
    again = simulate(pool, plan, "ceal", 0, tmp_path / "again", tmp_path / "initial")
    assert without_times(again) == without_times(runs["ceal"])
    summary = learning_curves.summarise([r for run in runs.values() for r in run], IMAGES, "squares", "", target=0.5)
    assert summary["strategies"]["ceal"]["notes"]["pseudo_used"] == 3
    assert summary["strategies"]["ceal_oracle"]["notes"] == {"pseudo_used": None, "pseudo_dice": None}
    assert learning_curves.table(summary).columns[-1].header == "their Dice"


def test_a_patient_in_pool_and_test_is_refused(tmp_path):
    write_discs(tmp_path / "images", count=6)
    (tmp_path / "images" / "labels.csv").rename(tmp_path / "labels.csv")
    split = {"pool": ["p0_0.png", "p1_0.png"], "test": ["p0_1.png"]}
    (tmp_path / "dataset.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match=r"the group of test image p0_1\.png is also in the pool"):
        read_pool(tmp_path, ClassificationOracle(), "patient")
    assert len(read_pool(tmp_path, ClassificationOracle()).pool) == 2


def test_means_come_with_their_confidence_interval():
    assert learning_curves.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    assert np.isnan(learning_curves.half_width([1.0]))
