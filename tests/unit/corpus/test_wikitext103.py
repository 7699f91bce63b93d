"""WikiText-103's zip: downloaded or on disk, checked, read, and refused where it is another."""

import functools
import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from knnlm.corpus.download import wikitext103
from knnlm.corpus.text import SPLITS
from knnlm.errors import KnnlmError


def test_wikitext_over_http(archive, tmp_path, run_step):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/wiki.zip"
        section = {"file": None, "urls": [url], "sha256": digest}
        run_step(tmp_path / "out", {"source": "wikitext103", "wikitext103": section})
        server.shutdown()
    assert (tmp_path / "out/wikitext-103-v1.zip").read_bytes() == archive.read_bytes()
    assert_text(tmp_path, archive)


def test_wikitext_from_a_file_is_read_in_place(archive, tmp_path, run_step):
    section = {"file": str(archive), "urls": ["https://localhost/"], "sha256": None}
    run_step(tmp_path / "out", {"source": "wikitext103", "wikitext103": section})
    assert not (tmp_path / "out/wikitext-103-v1.zip").exists()
    assert_text(tmp_path, archive)


def assert_text(tmp_path: Path, archive: Path) -> None:
    assert (tmp_path / "out/text/valid.txt").read_text().split("\n") == [
        " ".join(line.split())
        for line in zipfile.Path(archive, "wikitext-103/wiki.valid.tokens").read_text().split("\n")
    ]
    assert np.load(tmp_path / "out/text/valid.documents.npy").tolist() == [0, 7, 10]


def test_wikitext_checksum_and_damage(archive, tmp_path, capsys):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    kept = tmp_path / "kept.zip"
    section = {"file": None, "urls": [archive.as_uri()], "sha256": None}
    with pytest.raises(KnnlmError, match=rf"SHA-256 is {digest}, but .*{'0' * 64}"):
        wikitext103(section | {"sha256": "0" * 64}, kept)
    assert not kept.exists()
    wikitext103(section, kept)
    assert digest in capsys.readouterr().err
    kept.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(KnnlmError, match=r"kept\.zip: SHA-256"):
        wikitext103(section | {"sha256": digest}, kept)
    with pytest.raises(KnnlmError, match=r"kept\.zip: not the zip"):
        wikitext103(section, kept)


def raw_version(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as content:
        for split in SPLITS:
            content.writestr(f"wikitext-103-raw/wiki.{split}.raw", "x")


def without_test(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("wikitext-103/wiki.train.tokens", " = A = \n")
        content.writestr("wikitext-103/wiki.valid.tokens", " = B = \n")


def without_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as content:
        for split in SPLITS:
            content.writestr(f"wikitext-103/wiki.{split}.tokens", " = A = \n" if split == "train" else " \n \n")


def in_latin_1(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as content:
        for split in SPLITS:
            content.writestr(f"wikitext-103/wiki.{split}.tokens", "= é =\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (raw_version, r"not the zip of WikiText-103 \(it has no wiki\.train\.tokens, but wiki\.test\.raw, wiki\.train"),
        (without_test, r"not the zip of WikiText-103 \(it has no wiki\.test\.tokens, but wiki\.train\.tokens, wiki\.v"),
        (without_text, r"wiki\.valid\.tokens: the file is empty"),
        (in_latin_1, r"wiki\.train\.tokens: not UTF-8 at byte 2"),
        (lambda path: path.write_bytes(b"PAR1" + bytes(100)), r"not the zip of WikiText-103 \(File is not a zip"),
        (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), r"it has no wiki\.train\.tokens, but no file"),
    ],
    ids=["raw version", "a split is missing", "a split is blank", "not UTF-8", "parquet", "empty zip"],
)
def test_a_given_zip_that_is_another_is_refused(write, said, tmp_path):
    write(tmp_path / "mine.zip")
    section = {"file": str(tmp_path / "mine.zip"), "urls": ["https://localhost/"], "sha256": None}
    with pytest.raises(KnnlmError, match=rf"mine\.zip: .*{said}" if "not the" in said else said) as caught:
        wikitext103(section, tmp_path / "kept.zip")
    assert str(caught.value).endswith(".")
    assert "delete it" not in str(caught.value)
    with pytest.raises(KnnlmError, match=r"but corpus\.wikitext103\.sha256 is 0+; correct corpus\.wikitext103\.file"):
        wikitext103(section | {"sha256": "0" * 64}, tmp_path / "kept.zip")
