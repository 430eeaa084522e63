"""The class in an app's ``main.py`` that MONAI Label starts: the first by name of those that derive from
``MONAILabelApp`` directly.

It takes one that was only imported, too, and says nothing of another beside it: here that is one clear line instead.
"""

from __future__ import annotations

import ast
import site
import sysconfig
from pathlib import Path

from apps.server.options import ConfigurationError

MAIN = "main.py"
_ENTRY = "MONAILabelApp"


def check_entry(started: type, app_dir: Path) -> None:
    """Look at the class that is started and the folder that it is started from.

    Args:
        started: the class.
        app_dir: folder of the app.

    Raises:
        ConfigurationError: ``main.py`` has only imported the class, has several of them, or is part of an installed
            package, where MONAI Label would keep logs, models and an archive's labels.
    """
    main = app_dir / MAIN
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}:
        if app_dir.resolve().is_relative_to(Path(place).resolve()):
            raise ConfigurationError(
                f"app {app_dir} is part of an installed package, and logs, models and labels would be kept in it: make "
                f"a folder for them with `python -m apps {app_dir.name} FOLDER`, and start that"
            )
    if not main.is_file():
        return
    classes = _classes(main)
    entries = [each for each, bases in classes.items() if _ENTRY in bases]
    if started.__name__ not in classes:
        own = next(iter([*entries, *classes]), "Mine")
        raise ConfigurationError(
            f"{main} imports {started.__name__}, which MONAI Label would start instead: {_advice(own, started)}"
        )
    if len(entries) > 1:
        raise ConfigurationError(f"{main} has several classes to start, {', '.join(entries)}: keep one of them")


def check_main(defined: type, main: Path) -> None:
    """Look whether a ``main.py`` that defines a class of ours has one that MONAI Label can start.

    Args:
        defined: the class.
        main: the file.

    Raises:
        ConfigurationError: it has none.
    """
    if not any(_ENTRY in bases for bases in _classes(main).values()):
        raise ConfigurationError(f"{main} has no class that MONAI Label starts: {_advice(defined.__name__, defined)}")


def _advice(name: str, derived: type) -> str:
    """What to write, as MONAI Label looks at direct bases only."""
    base = next(each for each in derived.__mro__[1:] if _ENTRY not in [above.__name__ for above in each.__bases__])
    return f"import {base.__name__} from {base.__module__}, and write `class {name}({base.__name__}, {_ENTRY})`"


def _classes(main: Path) -> dict[str, list[str]]:
    """Names of the classes in a file, and of their bases as they are where they come from."""
    body = ast.parse(main.read_bytes()).body
    imported = {
        alias.asname: alias.name
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    classes = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            bases = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
            classes[node.name] = [imported.get(base, base) for base in bases]
    return classes
