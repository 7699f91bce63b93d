"""A zip in WikiText's format, made of the default corpus: what the rehearsal of the paper downloads.

By hand: PYTHONPATH=workflow python tests/workflow/wikitext_zip.py FOLDER, and then, for the address in
config/rehearsal.yaml: python -m http.server 8103 --bind 127.0.0.1 --directory FOLDER
"""

import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from knnlm.corpus import sotu
from knnlm.corpus.text import SPLITS
from knnlm.corpus.tokenise import tokenise

NAME = "wikitext-103-v1.zip"
ADDRESSES = {"first_year": 1913, "last_year": 2026, "kinds": ["spoken"], "period": 6, "valid": 0, "test": 3}
WORDS = {"train": 1100, "valid": 200, "test": 200}  # of an article, at the least, where an address has so many
PARAGRAPHS = 6  # of a section
SEEN = 3  # times in train; rarer words are `<unk>`, as in WikiText
DATE = (2016, 9, 26, 0, 0, 0)  # of all members, so that the zip is the same bytes wherever it is made


def wikitext_zip(path: Path) -> Path:
    """Write the zip to a path and return that; no member is compressed, since libraries differ in how they do it."""
    texts = {split: list(tokens(split)) for split in SPLITS}
    seen = Counter(word for line in texts["train"] for word in line.split())
    with zipfile.ZipFile(path, "w") as archive:
        for split, lines in texts.items():
            known = (" ".join(word if seen[word] >= SEEN else "<unk>" for word in line.split()) for line in lines)
            text = "".join(f" {line} \n" if line else " \n" for line in known)
            archive.writestr(zipfile.ZipInfo(f"wikitext-103/wiki.{split}.tokens", DATE), text)
    return path


def tokens(split: str) -> Iterator[str]:
    """Yield the lines of a split: addresses as articles, cut short, in sections, with blank lines as WikiText's."""
    for address in sotu.addresses(ADDRESSES):
        if address.split == split:
            yield from ("", f"= {tokenise(f'State of the Union, {address.date}')} =", "")
            paragraphs = filter(None, map(tokenise, address.path.read_text(encoding="utf-8").splitlines()))
            words = 0
            for number, paragraph in enumerate(paragraphs):
                if words >= WORDS[split]:
                    break
                if number % PARAGRAPHS == PARAGRAPHS - 1:
                    yield from ("", f"= = Part {1 + number // PARAGRAPHS} = =", "")
                yield paragraph
                words += len(paragraph.split())


if __name__ == "__main__":
    print(wikitext_zip(Path(sys.argv[1], NAME)))
