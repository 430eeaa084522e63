"""Summary, table and plot of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from scipy import stats

from tasks.learning.metrics import area_under_curve, compare_to_baseline, first_reaching, labels_needed
from tasks.oracle import Oracle

BASELINE = "random"
FULL_DATA = "full_data"
Rows = Sequence[Mapping[str, Any]]


def summarise(rows: Rows, oracle: Oracle, data: str, semi_synthetic: str, target: float) -> dict[str, Any]:
    """Area under the curve, labels needed and paired comparison with random, per strategy.

    Args:
        rows: one per strategy, seed and round.
        oracle: says what the rows hold; curves, areas and targets are those of the first measure.
        data: name of the data set.
        semi_synthetic: what was changed, empty for real images as they are.
        target: result to reach; 0 takes the mean last one of ``random`` (of the first strategy without it).
    """
    curves, measures = _curves(rows), oracle.measures
    key = measures[0].key
    baseline = BASELINE if BASELINE in curves else next(iter(curves))
    full = {row["seed"]: row for row in rows if row["strategy"] == FULL_DATA}
    seeds = sorted(curves[baseline])
    reached = target or float(np.mean([curves[baseline][seed][-1][key] for seed in seeds]))
    areas = {name: [_area(by_seed[seed], key) for seed in seeds] for name, by_seed in curves.items()}
    comparison = compare_to_baseline(areas[baseline], {name: a for name, a in areas.items() if name != baseline})
    strategies: dict[str, dict[str, Any]] = {}
    for name, by_seed in curves.items():
        to_target = [
            first_reaching([r["labelled"] for r in by_seed[s]], [r[key] for r in by_seed[s]], reached) for s in seeds
        ]
        to_full = [
            labels_needed({r["labelled"]: r["per_image"] for r in by_seed[s]}, full[s]["per_image"])
            for s in seeds
            if s in full
        ]
        strategies[name] = {
            "area_under_curve": _mean(areas[name]),
            "area_per_seed": [round(area, 5) for area in areas[name]],
            "last": {m.key: _mean([by_seed[seed][-1][m.key] for seed in seeds]) for m in measures},
            "labels_to_target": to_target,
            "labels_to_full_data_equivalence": to_full,
            "against_random": _without_nan(comparison[name]) if name in comparison else None,
            "notes": {n.key: _mean_of_known([r[n.key] for s in seeds for r in by_seed[s]]) for n in oracle.notes},
        }
    for row in strategies.values():
        for count in ("labels_to_target", "labels_to_full_data_equivalence"):
            row[f"{count}_relative_to_random"] = _ratio(row[count], strategies[baseline][count])
    rise = {n: _mean([b[s][-1][key] - b[s][0][key] for s in seeds]) for n, b in curves.items()}
    return {
        "data": data,
        "semi_synthetic": semi_synthetic,
        "seeds": len(seeds),
        "baseline": baseline,
        "measures": [asdict(measure) for measure in measures],
        "notes": [asdict(note) for note in oracle.notes],
        "target": round(reached, 5),
        "full_data": {m.key: _mean([row[m.key] for row in full.values()]) for m in measures} if full else None,
        "rise_from_first_to_last_round": rise,
        "strategies": strategies,
    }


def plot(rows: Rows, summary: Mapping[str, Any], path: Path) -> None:
    """Learning curves: every seed thin, their mean with its 95 % confidence band, the full-data model as a line."""
    measures = summary["measures"]
    figure = Figure(figsize=(7.5 * len(measures), 5), layout="constrained")
    for panel, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        _plot_measure(panel, rows, measure["key"])
        if summary["full_data"] is not None:
            full = summary["full_data"][measure["key"]]["mean"]
            panel.axhline(full, color="black", linestyle="--", linewidth=1, label="full data")
        panel.set_xlabel("labelled images")
        panel.set_ylabel(f"{measure['title']} on test images")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    note = f" ({summary['semi_synthetic']})" if summary["semi_synthetic"] else ""
    figure.suptitle(f"{summary['data']}, {summary['seeds']} seeds{note}", fontsize=9)
    figure.savefig(path, dpi=120)


def _plot_measure(panel: Axes, rows: Rows, key: str) -> None:
    values = [row[key] for row in rows]
    panel.set_ylim(max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.05))
    for name, by_seed in _curves(rows).items():
        seeds = sorted(by_seed)
        x = [row["labelled"] for row in by_seed[seeds[0]]]
        y = np.array([[row[key] for row in by_seed[seed]] for seed in seeds])
        (line,) = panel.plot(x, y.mean(0), marker="o", markersize=4, label=name)
        panel.plot(x, y.T, color=line.get_color(), linewidth=0.6, alpha=0.4)
        if len(seeds) > 1:
            half = np.array([half_width(column) for column in y.T])
            panel.fill_between(x, y.mean(0) - half, y.mean(0) + half, color=line.get_color(), alpha=0.12)


def table(summary: Mapping[str, Any]) -> Table:
    """The summary for a terminal; means over the seeds with half their 95 % confidence interval."""
    measures = summary["measures"]
    title = f"{summary['data']} {summary['semi_synthetic']}, target {measures[0]['title']} {summary['target']:.3f}"
    result = Table(title=title)
    lasts = [f"last {measure['title']}" for measure in measures]
    notes = [note["title"] for note in summary["notes"]]
    for column in ("strategy", "area under curve", *lasts, "labels to target", "area - random", "p (Holm)", *notes):
        result.add_column(column, overflow="fold")
    for name, row in summary["strategies"].items():
        against = row["against_random"]
        result.add_row(
            name,
            _shown(row["area_under_curve"]),
            *(_shown(row["last"][measure["key"]]) for measure in measures),
            ", ".join("-" if count is None else str(count) for count in row["labels_to_target"]),
            "" if against is None else f"{against['difference']:+.4f}",
            "" if against is None or against["p_holm"] is None else f"{against['p_holm']:.3f}",
            *("" if value is None else f"{value:.3g}" for value in row["notes"].values()),
        )
    return result


def half_width(values: Sequence[float] | np.ndarray) -> float:
    """Half the 95 % confidence interval of a mean (Student's t); NaN with one value."""
    count = len(values)
    if count < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))


def _shown(value: Mapping[str, float | None]) -> str:
    interval = "" if value["ci95"] is None else f" ± {value['ci95']:.4f}"
    return f"{value['mean']:.4f}{interval}"


def _curves(rows: Rows) -> dict[str, dict[int, list[Mapping[str, Any]]]]:
    curves: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for row in sorted(rows, key=lambda row: row["round"]):
        if row["strategy"] != FULL_DATA:
            curves.setdefault(row["strategy"], {}).setdefault(row["seed"], []).append(row)
    return curves


def _area(curve: Sequence[Mapping[str, Any]], key: str) -> float:
    return area_under_curve([row["labelled"] for row in curve], [row[key] for row in curve])


def _mean(values: Sequence[float]) -> dict[str, float | None]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    half = half_width(values)
    interval = None if np.isnan(half) else round(half, 5)
    return {"mean": round(float(np.mean(values)), 5), "sd": round(spread, 5), "ci95": interval}


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 5) if known else None


def _without_nan(row: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a p value that needs more seeds is null."""
    return {key: None if np.isnan(value) else value for key, value in row.items()}


def _ratio(counts: Sequence[int | None], baseline: Sequence[int | None]) -> float | None:
    """Mean over seeds of labels needed relative to random; None if a seed of either never got there."""
    pairs = list(zip(counts, baseline, strict=True))
    if not pairs or any(count is None or base is None for count, base in pairs):
        return None
    return round(float(np.mean([count / base for count, base in pairs if count and base])), 3)
