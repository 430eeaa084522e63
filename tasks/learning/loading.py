"""Batches loaded ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monai.data import DataLoader


class PrefetchLoader(DataLoader):
    """Prepares the next batch in a thread while the network works on this one.

    MONAI's ``ThreadDataLoader`` does too, but an error in its thread only ends an epoch early.
    """

    def __iter__(self) -> Iterator[Any]:
        """Batches; raises what went wrong in the thread."""
        source = super().__iter__()
        with ThreadPoolExecutor(1) as thread:
            batch = thread.submit(next, source, None)
            while (ready := batch.result()) is not None:
                batch = thread.submit(next, source, None)
                yield ready
