"""The numbers that docs/security.md promises are those of the code."""

import pytest

from apps.http import bodies, lanes, sessions, unpacking
from apps.server.options import Options
from tasks.common import strict_json
from tasks.datastore import rejected
from tasks.geometry import pieces
from tasks.jobs import queue
from tests.server import ROOT

PAGE = " ".join((ROOT / "docs" / "security.md").read_text(encoding="utf-8").split())
PROMISES = [
    f"larger than `max_upload_mb` ({Options.max_upload_mb >> 10} GiB)",
    f"may be larger than {strict_json.LARGEST >> 20} MiB",
    f"JSON may have {strict_json.LARGEST >> 20} MiB and {strict_json.DEEPEST} levels",
    f"A form may have {bodies.MOST_FIELDS} fields and {bodies.MOST_FILES:,} files",
    f"more than {pieces.MOST_SCANS} scans, or a PNG file of more than {pieces.MOST_CHUNKS:,} chunks",
    f"two files at once; {lanes.DECODES.longest} more wait, for {lanes.DECODES.seconds:.0f} seconds at most",
    f"{lanes.INFERENCES.longest} may wait, and further ones get a 503",
    f"one runs and {queue.LONGEST_QUEUE} may wait; further ones are a 429",
    f"may hold {sessions.QUOTA >> 30} GiB and number {sessions.MOST:,}",
    f"up to {unpacking.LARGEST >> 30} GiB, {unpacking.MOST:,} files, and {unpacking.HIGHEST_RATIO} times their size",
    f"`rejected` for {rejected.KEPT_DAYS} days, up to {rejected.LARGEST >> 30} GiB and {rejected.MOST:,} of them",
]


@pytest.mark.parametrize("promise", PROMISES)
def test_the_page_promises_what_the_code_does(promise):
    assert promise in PAGE
