import errno
import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from knnlm.errors import KnnlmError
from knnlm.language_model.fairseq_runs import (
    HISTORY,
    checkpoint_folder,
    drop_unfinished_line,
    environment,
    failure,
    history,
)
from knnlm.language_model.training import COLUMNS
from knnlm.storage.manifests import sha256


@pytest.fixture
def files(tmp_path):
    for name in ("train.bin", "valid.bin", "dict.txt", "code.py", "more.py"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_folder_is_named_by_settings_corpus_and_code(files):
    corpus = [sha256(files / name) for name in ("train.bin", "valid.bin", "dict.txt")]
    identity = json.dumps(
        [{"a": 1, "b": [2]}, corpus, ["code.py"]], sort_keys=True
    )  # a change of this would orphan trainings that are under way
    folder = checkpoint_folder(files / "kept", {"b": [2], "a": 1}, files, [files / "code.py"])
    assert folder == files / "kept" / hashlib.sha256(identity.encode()).hexdigest()[:16]


def test_whatever_shapes_a_training_changes_its_folder(files):
    def folder(settings=1, code=("code.py",)):
        return checkpoint_folder(files, {"a": settings}, files, [files / name for name in code])

    found = {folder(), folder(settings=2), folder(code=("code.py", "more.py"))}
    for name in ("train.bin", "valid.bin", "dict.txt", "code.py"):
        (files / name).write_text("changed")
        found.add(folder())
    assert len(found) == 7


def test_a_record_that_was_cut_short_is_taken_away(tmp_path):
    whole = [dict.fromkeys(COLUMNS, 1), dict.fromkeys(COLUMNS, 2)]
    (tmp_path / HISTORY).write_text("".join(json.dumps(record) + "\n" for record in whole) + '{"upda')
    drop_unfinished_line(tmp_path / HISTORY)
    assert history(tmp_path) == whole
    drop_unfinished_line(tmp_path / HISTORY)
    assert history(tmp_path) == whole
    (tmp_path / HISTORY).write_text('{"upda')
    drop_unfinished_line(tmp_path / HISTORY)
    assert history(tmp_path) == []


RECORD = json.dumps(dict.fromkeys(COLUMNS, 1)) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"{\n",
        b"5\n",
        b'{"update": 1}\n',
        RECORD.encode() + b"\xff" + RECORD.encode(),
        RECORD.encode()[:-5] + b"\n",
    ],
)
def test_records_that_are_missing_or_damaged_name_the_folder_to_delete(content, tmp_path):
    if content is not None:
        (tmp_path / HISTORY).write_bytes(content)
    remedy = rf"delete the folder {tmp_path} and rerun: the training starts anew\."
    sentence = rf"^{tmp_path}/{HISTORY}: missing or damaged; {remedy}$"
    with pytest.raises(KnnlmError, match=sentence):
        history(tmp_path)


def test_fairseq_unpickles_no_code_whatever_the_environment_says(tmp_path, monkeypatch):
    """PyTorch reads a file of objects in its own environment; in fairseq's it refuses, even if the call allows it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"path": tmp_path}, tmp_path / "objects.pt")
    for call, ours, fairseqs in (
        ("torch.load(sys.argv[1])", 0, 1),
        ("torch.load(sys.argv[1], weights_only=False)", 0, 1),
    ):
        command = [sys.executable, "-c", f"import sys, torch; {call}", str(tmp_path / "objects.pt")]
        assert subprocess.run(command, env=os.environ, check=False, capture_output=True).returncode == ours
        assert subprocess.run(command, env=environment(), check=False, capture_output=True).returncode == fairseqs


def test_why_fairseq_ended_is_told(tmp_path):
    full = failure(1, f"Traceback ...\nOSError: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}\n", tmp_path)
    assert (type(full), full.errno, full.filename) == (OSError, errno.ENOSPC, str(tmp_path))
    killed = failure(-signal.SIGKILL, "last words", tmp_path)
    assert isinstance(killed, KnnlmError)
    assert "killed by SIGKILL" in str(killed)
    assert "last words" not in str(killed)
    used_up = failure(
        1, "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\n", tmp_path
    )
    assert isinstance(used_up, KnnlmError)
    assert "ran out of memory" in str(used_up)
    assert "lm.training.batch_samples" in str(used_up)


TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 1\nValueError: no such\x1b optimiser.\n\n'


def test_the_exception_is_in_the_sentence_and_the_rest_beside_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KNNLM_LOG", str(tmp_path / "train_lm.log"))
    said = str(failure(2, TRACEBACK, tmp_path))
    assert (
        said == "fairseq-train ended with status 2: ValueError: no such  optimiser; "
        f"see {tmp_path}/train_lm.output.txt for what else it said."
    )
    assert (tmp_path / "train_lm.output.txt").read_text() == TRACEBACK
    assert capsys.readouterr() == ("", "")
    assert "status 2: it said nothing; see " in str(failure(2, "\n", tmp_path))
    monkeypatch.setenv("KNNLM_LOG", str(tmp_path / "no-folder" / "train_lm.log"))
    assert str(failure(2, TRACEBACK, tmp_path)).endswith(
        "ValueError: no such  optimiser; see above for what else it said."
    )
    assert TRACEBACK in capsys.readouterr().err


def test_the_rest_is_shown_where_a_step_has_no_log(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KNNLM_LOG", raising=False)
    assert str(failure(2, TRACEBACK, tmp_path)).endswith(
        "ValueError: no such  optimiser; see above for what else it said."
    )
    assert TRACEBACK in capsys.readouterr().err
