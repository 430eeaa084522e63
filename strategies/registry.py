"""All query strategies: those of the catalogue, and those of installed packages.

A package names its own under the entry-point group ``active_learning.strategies``: a
:class:`strategies.catalogue.QueryStrategy`, or several of them in a list or tuple.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from strategies.catalogue import CATALOGUE, QueryStrategy
from strategies.checks import StrategyError, check_strategy

GROUP = "active_learning.strategies"


@cache
def registered() -> Mapping[str, QueryStrategy]:
    """Name -> strategy, those of the catalogue first; looked for once in a process.

    Raises:
        StrategyError: a package's strategy cannot be imported, cannot work, or has the name of another one.
    """
    found = dict(CATALOGUE)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        for strategy in _load(entry):
            if strategy.name in found:
                raise StrategyError(f"{_described(entry)}: there is a strategy {strategy.name} already")
            found[strategy.name] = strategy
    return found


def _load(entry: EntryPoint) -> list[QueryStrategy]:
    try:
        content = entry.load()
    except Exception as error:  # it is somebody else's code
        raise StrategyError(f"{_described(entry)} cannot be imported: {type(error).__name__}: {error}") from error
    rows = list(content) if isinstance(content, Iterable) else [content]
    for row in rows:
        try:
            check_strategy(row)
        except StrategyError as error:
            raise StrategyError(f"{_described(entry)}: {error}") from error
        if row.pseudo_labels:  # how many, how they are made and compared belongs to one published method
            raise StrategyError(f"{_described(entry)}: only ceal lets the model label images, {row.name} cannot")
    return rows


def _described(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name}" if entry.dist is not None else ""
    return f"strategy entry point {entry.name} = {entry.value}{package}"


def offered(
    default: str, scores: Iterable[str], embeddings: bool = False, pseudo_labels: bool = False
) -> list[QueryStrategy]:
    """The strategies an app can serve, its default first.

    Args:
        default: name of the app's default strategy.
        scores: names of the acquisition scores that the app's records hold.
        embeddings: whether the records hold embeddings.
        pseudo_labels: whether the app lets the model label part of the pool.

    Returns:
        Strategies; those without records, ``random`` among them, are always included.

    Raises:
        StrategyError: a package's strategy cannot be used.
        ValueError: ``default`` is not among them.
    """
    held = set(scores)
    rows = [
        row
        for row in registered().values()
        if (row.score is None or row.score in held)
        and (embeddings or not row.embeddings)
        and (pseudo_labels or not row.pseudo_labels)
    ]
    names = [row.name for row in rows]
    if default not in names:
        raise ValueError(f"strategy must be one of {', '.join(names)}; got {default!r}")
    return sorted(rows, key=lambda row: row.name != default)
