import hashlib
import json

import pytest

from knnlm.artifacts import sha256
from knnlm.fairseq_runs import checkpoint_folder


@pytest.fixture
def files(tmp_path):
    for name in ("train.bin", "valid.bin", "dict.txt", "code.py", "more.py"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_folder_is_named_by_settings_corpus_and_code(files):
    corpus = [sha256(files / name) for name in ("train.bin", "valid.bin", "dict.txt")]
    identity = json.dumps([{"a": 1, "b": [2]}, corpus, ["code.py"]], sort_keys=True)  # a change of this would orphan trainings that are under way
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
