"""The addresses against the files of their package."""

import csv
import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnlm.corpus import sotu
from knnlm.corpus.text import SPLITS


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


LINES = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(LINES, st.integers(1, 60), st.integers(0, 4))
def test_a_part_is_the_longest_run_of_whole_lines_at_its_place(lengths, words, quarter):
    """Every run of lines is tried: none within the same words is longer than what is returned."""
    document = [" ".join([f"w{number}"] * length) for number, length in enumerate(lengths)]
    chosen = sotu.part(document, words, quarter / 4)
    first = round(quarter / 4 * max(sum(lengths) - words, 0))
    runs = [(begin, end) for begin in range(len(lengths)) for end in range(begin + 1, len(lengths) + 1)
            if first <= sum(lengths[:begin]) and sum(lengths[:end]) <= first + words]  # fmt: skip
    if runs:
        begin, end = max(runs, key=lambda run: run[1] - run[0])
        assert chosen == document[begin:end]
        assert sum(lengths[begin:end]) <= words
    else:
        assert len(chosen) == 1
    if words >= sum(lengths):
        assert chosen == document


def test_held_out_years_give_parts_from_beginning_to_end_and_training_stays():
    section = {"first_year": 1948, "last_year": 1998, "kinds": ["spoken"], "period": 10, "valid": 3, "test": 8}
    whole, parts = sotu.splits(section), sotu.splits(section | {"held_out_words": 800})
    assert parts["train"] == whole["train"]
    for split in ("valid", "test"):
        assert len(parts[split]) == len(whole[split]) >= 3
        begins = []
        for document, part in zip(whole[split], parts[split], strict=True):
            assert 500 < sum(len(line.split()) for line in part) <= 800
            begin = next(n for n in range(len(document)) if document[n : n + len(part)] == part)
            begins.append(begin / (len(document) - len(part)))
        assert begins == sorted(begins)
        assert (begins[0], begins[-1]) == (0, 1)


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
    settings = json.dumps(
        {"seed": 1, "corpus": {"source": "sotu", "normalisation": "nfc", "share": 1.0, "sotu": years}}
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(sotu_package.parent), str(Path(sotu.__file__).parents[2])])
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
        == f"Error: sotu package: data/speeches/{address.name} is not the published file (SHA-256 differs); "
        "reinstall the package sotu.\n"
    )
    assert not (tmp_path / "changed").exists()
