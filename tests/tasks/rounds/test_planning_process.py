"""A large pool is ordered in a process of its own: the same plans, whatever becomes of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from strategies.catalogue import CATALOGUE, QueryStrategy
from strategies.registry import registered
from tasks.rounds.planning import Planner
from tasks.rounds.planning_process import PlanningError, PlanningProcess
from tasks.rounds.rounds import Rounds
from tasks.store.store import ImageRecord, Store
from tests.tiny import sync_images

SCORES = {row.score for row in CATALOGUE.values() if row.score}
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Store:
    """Sixty images with every score."""
    store = Store(tmp_path_factory.mktemp("scored") / "store.sqlite")
    rng = np.random.default_rng(0)
    ids = [f"image{number:02d}" for number in range(60)]
    sync_images(store, {image_id: number % 10 == 0 for number, image_id in enumerate(ids)})
    for image_id in ids:
        scores = {name: float(rng.random()) for name in SCORES}
        embedding = rng.normal(size=8).astype(np.float32)
        store.add_record(ImageRecord(image_id, "v1", "f", scores, {"tumor": float(rng.random())}, embedding))
    store.complete_scoring("v1")
    return store


@pytest.fixture(scope="module")
def process(scored):
    process = PlanningProcess(scored, 5, 0)
    yield process
    process.close()


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_plan_is_the_one_that_is_made_here(scored, process, name):
    plan = process.plan(CATALOGUE[name])
    assert plan == Planner(scored, 5, 0).plan(CATALOGUE[name])
    assert len(plan.places) == 5


def test_rounds_are_served_from_its_plans(scored, process):
    rounds = Rounds(scored, batch_size=5, seed=0)
    expected = rounds.next_image(CATALOGUE["margin"], "ann")
    rounds.planner = process
    given = [rounds.next_image(CATALOGUE["bald"], f"reader{number}") for number in range(7)]
    assert len({one.image_id for one in given} | {expected.image_id}) == 8
    assert [one.round for one in given] == [1] * 5 + [2] * 2


def test_a_process_that_was_killed_is_followed_by_another(scored, process):
    process.plan(CATALOGUE["bald"])
    os.kill(process._process.pid, signal.SIGKILL)
    assert process.plan(CATALOGUE["least_confidence"]).reason == "scored"


def test_where_no_process_can_be_started_the_pool_is_ordered_here(scored, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nothing")
    plan = PlanningProcess(scored, 5, 0).plan(CATALOGUE["least_confidence"])
    assert plan == Planner(scored, 5, 0).plan(CATALOGUE["least_confidence"])
    assert "requests may be slow" in caplog.text


def test_a_strategy_that_fails_says_why_and_the_next_one_works(store, pool):
    for image_id in pool:
        store.add_record(ImageRecord(image_id, "v1", "f", {"bald": -1.0}, {}, None))  # no scoring gives that
    store.complete_scoring("v1")
    process = PlanningProcess(store, 3, 0)
    with pytest.raises(PlanningError, match="could not be ordered for power_bald: scores must not be negative"):
        process.plan(CATALOGUE["power_bald"])
    assert process.plan(CATALOGUE["bald"]) is not None
    process.close()


def test_it_ends_with_whoever_started_it(scored, tmp_path):
    script = (
        "import sys, time; from strategies.catalogue import CATALOGUE; from tasks.store.store import Store;"
        "from tasks.rounds.planning_process import PlanningProcess;"
        f"process = PlanningProcess(Store({str(scored.location)!r}), 5, 0); process.plan(CATALOGUE['bald']);"
        "print(process._process.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_strategy_that_only_this_process_knows_is_ordered_here(store, pool):
    process = PlanningProcess(store, 3, 0)
    last = QueryStrategy("last", "Last", "me", lambda pool, k, rng: np.arange(len(pool.image_ids))[::-1][:k])
    assert [place.image_id for place in process.plan(last).places] == pool[::-1][:3]
    assert process._process is None


@pytest.fixture
def furthest_first(tmp_path, monkeypatch) -> QueryStrategy:
    """A strategy of an installed package, of which it is known in which process it ran."""
    (tmp_path / "furthest_first.py").write_text(
        "import os\nfrom pathlib import Path\nimport numpy as np\nfrom strategies.catalogue import QueryStrategy\n"
        "def least(pool, k, rng):\n"
        "    Path(__file__).with_name('ran').write_text(str(os.getpid()))\n"
        "    return np.argsort(pool.scores)[:k]\n"
        "row = QueryStrategy('furthest_first', 'Furthest from one half', 'me', least, score='margin')\n"
    )
    described = tmp_path / "furthest_first-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: furthest-first\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[active_learning.strategies]\nrow = furthest_first:row\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    registered.cache_clear()
    yield registered()["furthest_first"]
    registered.cache_clear()
    sys.modules.pop("furthest_first", None)


def test_a_strategy_of_an_installed_package_orders_the_scored_images_in_the_process(scored, furthest_first, tmp_path):
    process = PlanningProcess(scored, 5, 0)
    plan = process.plan(furthest_first)
    worker = process._process.pid
    process.close()
    assert (tmp_path / "ran").read_text() == str(worker)
    assert plan == Planner(scored, 5, 0).plan(furthest_first)
    assert (plan.reason, len(plan.places)) == ("scored", 5)
