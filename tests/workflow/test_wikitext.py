"""WikiText-103 as a user gives it: a changed zip is read again, and one that cannot be had ends in a sentence."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import yaml

TEXT = "results/tiny/corpus/text/manifest.json"


def write_zip(path: Path, word: str) -> None:
    with zipfile.ZipFile(path, "w") as content:
        for split in ("train", "valid", "test"):
            lines = "".join(f" \n = {split} {n} = \n \n some {word} words and {n} more \n" for n in range(200))
            content.writestr(f"wikitext-103/wiki.{split}.tokens", lines)


@pytest.fixture(scope="module")
def project(new_project):
    """A project whose overlays of `tiny` take WikiText-103 from a zip beside it, and from an address that is none."""
    project = new_project("wikitext")
    write_zip(project.folder / "mine.zip", "old")
    for name, section in {"file": {"file": "mine.zip"}, "urls": {"urls": ["http://[::1/a.zip"]}}.items():
        tiny = yaml.safe_load((project.folder / "config/tiny.yaml").read_text())
        tiny["corpus"] |= {"source": "wikitext103", "tokeniser": "none", "wikitext103": section | {"sha256": None}}
        (project.folder / f"config/{name}.yaml").write_text(json.dumps(tiny))
    return project


def test_a_changed_zip_is_read_again(project):
    output = project(TEXT, config="config/file.yaml").stdout
    assert output.count("Warning: the text is not WikiText-103 as published (words and line ends: train 2,800, ") == 1
    assert "mine.zip: SHA-256 is " in output
    text = project.folder / "results/tiny/corpus/text/train.txt"
    assert text.read_text().startswith("\n= train 0 =\n\nsome old words and 0 more\n")
    assert not list(project.folder.glob("results/tiny/corpus/*.zip"))
    assert project.jobs(TEXT, config="config/file.yaml") == set()
    write_zip(project.folder / "mine.zip", "new")
    os.utime(project.folder / "mine.zip", (later := text.stat().st_mtime + 10, later))
    assert project.jobs(TEXT, config="config/file.yaml") == {"corpus_text"}
    project(TEXT, config="config/file.yaml")
    assert "some new words" in text.read_text()


def test_a_failed_download_is_one_sentence_at_the_end(project):
    output = project(TEXT, "--forcerun", "corpus_text", config="config/urls.yaml", check=False).stdout
    (sentence,) = {line for line in output.splitlines() if line.startswith("Error: ")}
    assert sentence.startswith("Error: http://[::1/a.zip: is not a URL (Invalid IPv6 URL); correct corpus.")
    assert "Traceback" not in output


def test_counts_that_are_given_are_not_believed_once_tokens_are_counted(project):
    """Three tokens are too few for a sample of `tiny`, so the check of the config refuses them."""
    config = json.loads((project.folder / "config/file.yaml").read_text())
    config["corpus"]["token_counts"] = {"train": 3, "valid": 3, "test": 3}
    (project.folder / "config/wrong.yaml").write_text(json.dumps(config))
    said = project("-n", TEXT, config="config/wrong.yaml", check=False).stdout
    assert "Error: config key lm.training.tokens_per_sample: " in said
    manifest = project.folder / "results/tiny/corpus/tokens/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    project("-n", TEXT, config="config/wrong.yaml")
