import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from knnlm.storage.locks import NO_LOCKS, lock, locked, remove_abandoned

WORKFLOW = Path(__file__).parents[3] / "workflow"
HOLDER = """
import sys, time
from knnlm.storage.locks import lock
lock(sys.argv[1])
print('locked', flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock on `tmp_path/file`, until it is killed."""
    command = [sys.executable, "-c", HOLDER, tmp_path / "file"]
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(WORKFLOW)}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_lock_is_refused_to_others_until_its_holder_is_killed(holder, tmp_path):
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "file")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    os.close(lock(tmp_path / "file"))


def test_whoever_waits_says_so_and_gets_the_lock_in_the_end(holder, tmp_path, capsys):
    begin = time.monotonic()
    threading.Timer(0.3, holder.kill).start()
    with locked(tmp_path / "file", waiting="it is used"):
        assert time.monotonic() - begin >= 0.3
    assert capsys.readouterr().out == "it is used\n"


def test_a_program_that_is_started_does_not_hold_the_lock_on(tmp_path):
    with locked(tmp_path / "file"):
        program = subprocess.Popen(["sleep", "60"], close_fds=False)
    os.close(lock(tmp_path / "file"))
    assert program.poll() is None
    program.kill()
    program.wait()


def test_only_what_nobody_is_writing_is_removed(holder, tmp_path):
    for name in ("file.old", "other"):
        (tmp_path / name).touch()
    remove_abandoned(tmp_path, "file*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_told_and_no_marker_is_left(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "file.unfinished").touch()
    with pytest.warns(UserWarning, match=f"^{tmp_path}: this file system has no locks; "):
        assert lock(tmp_path / "file") is None
    with pytest.warns(UserWarning), locked(tmp_path / "file"):
        assert sorted(os.listdir(tmp_path)) == ["file", "file.unfinished"]
    with pytest.warns(UserWarning):
        remove_abandoned(tmp_path, "*.unfinished")
    assert sorted(os.listdir(tmp_path)) == ["file", "file.unfinished"]  # somebody may be writing it


def test_another_refusal_of_the_system_is_passed_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"):
        lock(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        lock(tmp_path / "none" / "file")
