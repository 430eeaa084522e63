"""Strategies of installed packages: found by their entry points, refused in one line."""

import sys
import types
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from strategies import registry
from strategies.catalogue import CATALOGUE, QueryStrategy
from strategies.checks import StrategyError
from strategies.registry import GROUP, offered, registered


def row(name: str = "mine", **changes) -> QueryStrategy:
    def last(pool, k, rng):
        return np.arange(len(pool.image_ids))[::-1][:k]

    return QueryStrategy(**{"name": name, "description": "Mine", "source": "me", "select": last, **changes})


@pytest.fixture
def install(monkeypatch):
    """Makes entry points whose module holds the given content."""

    def make(*contents) -> None:
        module = types.ModuleType("somebody_s_package")
        entries = []
        for number, content in enumerate(contents):
            setattr(module, f"content{number}", content)
            entries.append(EntryPoint(f"entry{number}", f"somebody_s_package:content{number}", GROUP))
        monkeypatch.setitem(sys.modules, "somebody_s_package", module)
        monkeypatch.setattr(registry, "entry_points", lambda group: [e for e in entries if e.group == group])
        registered.cache_clear()

    yield make
    monkeypatch.undo()
    registered.cache_clear()


def test_without_packages_there_is_the_catalogue(install):
    install()
    assert dict(registered()) == CATALOGUE


def test_one_or_several_strategies_of_a_package_are_offered_after_ours(install):
    install(row("one"), [row("two"), row("three", score="bald")])
    assert [*registered()] == [*CATALOGUE, "one", "two", "three"]
    assert next(each.name for each in offered("two", {"margin"})) == "two"
    assert "three" not in [each.name for each in offered("random", {"margin"})]
    assert "three" in [each.name for each in offered("random", {"bald"})]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text", "is no QueryStrategy"),
        (row("Bad name"), "lower-case"),
        (row("random"), "there is a strategy random already"),
        ([row("one"), row("one")], "there is a strategy one already"),
        (row(pseudo_labels=True, score="bald"), "only ceal"),
        (row(score="bald", score_range=(1, 2)), "bald is 0 to infinity"),
    ],
)
def test_what_a_package_names_and_cannot_work_is_refused_with_its_entry_point(install, content, words):
    install(content)
    with pytest.raises(StrategyError, match=words) as caught:
        registered()
    assert str(caught.value).startswith("strategy entry point entry0 = somebody_s_package:content0")


def test_a_package_that_cannot_be_imported_is_refused(install, monkeypatch):
    install(row())
    monkeypatch.delitem(sys.modules, "somebody_s_package")
    with pytest.raises(StrategyError, match="cannot be imported: ModuleNotFoundError"):
        offered("random", ())
