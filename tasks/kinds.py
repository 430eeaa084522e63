"""All kinds of work: every package in ``tasks`` with a module ``task`` has one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

import tasks
from tasks.task import Task


@cache
def kinds() -> Mapping[str, type[Task]]:
    """Folder name of the app -> kind of work, by name."""
    packages = [module.name for module in pkgutil.iter_modules(tasks.__path__) if module.ispkg]
    names = [f"tasks.{name}.task" for name in packages if importlib.util.find_spec(f"tasks.{name}.task")]
    modules = [importlib.import_module(name) for name in names]
    found = [value for module in modules for value in vars(module).values() if _is_kind(value, module.__name__)]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: kind.name)}


def _is_kind(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and value.__module__ == module
