"""What several tests of the corpus use: its first step as a function, and a small archive."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from knnlm.corpus.text import SPLITS
from knnlm.steps import corpus_text

WIKI = b" \n = First = \n \n = = Part = = \n \n some words \n \n = Second = \n \n x = y \n"


@pytest.fixture
def run_step() -> Callable[[Path, dict], None]:
    """The function that runs the step on a config section; its files go to a folder's `text`."""

    def run(output: Path, section: dict) -> None:
        texts = [output / "text" / f"{split}.txt" for split in SPLITS]
        documents = [output / "text" / f"{split}.documents.npy" for split in SPLITS]
        settings = {"seed": 1, "corpus": {"normalisation": "nfc", "share": 1.0} | section}
        corpus_text.main(settings, texts, documents, output / "text" / "manifest.json")

    return run


@pytest.fixture
def archive(tmp_path) -> Path:
    """A zip like that of WikiText-103, of a few lines."""
    path = tmp_path / "served" / "wiki.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as content:
        for split in SPLITS:
            content.writestr(f"wikitext-103/wiki.{split}.tokens", WIKI)
    return path
