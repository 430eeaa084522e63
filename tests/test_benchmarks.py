"""The benchmarks still fit the modules they measure; ``make bench`` runs them whole."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import benchmarks
from benchmarks import scoring
from tasks.tools.phantoms import write_phantoms

NAMES = sorted(path.stem for path in Path(benchmarks.__path__[0]).glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{name}").main)


def test_scoring_is_measured_beside_stock(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    write_phantoms(studies, clusters=2, copies=1)
    times = scoring.measure(studies, tmp_path, "small", 2, "cpu")
    assert [len(values) for values in times.values()] == [1, 1, 1]
