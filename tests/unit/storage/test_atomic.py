"""A file is written whole or not at all, also when its writer is killed or finds no room."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from knnlm.datastore.index import save_index
from knnlm.storage.arrays import new_array, save_array
from knnlm.storage.atomic import atomic

ROWS = np.zeros((4096, 64), dtype=np.float32)
WRITER = """
import sys, time
from knnlm.storage.atomic import atomic
with atomic(sys.argv[1]) as unfinished:
    unfinished.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writer(path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "workflow")}
    process = subprocess.Popen([sys.executable, "-c", WRITER, path], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def test_atomic_replaces_the_file_only_on_success(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic(path) as unfinished:
        unfinished.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), atomic(path) as unfinished:
        unfinished.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_atomic_leaves_nothing_when_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "file.txt") as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_has_left_is_removed_by_the_next_one_and_what_is_being_written_is_not(tmp_path):
    path = tmp_path / "keys [1].npy"
    with start_writer(path) as killed, start_writer(path) as other, start_writer(tmp_path / "keys 1.npy") as elsewhere:
        for process in (killed, elsewhere):
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert len(list(tmp_path.iterdir())) == 3
        with atomic(path) as unfinished:
            unfinished.write_text("whole")
        assert {entry.name for entry in tmp_path.iterdir()} == {
            path.name,
            f".{path.name}.{other.pid}.unfinished",
            f".keys 1.npy.{elsewhere.pid}.unfinished",
        }
        other.kill()
    assert path.read_text() == "whole"


def write_slabs(path):
    with new_array(path, "float32", (1, *ROWS.shape)) as write:
        write(0, 0, ROWS)


def write_tensors(path):
    with atomic(path) as unfinished:
        torch.save(torch.from_numpy(ROWS), unfinished)


def write_index(path):
    index = faiss.IndexFlatL2(64)
    index.add(ROWS)
    save_index(index, path)


def write_text(path):
    with atomic(path) as unfinished:
        unfinished.write_text("text" * ROWS.size)


@pytest.fixture
def small_files():
    """No file may have more than 128 KiB: the system refuses to write on, as on a full disk, with its own number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write", [lambda path: save_array(path, ROWS), write_slabs, write_tensors, write_index, write_text]
)
def test_whatever_cannot_be_written_whole_is_named_with_the_system_s_reason_and_taken_away(
    write, small_files, tmp_path
):
    with pytest.raises(OSError) as failure:
        write(tmp_path / "file")
    assert (failure.value.errno, failure.value.filename) == (errno.EFBIG, str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []
