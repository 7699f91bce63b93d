"""Sources, documents and splits, and the errors that bad input gets."""

from pathlib import Path

import numpy as np
import pytest

from knnlm.corpus import sources, text
from knnlm.corpus.text import SPLITS
from knnlm.errors import KnnlmError

TEXT = {
    "train": None,
    "valid": None,
    "test": None,
    "folder": None,
    "endings": [".txt", ".md"],
    "valid_fraction": 0.2,
    "test_fraction": 0.3,
    "document_separator": "file",
}


def files(folder: Path, **contents: bytes) -> dict[str, str]:
    """Write one file a split and return their paths."""
    for split in SPLITS:
        (folder / f"{split}.txt").write_bytes(contents.get(split, f"text of {split}\n".encode()))
    return {split: str(folder / f"{split}.txt") for split in SPLITS}


def test_sotu_split_without_document_writes_nothing(tmp_path, run_step):
    section = {
        "source": "sotu",
        "sotu": {"first_year": 2000, "last_year": 2002, "kinds": ["spoken"], "period": 10, "valid": 3, "test": 1},
    }
    with pytest.raises(KnnlmError, match=r"corpus\.sotu: the valid split has no document"):
        run_step(tmp_path / "out", section)
    assert not (tmp_path / "out").exists()


def test_step_writes_text_and_boundaries(tmp_path, capsys, run_step):
    paths = files(tmp_path, train=b"a b\nc\n\n\nd\r\n", valid=b"d\n\ne\n", test=b"f\n")
    run_step(tmp_path / "out", {"source": "text", "text": TEXT | paths | {"document_separator": "blank_line"}})
    assert (tmp_path / "out/text/train.txt").read_bytes() == b"a b\nc\nd\n"
    offsets = np.load(tmp_path / "out/text/train.documents.npy")
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [0, 2, 3]
    assert "documents that stand in more than one split: 1;" in capsys.readouterr().err  # the document "d"


def test_bad_file_leaves_nothing_behind(tmp_path, run_step):
    paths = files(tmp_path, test=b"fine\n\xff\n")
    with pytest.raises(KnnlmError, match=r"test\.txt: not UTF-8 at byte 5"):
        run_step(tmp_path / "out", {"source": "text", "text": TEXT | paths})
    assert not (tmp_path / "out").exists()
    with pytest.raises(KnnlmError, match=r"corpus\.text\.valid: no file"):
        run_step(tmp_path / "out", {"source": "text", "text": TEXT | paths | {"valid": None}})


def in_folder(folder: Path, valid_fraction: float, test_fraction: float, seed: int, **changed: object) -> text.Splits:
    """Return the splits of a folder's files."""
    shares = {"valid_fraction": valid_fraction, "test_fraction": test_fraction}
    return sources.text_folder(TEXT | {"folder": folder} | shares | changed, seed)


def test_folder_is_split_by_document(tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(f"document {number}\n\nend\n")
    first, again, other = (in_folder(tmp_path, 0.2, 0.3, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert {split: len(documents) for split, documents in first.items()} == {"train": 5, "valid": 2, "test": 3}
    found = sorted(document[0] for documents in first.values() for document in documents)
    assert found == [f"document {number}" for number in range(10)]
    assert all(len(in_folder(tmp_path, 0.01, 0.01, 1)[split]) == 1 for split in ("valid", "test"))


def test_folder_errors(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    with pytest.raises(KnnlmError, match=r"has 2 \.txt or \.md files"):
        in_folder(tmp_path, 0.1, 0.1, 1)
    with pytest.raises(KnnlmError, match="is not a folder"):
        in_folder(tmp_path / "absent", 0.1, 0.1, 1)
