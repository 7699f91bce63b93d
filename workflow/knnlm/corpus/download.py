"""WikiText-103, the paper's corpus: a zip on disk or downloaded, checked and unpacked.

A download that breaks off leaves its part, and the next attempt, of this job or a later one, goes on from there.
`pooch` begins anew each time and `requests` knows nothing of parts; what is left for them to do `urllib` does too, and
it reads `file://` and `ftp://`.
"""

import glob
import http.client
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.response import addinfourl

from knnlm.corpus.text import SPLITS, Splits, decode, divide
from knnlm.errors import KnnlmError
from knnlm.running.progress import progress
from knnlm.storage.atomic import naming
from knnlm.storage.manifests import identity_name, sha256

AGENT = "why-knnlm/0.1.0"  # servers refuse Python's own name
BLOCK, MEBIBYTE = 1 << 16, 1 << 20  # bytes
ATTEMPTS = 4  # one after the other that bring nothing new
WAIT, LIMIT = 2.0, 60.0  # seconds: before the second attempt, and for an answer
# Of HTTP's 4xx: too slow, too early, a range that has gone, too often. Any other is the server's last word.
TRY_AGAIN = (408, 416, 425, 429)
# A zip that is damaged, cut short, encrypted, of an unknown method (a RuntimeError too) or of other files.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
Response = http.client.HTTPResponse | addinfourl  # the latter of ftp:// and file://


class BrokenOffError(Exception):
    """An attempt failed for a reason that may pass."""


class RefusedError(Exception):
    """An address cannot give the file."""


def wikitext103(section: dict, kept: Path, normalisation: str = "none") -> Splits:
    """Return WikiText-103, one document an article, from the zip that the config's `section` corpus.wikitext103 names.

    That is its `file`, or else `kept`, which is downloaded if it is missing. Raises KnnlmError where the zip cannot be
    had or read, or has another SHA-256 than the section; null accepts any.
    """
    given, checksum = section["file"], section["sha256"]
    archive = Path(given or kept)
    remedy = "correct corpus.wikitext103.file" if given else "delete it and rerun, or correct corpus.wikitext103.urls"
    if not given and not kept.exists():
        download(section["urls"], kept, checksum)
    check_sha256(archive, checksum, "corpus.wikitext103", remedy)
    try:
        with zipfile.ZipFile(archive) as content:
            members = {Path(name).name: name for name in content.namelist() if not name.endswith("/")}
            if missing := [name for split in SPLITS if (name := f"wiki.{split}.tokens") not in members]:
                raise zipfile.BadZipFile(f"it has no {missing[0]}, but {', '.join(sorted(members)[:4]) or 'no file'}")
            texts = {split: content.read(members[f"wiki.{split}.tokens"]) for split in SPLITS}
    except ZIP_ERRORS as error:
        raise KnnlmError(f"{archive}: not the zip of WikiText-103 ({error}); {remedy}.") from None
    lines = {split: decode(text, f"{archive}: wiki.{split}.tokens", normalisation) for split, text in texts.items()}
    return {split: divide(lines[split], "heading") for split in SPLITS}


def check_sha256(archive: Path, checksum: str | None, key: str, remedy: str) -> None:
    """Raise KnnlmError unless a file has the SHA-256 of the config's section `key`; null prints what it has."""
    try:
        found = sha256(archive)
    except OSError as error:
        raise KnnlmError(f"{archive}: cannot be read ({error.strerror}); {remedy}.") from None
    if checksum is None:
        said = f"{archive}: SHA-256 is {found}; put it into {key}.sha256 to have it checked."
        print(said, file=sys.stderr)
    elif found != checksum:
        problem = f"SHA-256 is {found}, but {key}.sha256 is {checksum}"
        raise KnnlmError(f"{archive}: {problem}; {remedy}, or correct the key.")


def download(urls: Sequence[str], path: Path, checksum: str | None, wait: float = WAIT, limit: float = LIMIT) -> None:
    """Download the zip at the first of `urls` that has it to `path`, whole or not at all.

    Each address is tried as `whole_file` does, with `wait` and `limit` in seconds. Raises KnnlmError, with the failure
    of every address, if none has a zip of this SHA-256; None accepts any.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for number, url in enumerate(urls, 1):
        try:
            whole_file(url, path, checksum, wait, limit).replace(path)
        except RefusedError as error:
            failures.append(f"{url}: {error}")
            if number < len(urls):
                print(f"{failures[-1]}; trying the next address", file=sys.stderr, flush=True)
        else:
            for part in parts(path):
                part.unlink()
            return
    settings = "corpus.source text with tokeniser none and document_separator heading"
    remedy = "correct corpus.wikitext103.urls, or get the file elsewhere and name it in corpus.wikitext103.file"
    raise KnnlmError(f"{'; '.join(failures)}; {remedy} or put it at {path}, or unpack it and use {settings}.")


def whole_file(url: str, path: Path, checksum: str | None, wait: float, limit: float) -> Path:
    """Return the part beside `path` that is the whole zip at an address.

    After a failure that may pass there is another attempt `wait` seconds later, the next after twice as long, and so
    on, until nothing new has arrived in as many as ATTEMPTS. Raises RefusedError.
    """
    failed, most = 0, 0
    while True:
        try:
            part, is_continued = fetch(url, path, limit)
            if (problem := fault(part, checksum)) is None:
                return part
            part.unlink()
            if not is_continued:
                raise RefusedError(problem)
            raise BrokenOffError(f"the parts make no whole, {problem}")
        except BrokenOffError as error:
            has = sum(part.stat().st_size for part in parts(path))
            failed, most = (1 if has > most else failed + 1), max(has, most)
            if failed == ATTEMPTS:
                raise RefusedError(f"could not be downloaded ({error})") from None
            seconds = wait * 2 ** (failed - 1)
            print(f"{url}: {error}; trying again in {seconds:.0f} s", file=sys.stderr, flush=True)
            time.sleep(seconds)


def fetch(url: str, path: Path, limit: float) -> tuple[Path, bool]:
    """Download from an address to a part beside `path`; return the part, and whether an earlier attempt began it.

    Only a part of the same state of the file is continued. Raises BrokenOffError, which leaves the part, and
    RefusedError.
    """
    response = opened(url, 0, limit)
    part, total = part_of(url, response, path)
    has = part.stat().st_size if part.exists() else 0
    begin = has if total and has <= total else 0
    if begin and begin < total:
        response.close()
        response = opened(url, begin, limit)
        if response.status != 206:  # the server has no ranges
            begin = 0
        elif part_of(url, response, path)[0] != part or f"bytes {begin}-" not in response.headers["Content-Range"]:
            part.unlink()
            raise BrokenOffError("the file has changed in the meantime")
    if not begin:
        part.unlink(missing_ok=True)
    with response, naming(part), open(part, "ab") as file:
        if begin != total:
            copied = copy(response, file)
            left = None if total is None else -(-(total - begin) // MEBIBYTE)
            for _ in copied if left is None else progress(copied, "download (MiB)", left):
                pass
        if total is not None and file.tell() != total:
            raise BrokenOffError(f"the connection ended after {file.tell()} of {total} bytes")
    return part, begin > 0


def opened(url: str, begin: int, limit: float) -> Response:
    """Ask an address for its bytes from `begin` on and return the answer. Raises BrokenOffError and RefusedError."""
    headers = {"User-Agent": AGENT} | ({"Range": f"bytes={begin}-"} if begin else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=limit)
    except urllib.error.HTTPError as error:
        reason = f"HTTP status {error.code}, {' '.join(error.reason.split())}"
        if error.code >= 500 or error.code in TRY_AGAIN:
            raise BrokenOffError(reason) from None
        raise RefusedError(f"the server refuses the download ({reason})") from None
    except (ValueError, http.client.InvalidURL) as error:
        raise RefusedError(f"is not a URL ({error})") from None
    except (OSError, http.client.HTTPException) as error:
        raise BrokenOffError(getattr(error, "reason", error)) from None


def part_of(url: str, response: Response, path: Path) -> tuple[Path, int | None]:
    """Return where the part of this state of an address lies, and the bytes of the whole, or None if nobody says."""
    told = response.headers
    length = (told["Content-Range"] or told["Content-Length"] or "").rpartition("/")[2]
    state = identity_name([url, told["ETag"], told["Last-Modified"], length])
    return path.with_name(f".{path.name}.{state}.part"), int(length) if length.isdecimal() else None


def parts(path: Path) -> Iterator[Path]:
    """Yield what broken downloads to `path` have left, of every address."""
    return path.parent.glob(f".{glob.escape(path.name)}.*.part")


def copy(response: Response, file: BinaryIO) -> Iterator[None]:
    """Append a response to a file; yields after each mebibyte, and at the end. Raises BrokenOffError."""
    size = 0
    while block := received(response):
        file.write(block)
        before, size = size, size + len(block)
        if size // MEBIBYTE > before // MEBIBYTE:
            yield
    if size % MEBIBYTE:
        yield


def received(response: Response) -> bytes:
    """Return the next bytes of a response, none at its end. Raises BrokenOffError."""
    try:
        return response.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise BrokenOffError(str(error)) from None


def fault(part: Path, checksum: str | None) -> str | None:
    """Say why a whole file is not the zip that was meant; None where it is."""
    if not zipfile.is_zipfile(part):
        with open(part, "rb") as file:
            return f"what it sends is not a whole zip (it begins with {file.read(20)!r})"
    if checksum is not None and (found := sha256(part)) != checksum:
        return f"SHA-256 is {found}, but corpus.wikitext103.sha256 is {checksum}"
    return None
