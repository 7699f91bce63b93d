"""Sources, documents and splits, and the errors that bad input gets."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


OFFICIAL = {"train": 103_227_021, "valid": 217_646, "test": 245_569}


def copied(lines: list[str], way: str) -> list[str]:
    """Return lines of WikiText as a copy has them."""
    rows = [f"{line}\n" if line else "" for line in lines]  # as Salesforce/wikitext has them
    return {
        "as published": "".join(f"{line}\n" for line in lines),
        "rows one after the other": "".join(rows),
        "a line end after each row": "\n".join(rows) + "\n",
        "no blank lines": "".join(f"{line}\n" for line in lines if line),
        "one line": " ".join(filter(None, lines)) + "\n",
    }[way].splitlines()


WAYS = ["as published", "rows one after the other", "a line end after each row", "no blank lines", "one line"]


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_wikitext_with_other_lines_is_told_by_its_words(way):
    """Lines of the length that WikiText's have, as many as its splits have words."""
    words = {}
    for split, count in OFFICIAL.items():
        paragraph = " ".join(["word"] * 86)
        block = ["", "= Title =", "", paragraph, paragraph]
        size = sum(len(line.split()) + 1 for line in block)
        per_block = sum(map(sources.words_of, copied(block, way)))
        words[split] = round(count * per_block / size)
        if way != "one line":
            assert per_block == sum(len(line.split()) + 1 for line in copied(block, way))
    said = sources.no_wikitext103(words, is_declared=False)
    assert (said is None) == (way == "as published")
    if said:
        assert said.count(", not ") == 3
        assert f"valid {words['valid']:,}, not 217,646" in said
        assert said.endswith(".")


def test_other_texts_are_not_taken_for_wikitext(archive, tmp_path, run_step, capsys):
    wikitext_2 = OFFICIAL | {"train": 2_088_628}  # the same valid and test
    assert sources.no_wikitext103(wikitext_2, is_declared=False) is None
    assert "train 2,088,628, not 103,227,021)" in sources.no_wikitext103(wikitext_2, is_declared=True)
    assert sources.no_wikitext103({"train": 103_227_021, "valid": 10_000, "test": 245_569}, is_declared=False) is None
    assert sources.no_wikitext103(OFFICIAL, is_declared=True) is None
    paths = files(tmp_path)
    run_step(tmp_path / "out", {"source": "text", "text": TEXT | paths})
    assert "WikiText" not in capsys.readouterr().err
    section = {"file": str(archive), "urls": [], "sha256": None}
    run_step(tmp_path / "out", {"source": "wikitext103", "wikitext103": section})
    said = [line for line in capsys.readouterr().err.splitlines() if "as published" in line]
    assert len(said) == 1
    assert "train 26, not 103,227,021; valid 26, not 217,646; test 26, not 245,569" in said[0]


@given(
    st.lists(st.lists(st.text("ab ", max_size=9), min_size=1, max_size=6), min_size=1, max_size=8),
    st.floats(0.01, 1),
    st.integers(0, 5),
)
def test_a_share_of_the_text_has_its_characters_and_is_part_of_a_larger_one(documents, share, seed):
    """Lines are numbered, so that each is itself; one line too many is the most."""
    numbers = iter(range(100))
    documents = [[f"{next(numbers)}{line}" for line in document] for document in documents]
    some, all_of_it = sources.drawn(documents, share, seed), sources.drawn(documents, 1, seed)
    assert all_of_it == documents
    wanted = share * sum(len(line) for document in documents for line in document)
    has, longest = sum(len(line) for document in some for line in document), max(map(len, chain(*documents)))
    assert wanted <= has + 1e-6
    assert has < wanted + longest
    larger = sources.drawn(documents, (1 + share) / 2, seed)
    assert set(chain(*some)) <= set(chain(*larger))
    begun = [document for document in documents if document[0] in {lines[0] for lines in some}]
    assert [document[: len(lines)] for document, lines in zip(begun, some, strict=True)] == some  # in their order


def test_valid_and_test_are_the_same_whatever_share_of_the_training_text_is_used(tmp_path, run_step):
    paths = files(tmp_path, train=b"a b\n\nc d\n\ne f\n\ng h\n", valid=b"d\n\ne\n", test=b"f\n")
    section = {"source": "text", "text": TEXT | paths | {"document_separator": "blank_line"}}
    for share in (0.25, 1.0):
        run_step(tmp_path / str(share), section | {"share": share})
    whole, part = (tmp_path / share / "text" for share in ("1.0", "0.25"))
    assert len((part / "train.txt").read_text().split()) == 2
    for split in ("valid", "test"):
        assert (part / f"{split}.txt").read_bytes() == (whole / f"{split}.txt").read_bytes()
