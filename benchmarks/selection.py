"""Time and memory of selection on large pools, beside plain loop implementations.

``python -m benchmarks.selection``. Every measurement runs in a process of its own; memory is the growth of the
resident set over the process with its data loaded.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from strategies import selection


def loop_top(scores: np.ndarray, k: int) -> np.ndarray:
    return np.array(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])


def _unit_candidates(scores: np.ndarray, embeddings: np.ndarray, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    order = loop_top(scores, candidates)
    return order, embeddings[order] / np.linalg.norm(embeddings[order], axis=1, keepdims=True)


def loop_representative(scores: np.ndarray, embeddings: np.ndarray, k: int, candidates: int) -> np.ndarray:
    order, unit = _unit_candidates(scores, embeddings, candidates)
    similarity = unit @ unit.T
    picked, covered = [0], similarity[0].copy()
    while len(picked) < k:
        gains = [-np.inf if j in picked else np.maximum(covered, similarity[j]).sum() for j in range(len(order))]
        picked.append(int(np.argmax(gains)))
        covered = np.maximum(covered, similarity[picked[-1]])
    return order[picked]


def loop_dissimilar(
    scores: np.ndarray, embeddings: np.ndarray, annotated: np.ndarray, k: int, candidates: int
) -> np.ndarray:
    order, unit = _unit_candidates(scores, embeddings, candidates)
    members = list(annotated / np.linalg.norm(annotated, axis=1, keepdims=True))
    picked: list[int] = []
    while len(picked) < k:
        near = [np.inf if j in picked else float(np.mean(np.array(members) @ unit[j])) for j in range(len(order))]
        picked.append(int(np.argmin(near)))
        members.append(unit[picked[-1]])
    return order[picked]


def measure(name: str, loop: bool, n: int, width: int, k: int, queue: multiprocessing.Queue) -> None:
    """Run one selection in this process and put ``(seconds, MB, indices)``."""
    rng = np.random.default_rng(0)
    scores = rng.random(n)
    embeddings = rng.normal(size=(n, width)) if width else np.zeros((n, 0))
    annotated = rng.normal(size=(k, width))
    work: dict[tuple[str, bool], Callable[[], np.ndarray]] = {
        ("top", False): lambda: selection.top(scores, k),
        ("top", True): lambda: loop_top(scores, k),
        ("representative", False): lambda: selection.representative(scores, embeddings, k, n),
        ("representative", True): lambda: loop_representative(scores, embeddings, k, n),
        ("dissimilar", False): lambda: selection.dissimilar(scores, embeddings, annotated, k, n),
        ("dissimilar", True): lambda: loop_dissimilar(scores, embeddings, annotated, k, n),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    chosen = work[name, loop]()
    spent = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    queue.put((spent, memory, sorted(map(int, chosen))))


def main(
    candidates: Annotated[int, typer.Option(help="candidates of the redundancy-restricted selections")] = 10_000,
    width: Annotated[int, typer.Option(help="numbers per embedding")] = 512,
    k: Annotated[int, typer.Option(help="batch size")] = 50,
    scores: Annotated[int, typer.Option(help="scores for top")] = 1_000_000,
) -> None:
    """Measure, and print a table."""
    context = multiprocessing.get_context("spawn")
    table = Table(title=f"batch of {k}")
    for column in ("selection", "pool", "ours", "memory", "plain loop", "memory", "ratio", "same images"):
        table.add_column(column, justify="left" if column == "selection" else "right")
    for name, n, size in (
        ("top", scores, 0),
        ("representative", candidates, width),
        ("dissimilar", candidates, width),
    ):
        results = []
        for loop in (False, True):
            queue = context.Queue()
            process = context.Process(target=measure, args=(name, loop, n, size, k, queue))
            process.start()
            results.append(queue.get())
            process.join()
        (ours, memory, chosen), (theirs, loop_memory, loop_chosen) = results
        table.add_row(
            name,
            f"{n:,}",
            f"{ours:.3f} s",
            f"{memory:.0f} MB",
            f"{theirs:.3f} s",
            f"{loop_memory:.0f} MB",
            f"{theirs / ours:.1f}",
            f"{len(set(chosen) & set(loop_chosen))} of {k}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
