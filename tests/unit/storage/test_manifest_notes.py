"""Notes of checked files: whoever finds a file whole leaves one, and it is believed as long as the file is the same."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from knnlm.errors import KnnlmError
from knnlm.storage.arrays import save_array
from knnlm.storage.manifests import SECONDS_OF_CHANGE, Check, read_manifest, verified, write_manifest

ARRAY = np.random.default_rng(1).standard_normal((13, 8)).astype(np.float16)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "workflow")}


def old(*paths: Path) -> None:
    """Give files, as far as that can be, an age at which a check leaves a note: their own times cannot be set back."""
    newest = max(path.stat().st_ctime for path in paths)
    time.sleep(max(0, newest + SECONDS_OF_CHANGE + 0.1 - time.time()))


def note_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.checked")


@pytest.fixture
def checked(tmp_path):
    """A file that a manifest knows and that was found whole, with a note of that."""
    path = tmp_path / "array.npy"
    save_array(path, ARRAY)
    write_manifest(tmp_path / "manifest.json", [path])
    old(path)
    verified(path)
    assert note_of(path).exists()
    return path


def test_a_young_file_gets_no_note(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    write_manifest(tmp_path / "manifest.json", [tmp_path / "file"])
    verified(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "manifest.json"]


def test_whoever_reads_the_file_later_does_not_hash_it_again(checked):
    before = os.stat(checked)
    check = Check.beside(checked)
    assert check.is_whole
    check.feed(b"what does not matter")
    assert check.finish() == verified(checked)
    after = os.stat(checked)
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)


def test_a_comparison_leaves_no_note_and_believes_one(checked):
    Check.beside(checked).compare()
    note_of(checked).unlink()
    check = Check.beside(checked)
    check.feed(checked.read_bytes())
    check.compare()
    assert not note_of(checked).exists()
    flipped(checked)
    with pytest.raises(KnnlmError, match="not as it was"):
        Check.beside(checked).compare()


def test_another_process_believes_the_note(checked):
    """The file is not even read: its content is exchanged while size and times stay, which only a test can do."""
    note = json.loads(note_of(checked).read_text())
    checked.write_bytes(checked.read_bytes()[:-1] + b"?")
    state = os.stat(checked)
    note_of(checked).write_text(
        json.dumps([state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, note[4]])
    )
    program = "import sys; from knnlm.storage.manifests import verified; print(verified(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", program, checked], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.strip() == note[4]


def flipped(path: Path) -> None:
    """Flip a bit in place and set back the time of the change, as far as a program can."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    """Put another file of the same size and time in its place."""
    before, content = os.stat(path), path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", [flipped, replaced])
def test_damage_after_the_note_is_told(checked, damage):
    damage(checked)
    with pytest.raises(KnnlmError, match=rf"^{checked}: not as it was when .*manifest\.json was written"):
        verified(checked)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff"])
def test_a_damaged_note_is_no_note(checked, content):
    note_of(checked).write_bytes(content)
    assert not Check.beside(checked).is_whole
    verified(checked)
    assert Check.beside(checked).is_whole


@pytest.mark.parametrize("copy", [shutil.copy2, os.link, os.symlink])
def test_copies_and_links_are_checked_for_themselves_and_leave_their_own_notes(checked, copy):
    other = checked.parent / "other" / "array.npy"
    other.parent.mkdir()
    copy(checked, other)
    for name in ("manifest.json", ".array.npy.checked"):
        shutil.copy2(checked.with_name(name), other.with_name(name))
    assert Check.beside(other).is_whole == (copy is os.symlink)  # the one that is the very same file, unchanged
    old(other, other.parent)
    verified(other)
    assert Check.beside(other).is_whole
    flipped(checked)
    if copy is shutil.copy2:
        assert Check.beside(other).is_whole
    else:
        with pytest.raises(KnnlmError, match=rf"^{other}: not as it was"):
            verified(other)


def test_a_file_of_another_manifest_is_not_taken_for_it_though_it_is_noted(checked):
    write_manifest(checked.with_name("array.json"), [checked])
    facts = json.loads(checked.with_name("array.json").read_text())
    (checked.parent / "more").mkdir()
    save_array(checked.parent / "more" / "array.npy", ARRAY + 1)
    write_manifest(checked.with_name("array.json"), [checked.parent / "more" / "array.npy"])
    assert read_manifest(checked.with_name("manifest.json"))["files"] == facts["files"]
    shutil.copy2(checked.parent / "more" / "array.npy", checked)
    with pytest.raises(KnnlmError, match="not as it was"):
        verified(checked)


def test_without_the_right_to_write_a_file_is_read_all_the_same(checked, monkeypatch):
    """As root may write everywhere, the folder for the note is taken away by putting a folder in its place."""
    note_of(checked).unlink()
    note_of(checked).mkdir()
    (note_of(checked) / "something").touch()
    verified(checked)
    verified(checked)
    assert sorted(os.listdir(checked.parent)) == [".array.npy.checked", "array.npy", "manifest.json"]


def test_a_file_that_changes_while_it_is_read_gets_no_note(checked):
    note_of(checked).unlink()
    check = Check.beside(checked)
    checked.touch()
    check.finish()
    assert not note_of(checked).exists()


def test_two_processes_at_once_leave_one_note(checked):
    note_of(checked).unlink()
    program = "import sys; from knnlm.storage.manifests import verified; sys.stdin.read(); verified(sys.argv[1])"
    command = [sys.executable, "-c", program, checked]
    both = [subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.stdin.close()
    assert [process.wait() for process in both] == [0, 0]
    assert Check.beside(checked).is_whole
    assert sorted(os.listdir(checked.parent)) == [".array.npy.checked", "array.npy", "manifest.json"]
