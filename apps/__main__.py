"""Make a folder from which MONAI Label starts one of the apps of the installed package.

``python -m apps`` lists them, ``python -m apps volume_segmentation FOLDER`` makes the folder. Logs, and with an archive
models and labels, are kept in it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from apps.server.app import ActiveLearningApp
from tasks.kinds import kinds

_MAIN = '''"""What ``monailabel start_server --app`` loads; trainers and routes of your own go into the class."""

from monailabel.interfaces.app import MONAILabelApp

from {module} import {base}


class {name}({base}, MONAILabelApp):
    """{title}."""
'''


def base_of(kind: str) -> type[ActiveLearningApp]:
    """The class from which an app of a kind of work derives."""
    module = import_module(f"apps.{kind}.app")
    return next(
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, ActiveLearningApp) and each.__module__ == module.__name__
    )


def main(
    kind: Annotated[str, typer.Argument(help="kind of work; without it, all are listed")] = "",
    folder: Annotated[Path | None, typer.Argument(help="new folder of the app")] = None,
) -> None:
    """Make a folder for an app of your own, which starts as one of ours."""
    known = kinds()
    if not kind:
        for name, task in known.items():
            Console().print(f"{name}: {task.description}")
        return
    if kind not in known:
        raise typer.BadParameter(f"must be one of {', '.join(known)}, got {kind!r}", param_hint="KIND")
    if folder is None:
        raise typer.BadParameter("name the new folder", param_hint="FOLDER")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise typer.BadParameter(f"{folder} is there already and not empty", param_hint="FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    base = base_of(kind)
    name = "".join(part.capitalize() for part in kind.split("_"))
    text = _MAIN.format(module=base.__module__, base=base.__name__, name=name, title=known[kind].title)
    (folder / "main.py").write_text(text)
    Console().print(f"monailabel start_server --app {folder} --studies STUDIES --host 127.0.0.1", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
