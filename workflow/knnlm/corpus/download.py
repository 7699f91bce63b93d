"""WikiText-103, the paper's corpus: downloaded, checked and unpacked."""

import http.client
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from knnlm.corpus.text import SPLITS, Splits, decode, divide
from knnlm.errors import KnnlmError
from knnlm.running.progress import progress
from knnlm.storage.atomic import atomic
from knnlm.storage.manifests import sha256

BLOCK = 1 << 20  # bytes
TRY_AGAIN = (408, 425, 429)  # of HTTP's 4xx: too slow, too early, too often; any other is the server's last word
# A zip that is damaged, cut short, encrypted, of an unknown method (a RuntimeError too) or of other files.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, KeyError)


def wikitext103(url: str, checksum: str | None, archive: Path, normalisation: str = "none") -> Splits:
    """Return WikiText-103, one document an article, from the zip at `archive`, which is downloaded if it is missing.

    Raises KnnlmError where the zip cannot be had or read, or its SHA-256 is not `checksum`; None accepts any.
    """
    if not archive.exists():
        download(url, archive, checksum)
    try:
        found = sha256(archive)
    except OSError as error:
        remedy = "delete it and rerun, or put WikiText-103's zip there"
        raise KnnlmError(f"{archive}: cannot be read ({error.strerror}); {remedy}.") from None
    if checksum is None:
        said = f"{archive}: SHA-256 is {found}; put it into corpus.wikitext103.sha256 to have it checked."
        print(said, file=sys.stderr)
    elif found != checksum:
        problem = f"SHA-256 is {found}, but corpus.wikitext103.sha256 is {checksum}"
        raise KnnlmError(f"{archive}: {problem}; delete the file and rerun, or correct the key.")
    try:
        with zipfile.ZipFile(archive) as content:
            members = {Path(name).name: name for name in content.namelist()}
            texts = {split: content.read(members[f"wiki.{split}.tokens"]) for split in SPLITS}
    except ZIP_ERRORS as error:
        remedy = "delete it and rerun, or correct corpus.wikitext103.url"
        raise KnnlmError(f"{archive}: not the zip of WikiText-103 ({error}); {remedy}.") from None
    lines = {split: decode(text, f"{archive}: wiki.{split}.tokens", normalisation) for split, text in texts.items()}
    return {split: divide(lines[split], "heading") for split in SPLITS}


def download(url: str, path: Path, checksum: str | None, attempts: int = 4, wait: float = 2.0) -> None:
    """Download `url` to `path`, whole or not at all.

    A failed attempt is repeated after `wait` seconds, then after twice as long, and so on; but not where the server
    refuses it (HTTP 4xx). Raises KnnlmError if all fail or the SHA-256 is not `checksum`.
    """
    settings = "corpus.source text with tokeniser none and document_separator heading"
    otherwise = f"and put it at {path}, or unpack it and use {settings}."
    for attempt in range(attempts):
        try:
            with atomic(path) as unfinished:
                fetch(url, unfinished)
                if checksum is not None and (found := sha256(unfinished)) != checksum:
                    problem = f"SHA-256 is {found}, but corpus.wikitext103.sha256 is {checksum}"
                    raise KnnlmError(f"{url}: {problem}; correct the url or the key.")
            return
        except urllib.error.HTTPError as error:
            reason = f"HTTP status {error.code}, {error.reason}"
            if 400 <= error.code < 500 and error.code not in TRY_AGAIN:
                remedy = f"correct corpus.wikitext103.url, or get the file elsewhere {otherwise}"
                raise KnnlmError(f"{url}: the server refuses the download ({reason}); {remedy}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
        except ValueError as error:
            raise KnnlmError(f"corpus.wikitext103.url: {url} is not a URL ({error}); correct the key.") from None
        if attempt < attempts - 1:
            print(f"{url}: {reason}; trying again in {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)
            wait *= 2
    remedy = f"get the file on a machine with network access {otherwise}"
    raise KnnlmError(f"{url}: could not be downloaded ({reason}); {remedy}")


def fetch(url: str, path: Path) -> None:
    """Copy the content of `url` to `path`, block by block; an OSError if it ends early."""
    with urllib.request.urlopen(url, timeout=60) as response, open(path, "wb") as file:
        length = response.headers.get("Content-Length")
        blocks = iter(lambda: response.read(BLOCK), b"")
        total = None if length is None else -(-int(length) // BLOCK)
        file.writelines(blocks if total is None else progress(blocks, "download (MiB)", total))
        if length is not None and file.tell() != int(length):
            raise urllib.error.URLError(f"the connection ended after {file.tell()} of {length} bytes")
