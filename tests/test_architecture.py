"""Imports go downwards only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    {"strategies"},
    {"tasks.common"},
    {"tasks.geometry", "tasks.store"},
    {"tasks.dicom"},
    {"tasks.datastore"},
    {"tasks.jobs"},
    {"tasks.learning"},
    {"tasks.oracle", "tasks.rounds"},
    {"tasks.task"},
    {"tasks.segmentation"},
    {"tasks.classification", "tasks.image_segmentation", "tasks.volume_segmentation"},
    {"tasks.kinds"},
    {"tasks.tools"},
    {"tasks.simulation", "tasks.brats", "tasks.duplicates", "tasks.history", "tasks.phantoms", "tasks.reindex"},
    {"apps.upstream", "apps.web"},
    {"apps.auth"},
    {"apps.http"},
    {"apps.routes"},
    {"apps.server"},
    {"apps.image_classification", "apps.image_segmentation", "apps.volume_segmentation"},
    {"apps.__main__"},
)
"""Rooms, the lowest first; those of one floor do not know each other."""
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
CODE = ("strategies", "tasks", "apps")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it; a relative import as such."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] == "strategies":
        return "strategies"
    return ".".join(parts[:2]) if parts[0] in CODE and len(parts) > 1 else None


def test_every_file_is_in_a_room():
    found = {room_of(module_of(path)) for room in CODE for path in modules(room)} - {None}
    assert found == set(FLOOR)


@pytest.mark.parametrize("room", CODE)
def test_rooms_import_downwards(room):
    assert modules(room)
    for path in modules(room):
        own = room_of(module_of(path))
        for name in imported(path):
            assert not name.startswith("."), (path, name)
            assert name.split(".")[0] not in ("tests", "benchmarks"), (path, name)
            other = room_of(name)
            if other is not None and own is not None and other != own:
                assert FLOOR[other] < FLOOR[own], (path, name)


def test_strategies_know_no_database():
    for path in modules("strategies"):
        assert not {name.split(".")[0] for name in imported(path)} & {"sqlalchemy", "sqlite3", "alembic"}, path


def test_the_mathematics_needs_only_numpy_and_torch():
    allowed = {"__future__", "collections", "dataclasses", "logging", "math", "numpy", "torch"}
    for path in [ROOT / "strategies" / "acquisition.py", *modules("strategies/selection")]:
        others = {name for name in imported(path) if not name.startswith("strategies.selection.")}
        assert {name.split(".")[0] for name in others} <= allowed, path


@pytest.mark.parametrize("app", sorted(path.parent.name for path in (ROOT / "apps").glob("*/main.py")))
def test_an_app_s_entry_is_short(app):
    text = (ROOT / "apps" / app / "main.py").read_text()
    assert len(text.splitlines()) < 20


def test_library_code_does_not_print():
    for room in ("strategies", "tasks"):
        for path in modules(room):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path
