"""Whether a query strategy can work, found out before the first annotator asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from strategies.catalogue import Pool, QueryStrategy
from strategies.scores import SCORE_RANGES, lies_within, shown
from strategies.selection import CealSplit

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_READS = {
    "scores": "score",
    "held": "score",
    "class_scores": "class_scores",
    "embeddings": "embeddings",
    "annotated": "embeddings",
}
"""What is read of a pool -> the attribute of the strategy that says so."""
_LARGEST = 10.0
"""A score where its range has no end."""


class StrategyError(ValueError):
    """A query strategy that cannot work; the message names it and says why, in one line."""


def check_strategy(strategy: QueryStrategy) -> None:
    """Look at a strategy, and try it on small pools: scores at the ends of their range, ties, one image, every batch.

    Args:
        strategy: row of the catalogue, or one of your own.

    Raises:
        StrategyError: it is no :class:`strategies.catalogue.QueryStrategy`, its name is no lower-case identifier, no
            scoring pass gives its score, its selection does not work on all values of that score, it reads of a pool
            what it does not declare, or it fails, chooses what is not there, or chooses differently with the same seed.
    """
    if not isinstance(strategy, QueryStrategy):
        raise StrategyError(f"{strategy!r} is no QueryStrategy")
    name = strategy.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StrategyError(f"strategy {name!r}: its name must be lower-case letters, digits and '_'")
    for attribute in ("description", "source"):
        text = getattr(strategy, attribute)
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise StrategyError(f"strategy {name}: {attribute} must be one line of text, got {text!r}")
    if not callable(strategy.select):
        raise StrategyError(f"strategy {name}: select must be a function, got {strategy.select!r}")
    if strategy.score is not None and strategy.score not in SCORE_RANGES:
        raise StrategyError(
            f"strategy {name}: no scoring gives {strategy.score!r}; scores are {', '.join(SCORE_RANGES)}"
        )
    if strategy.score is not None and not lies_within(SCORE_RANGES[strategy.score], strategy.score_range):
        raise StrategyError(
            f"strategy {name}: {strategy.score} is {shown(SCORE_RANGES[strategy.score])}, but its selection takes "
            f"{shown(strategy.score_range)}"
        )
    for pool, size in _trials(strategy):
        _try(strategy, pool, size)


def _trials(strategy: QueryStrategy) -> Iterator[tuple[_Watched, int]]:
    for count in (1, 2, 9, 40):
        for tied in (False, True):
            for annotated in (0, 3):
                for size in sorted({1, min(4, count), count}):
                    yield _pool(strategy, count, annotated, tied), size


def _pool(strategy: QueryStrategy, count: int, annotated: int, tied: bool) -> _Watched:
    rng = np.random.default_rng(count)
    scores = np.zeros(0)
    if strategy.score is not None:
        low, high = np.clip(SCORE_RANGES[strategy.score], -_LARGEST, _LARGEST)
        scores = np.full(count, low) if tied else np.linspace(low, high, count)[rng.permutation(count)]
    return _Watched(
        image_ids=tuple(f"image{number:02d}" for number in range(count)),
        scores=scores,
        class_scores=rng.random((count, 2)) if strategy.class_scores else np.zeros((count, 0)),
        embeddings=rng.random((count, 5)) if strategy.embeddings else np.zeros((count, 0)),
        annotated=rng.random((annotated, 5)) if strategy.embeddings else np.zeros((0, 0)),
        round=1 + annotated,
    )


class _Watched(Pool):
    """A pool that knows what was read of it."""

    def __getattribute__(self, name: str) -> Any:
        if name in _READS:
            super().__getattribute__("__dict__").setdefault("read", set()).add(name)
        return super().__getattribute__(name)


def _try(strategy: QueryStrategy, pool: _Watched, size: int) -> None:
    count = len(pool.image_ids)
    words = f"strategy {strategy.name}: of {count} images and a batch of {size}"
    chosen: list[list[int]] = []
    for _ in range(2):
        try:
            found = strategy.select(pool, size, np.random.default_rng(0))
        except Exception as error:  # whatever an annotator would meet
            read = _undeclared(strategy, pool)
            raise StrategyError(f"{words}, it {read or f'fails: {type(error).__name__}: {error}'}") from error
        indices = np.asarray(found.oracle if isinstance(found, CealSplit) else found)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise StrategyError(f"{words}, it gives no list of whole numbers but {found!r:.60}")
        chosen.append(indices.tolist())
    first, second = chosen
    if undeclared := _undeclared(strategy, pool):
        raise StrategyError(f"{words}, it {undeclared}")
    if first != second:
        raise StrategyError(f"{words}, it chooses differently with the same generator: draw from the one it is given")
    if not first or len(first) > size:
        raise StrategyError(f"{words}, it chooses {len(first)}")
    if len(set(first)) != len(first) or min(first) < 0 or max(first) >= count:
        raise StrategyError(f"{words}, it chooses images twice or that are not there: {first[:10]}")


def _undeclared(strategy: QueryStrategy, pool: _Watched) -> str:
    """What was read of a pool although the strategy does not say so, in words; empty if nothing was."""
    for name in sorted(vars(pool).get("read", ())):
        if getattr(strategy, _READS[name]) in (None, False):
            return f"reads {name}, but declares no {_READS[name]}"
    return ""
