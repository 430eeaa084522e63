"""Pools are ordered in the background, the most urgent first."""

import threading

import pytest

from strategies.catalogue import CATALOGUE
from tasks.rounds import preparation
from tasks.rounds.preparation import Preparation

BALD, MARGIN, RANDOM, FIRST = (CATALOGUE[name] for name in ("bald", "margin", "random", "first"))


class SlowRounds:
    """Rounds whose ordering waits to be let through."""

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.gate = threading.Semaphore(0)
        self.begun = threading.Event()
        self.done = threading.Condition()

    def is_prepared(self, strategy) -> bool:
        return strategy.name in self.prepared

    def prepare(self, strategy) -> bool:
        self.begun.set()
        self.gate.acquire()
        with self.done:
            self.prepared.append(strategy.name)
            self.done.notify_all()
        if strategy is MARGIN:
            raise RuntimeError("no")
        return True

    def let_all_through(self, count: int) -> list[str]:
        self.gate.release(count)
        with self.done:
            assert self.done.wait_for(lambda: len(self.prepared) >= count, 10)
        return self.prepared


@pytest.fixture
def rounds(monkeypatch) -> SlowRounds:
    monkeypatch.setattr(preparation, "ANSWER_FIRST_SECONDS", 0.0)
    return SlowRounds()


def test_the_urgent_one_goes_before_all_that_wait_and_each_goes_once(rounds):
    background = Preparation(rounds)
    background.ask(BALD)
    assert rounds.begun.wait(10)
    for strategy in (MARGIN, RANDOM, RANDOM, FIRST):
        background.ask(strategy)
    background.ask(FIRST, urgent=True)
    assert rounds.let_all_through(4) == ["bald", "first", "margin", "random"]
    background.ask(RANDOM, urgent=True)
    assert not background._waiting


def test_one_that_fails_does_not_keep_the_others(rounds, caplog):
    background = Preparation(rounds)
    for strategy in (MARGIN, BALD):
        background.ask(strategy)
    assert rounds.let_all_through(2) == ["margin", "bald"]
    assert "the next round of margin could not be prepared" in caplog.text
    background.ask(RANDOM)  # after a pause
    assert rounds.let_all_through(3)[-1] == "random"
