"""Play the annotator on images with true labels, through the same app object that the server uses.

``python -m tasks.simulation FOLDER --labels anterior,posterior --out runs/hippocampus`` for several strategies
and seeds; every seed gives all strategies the same initial images, test images and training budget. A killed run
goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance, clear_cache
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from strategies.registry import registered
from tasks.common.files import split_names, write_json, write_table
from tasks.kinds import kinds
from tasks.learning.groups import LABELS_TABLE
from tasks.learning.scoring import RECORDS
from tasks.oracle import ANNOTATOR, Oracle
from tasks.simulation import curves as learning_curves
from tasks.simulation.data_sets import Pool, read_pool, subset
from tasks.simulation.processes import end_with_parent
from tasks.simulation.protocols import mix_protocols

logger = logging.getLogger(__name__)

APPS = Path(__file__).resolve().parents[2] / "apps"
FULL_DATA = learning_curves.FULL_DATA
INITIAL = "initial"
PROTOCOLS_CHANGE = "volume_segmentation"


@dataclass(frozen=True)
class Plan:
    """One simulation.

    Attributes:
        app: folder name of the app, a key of :func:`tasks.kinds.kinds`.
        labels: label names, comma separated.
        initial: images labelled at random before the first training.
        batch: images per round.
        rounds: rounds after the initial set.
        preset: hyper-parameters of the app, empty for its default.
        train: hyper-parameters that differ from the preset's.
        threads: CPU threads per worker.
    """

    app: str
    labels: str
    initial: int
    batch: int
    rounds: int
    preset: str
    train: Mapping[str, str]
    threads: int


def simulate(
    pool: Pool,
    plan: Plan,
    strategy: str,
    seed: int,
    folder: Path,
    initial: Path | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """One strategy with one seed: label, train, score, evaluate, for every round.

    Args:
        pool: images and true labels.
        plan: sizes and hyper-parameters.
        strategy: name in the catalogue; ``"initial"`` for the random initial set, trained and scored; ``"full_data"``
            for everything labelled and trained once.
        seed: decides the initial images and every training.
        folder: keeps studies, store and results; a second call goes on where the first stopped.
        initial: folder of the seed's finished ``"initial"`` run, from which a strategy starts.
        progress: called after each round.

    Returns:
        One row per round.
    """
    torch.set_num_threads(plan.threads)
    results = folder / "rounds.json"
    rows = _rows(folder)
    sizes = _sizes(plan, strategy, len(pool.pool))
    if not rows and initial is not None:
        rows = _start_from(initial, folder, strategy)
        progress()
    if len(rows) == len(sizes):
        return rows
    app = _app(pool, plan, strategy, seed, folder / "studies")
    oracle = kinds()[plan.app].oracle
    for number in range(len(rows), len(sizes)):
        while app.store.labelled_count() < sizes[number]:
            _annotate(app, oracle, pool, "random" if number == 0 else strategy)
        start = time.monotonic()
        if (model := app.store.current_model(oracle.model)) is None or model.labelled_count != sizes[number]:
            app.train({"model": oracle.model, **plan.train, "seed": 1000 * seed + number})
        trained = time.monotonic()
        examination = oracle.examine(app, pool.test, pool.labels)
        examined = time.monotonic()
        if _needs_records(strategy) and (number + 1 < len(sizes) or strategy == INITIAL):
            app.scoring({"method": RECORDS})
            app.task.settle(app.datastore())
        scored = time.monotonic()
        rows.append(
            {
                "strategy": strategy,
                "seed": seed,
                "round": number,
                "labelled": sizes[number],
                "train_seconds": round(trained - start, 1),
                "score_seconds": round(scored - examined, 1),
                **examination,
            }
        )
        write_json(results, rows)
        progress()
    app.store.close()
    return rows


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The finished rounds of a run."""
    results = folder / "rounds.json"
    rows: list[dict[str, Any]] = json.loads(results.read_text()) if results.is_file() else []
    return rows


def _sizes(plan: Plan, strategy: str, pool_size: int) -> list[int]:
    """Labelled images at the end of each round of a run."""
    if strategy == FULL_DATA:
        return [pool_size]
    return [plan.initial + plan.batch * number for number in range(1 if strategy == INITIAL else plan.rounds + 1)]


def _needs_records(strategy: str) -> bool:
    return strategy == INITIAL or (strategy in registered() and registered()[strategy].needs_records)


def _start_from(initial: Path, folder: Path, strategy: str) -> list[dict[str, Any]]:
    """Copy the seed's initial run: its labels, model and records are the same for all strategies."""
    temporary = folder.with_name(f"part-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(initial, temporary, symlinks=True, ignore=shutil.ignore_patterns("log.txt", "rounds.json"))
    rows = [row | {"strategy": strategy} for row in json.loads((initial / "rounds.json").read_text())]
    shutil.rmtree(folder, ignore_errors=True)
    write_json(temporary / "rounds.json", rows)
    temporary.replace(folder)
    return rows


def _app(pool: Pool, plan: Plan, strategy: str, seed: int, studies: Path) -> Any:
    studies.mkdir(parents=True, exist_ok=True)
    for name, path in pool.pool.items():
        if not (studies / name).exists():
            (studies / name).symlink_to(path.resolve())
    conf = {"labels": plan.labels, "batch_size": str(plan.batch), "seed": str(seed), "auto_train": "false"}
    if plan.preset:
        conf["preset"] = plan.preset
    if strategy in registered():
        conf["strategy"] = strategy
    if pool.groups:
        groups = ({"file": name, "group": pool.groups[name]} for name in pool.pool)
        write_table(studies / LABELS_TABLE, ("file", "group"), groups)
        conf["group_by"] = "group"
    os.environ["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
    settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False
    return app_instance(str(APPS / plan.app), str(studies), conf)


def _annotate(app: Any, oracle: Oracle, pool: Pool, strategy: str) -> None:
    """Ask for the next image and give its true label."""
    sample = app.next_sample({"strategy": strategy if strategy in registered() else "random", "client_id": ANNOTATOR})
    if not sample:
        raise ValueError("the pool has no image left: fewer rounds or a smaller batch are needed")
    name = Path(sample["name"]).name
    app.on_save_label(sample["id"], oracle.answer(app, sample["id"], pool.labels[name]))


def _worker(
    pool: Pool, plan: Plan, strategy: str, seed: int, runs: Path, progress: Callable[[int], None]
) -> list[dict[str, Any]]:
    log = runs / f"{strategy}-{seed}.log"
    logging.basicConfig(filename=log, level=logging.INFO, force=True)
    initial = None if strategy in (INITIAL, FULL_DATA) else runs / f"{INITIAL}-{seed}"
    try:
        return simulate(pool, plan, strategy, seed, runs / f"{strategy}-{seed}", initial, lambda: progress(1))
    finally:
        clear_cache()


def run_all(
    pool: Pool, plan: Plan, strategies: Sequence[str], seeds: int, out: Path, workers: int, console: Console
) -> list[dict[str, Any]]:
    """The initial set of every seed, then all strategies, ``workers`` runs at a time, with a progress bar.

    Returns:
        All rows of the strategies and of the full-data models, by strategy, seed and round.
    """
    runs = out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    names = [*strategies, FULL_DATA]
    jobs = [(name, seed) for seed in range(seeds) for name in names]
    stages = [[(INITIAL, seed) for seed in range(seeds)], jobs]
    lengths = {job: len(_sizes(plan, job[0], len(pool.pool))) for stage in stages for job in stage}
    context = multiprocessing.get_context("spawn")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        context.Manager() as manager,
        Progress(*columns, console=console) as bar,
        ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as executor,
    ):
        finished = {job: _rows(runs / f"{job[0]}-{job[1]}") for job in lengths}
        task = bar.add_task("rounds", total=sum(lengths.values()), completed=sum(map(len, finished.values())))
        queue = manager.Queue()
        for stage in stages:
            due = [job for job in stage if len(finished[job]) < lengths[job]]
            waiting = {executor.submit(_worker, pool, plan, *job, runs, queue.put): job for job in due}
            while waiting:
                for future in wait(waiting, timeout=1.0).done:
                    finished[waiting.pop(future)] = future.result()
                    if stage is jobs:
                        _write_results(_in_order(finished, jobs, lengths), out)
                while not queue.empty():
                    bar.advance(task, queue.get())
        bar.update(task, completed=sum(lengths.values()))
    return _in_order(finished, jobs, lengths)


def _in_order(
    finished: Mapping[tuple[str, int], list[dict[str, Any]]],
    jobs: Sequence[tuple[str, int]],
    lengths: Mapping[tuple[str, int], int],
) -> list[dict[str, Any]]:
    """Rows of the finished runs by strategy (in the order asked for), seed and round."""
    names = list(dict.fromkeys(name for name, _ in jobs))
    complete = sorted(
        (job for job in jobs if len(finished[job]) == lengths[job]), key=lambda j: (names.index(j[0]), j[1])
    )
    return [row for job in complete for row in finished[job]]


def _write_results(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    write_table(out / "rounds.csv", [name for name in rows[0] if name != "per_image"], rows)


def _options(pairs: Sequence[str]) -> dict[str, str]:
    options = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--train")
        options[name] = value
    return options


def main(
    data: Annotated[Path, typer.Argument(help="folder with images and true labels", exists=True, file_okay=False)],
    labels: Annotated[str, typer.Option(help="label names, comma separated, value 1 first")] = "tumor",
    app: Annotated[str, typer.Option(help=f"one of {', '.join(kinds())}")] = "volume_segmentation",
    group_by: Annotated[str, typer.Option(help="patient: column of labels.csv or pattern on image ids")] = "",
    strategies: Annotated[str, typer.Option(help="query strategies, comma separated")] = "random,dropout_variance",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    initial: Annotated[int, typer.Option(min=2, help="images labelled at random first")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="images per round")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="rounds after the initial set")] = 4,
    out: Annotated[Path, typer.Option(help="results; a second run with the same folder resumes")] = Path(
        "runs/simulation"
    ),
    preset: Annotated[str, typer.Option(help="hyper-parameters; default is the best for this machine")] = "",
    train: Annotated[list[str] | None, typer.Option(help="hyper-parameter NAME=VALUE, repeatable")] = None,
    pool_size: Annotated[int, typer.Option(min=0, help="use so many pool images, 0: all")] = 0,
    test_size: Annotated[int, typer.Option(min=0, help="use so many test images, 0: all")] = 0,
    share: Annotated[
        float, typer.Option("--protocols", min=0, max=1, help="share of the pool from other scanners")
    ] = 0.0,
    duplicates: Annotated[int, typer.Option("--near-duplicates", min=0, help="with --protocols: copies added")] = 10,
    target: Annotated[float, typer.Option(min=0, max=1, help="result for 'labels needed', 0: random's last")] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="runs at a time")] = 1,
) -> None:
    """Compare query strategies on a folder with true labels."""
    console = Console()
    names = split_names(strategies)
    unknown = [name for name in names if name not in registered()]
    if unknown:
        raise typer.BadParameter(
            f"unknown: {', '.join(unknown)}; known: {', '.join(registered())}", param_hint="--strategies"
        )
    if app not in kinds():
        raise typer.BadParameter(f"unknown: {app}; known: {', '.join(kinds())}", param_hint="--app")
    if share > 0 and app != PROTOCOLS_CHANGE:
        raise typer.BadParameter("changes volumes only", param_hint="--protocols")
    try:
        pool = subset(read_pool(data, kinds()[app].oracle, group_by), pool_size, test_size, seed=0)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="DATA") from error
    if share > 0:
        pool = mix_protocols(pool, share, duplicates, 0, out / "pool")
    if initial + batch * rounds > len(pool.pool):
        raise typer.BadParameter(
            f"{initial} + {batch} * {rounds} images are more than the pool's {len(pool.pool)}", param_hint="--rounds"
        )
    out.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // workers)
    plan = Plan(app, labels, initial, batch, rounds, preset, _options(train or []), threads)
    _check_resumable(
        out,
        {
            "data": pool.name,
            "changes": pool.semi_synthetic,
            "images": len(pool.pool),
            "group_by": group_by,
            "plan": asdict(plan),
        },
    )
    console.print(f"{pool.name}: {len(pool.pool)} pool and {len(pool.test)} test images {pool.semi_synthetic}")
    rows = run_all(pool, plan, names, seeds, out, workers, console)
    _write_results(rows, out)
    summary = learning_curves.summarise(rows, kinds()[app].oracle, pool.name, pool.semi_synthetic, target)
    write_json(out / "summary.json", summary)
    learning_curves.plot(rows, summary, out / "learning_curves.png")
    console.print(learning_curves.table(summary))
    console.print(f"written: {out}/rounds.csv, summary.json, learning_curves.png")


def _check_resumable(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to mix results of different settings in one folder."""
    path = out / "settings.json"
    if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(settings)):
        raise typer.BadParameter(f"{out} holds results of other settings; choose another folder", param_hint="--out")
    write_json(path, settings)
