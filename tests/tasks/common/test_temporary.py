"""Temporary files live in a folder of the process; what a killed one has left is swept, a living one's is not."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tasks.common.temporary import TemporaryFolder, forget_temporary_folder, sweep, use_temporary_folder

PROCESS = """
import sys, tempfile, time
from pathlib import Path
from tasks.common.temporary import use_temporary_folder
use_temporary_folder(Path(sys.argv[1]))
file = tempfile.NamedTemporaryFile(delete=False)
print(file.name, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def process(tmp_path):
    """Another process with a temporary file, and the file."""
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        yield other, Path(other.stdout.readline().strip())
        other.kill()


def test_what_a_killed_process_has_left_is_swept_and_a_living_one_s_is_not(process, tmp_path):
    other, file = process
    assert file.parent.parent == tmp_path
    use_temporary_folder(tmp_path)
    assert file.is_file()
    assert Path(tempfile.gettempdir()).parent == tmp_path
    other.kill()
    other.wait()
    assert file.is_file()
    use_temporary_folder(tmp_path)
    assert not file.parent.exists()
    assert len(list(tmp_path.iterdir())) == 2  # our folder and its lock


def test_a_process_that_ends_takes_its_files_along(process, tmp_path):
    other, file = process
    other.communicate("\n")
    assert other.returncode == 0
    assert not list(tmp_path.iterdir())
    assert not file.exists()


def test_where_it_cannot_be_made_the_system_s_folder_is_used_and_the_log_says_so(tmp_path, caplog):
    before = tempfile.gettempdir()
    (tmp_path / "file").write_text("")
    use_temporary_folder(tmp_path / "file" / "tmp")
    assert tempfile.gettempdir() == before
    assert "temporary files are kept in the system's folder" in caplog.text


def test_nothing_but_folders_with_a_lock_is_swept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    held = TemporaryFolder(tmp_path)
    (held.folder / "part").write_text("x")
    sweep(tmp_path)
    assert (held.folder / "part").is_file()
    assert {path.name for path in tmp_path.iterdir()} >= {"notes.txt", "folder"}
    held.remove()


def test_a_long_path_does_not_keep_processes_from_meeting(tmp_path):
    """Sockets of ``multiprocessing`` lie among the temporary files, and their paths must be short."""
    deep = tmp_path / ("x" * 120)
    code = (
        "import sys, multiprocessing.connection as c; from pathlib import Path\n"
        "from tasks.common.temporary import use_temporary_folder\n"
        "use_temporary_folder(Path(sys.argv[1])); c.Listener(family='AF_UNIX').close()"
    )
    subprocess.run([sys.executable, "-c", code, str(deep)], check=True)


def test_forgetting_twice_is_harmless(tmp_path):
    use_temporary_folder(tmp_path)
    forget_temporary_folder()
    forget_temporary_folder()
    assert not list(tmp_path.iterdir())
