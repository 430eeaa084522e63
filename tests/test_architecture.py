"""Imports go downwards only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "strategies": {"tasks", "apps", "tests", "benchmarks"},
    "tasks": {"apps", "tests", "benchmarks"},
    "apps": {"tests", "benchmarks"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            names.add("a relative import")
    return names


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_downwards(room):
    assert modules(room)
    for path in modules(room):
        assert not imported(path) & (FORBIDDEN[room] | {"a relative import"}), path


@pytest.mark.parametrize("name", ["acquisition.py", "selection.py"])
def test_the_mathematics_needs_only_numpy_and_torch(name):
    allowed = {"__future__", "collections", "dataclasses", "logging", "math", "numpy", "torch"}
    assert imported(ROOT / "strategies" / name) <= allowed


def test_library_code_does_not_print():
    for room in ("strategies", "tasks"):
        for path in modules(room):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path
