"""Files of text: which of a folder count, how their bytes become lines, and how lines are divided into documents.

Imports nothing heavy, since checking a config needs the folder's files too.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from knnlm.errors import KnnlmError
from knnlm.storage.atomic import atomic

SPLITS = ("train", "valid", "test")
EVALUATED = SPLITS[1:]  # λ and τ are tuned on valid, and claims rest on test
Document = list[str]  # lines without line ends; words are separated by single spaces
Splits = dict[str, list[Document]]

HEADING = re.compile(r"= (?!= ).*(?<! =) =")  # ` = Title = ` of WikiText, not ` = = Section = = `
# What BPE needs grows with the square of a word: seconds for this many characters, hours for ten million.
LONGEST_WORD = 100_000
BEFORE_A_LINE = "\ufeff \t"  # byte order marks: a file that was joined from two has one in its middle
# A line of nothing else looks blank: white space, control characters, and Unicode's Default_Ignorable_Code_Point.
INVISIBLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)


class EmptyTextError(KnnlmError):
    """A text in which nobody can see anything."""


def folder_files(folder: str | Path, endings: Sequence[str]) -> list[Path]:
    """Return the files in a folder and its sub-folders whose names end in one of `endings`, in capitals or not; sorted.

    Names that begin with a point are left out, of files and of folders: macOS keeps its own notes in such. A folder
    that links lead to twice is read once. Raises KnnlmError for a sub-folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise KnnlmError(f"{error.filename}: cannot be read ({error.strerror}); change its permissions or remove it.")

    wanted, found, seen = tuple(map(str.lower, endings)), [], set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in files if name.lower().endswith(wanted) and not name.startswith(".")]
    return sorted(found)


def decode(data: bytes, name: str, normalisation: str = "none") -> list[str]:
    """Return the lines of a UTF-8 text; LF, CRLF and CR end lines, and words are separated by single spaces.

    `normalisation` is `nfc` or `none`. A byte order mark that begins a line is dropped, and a line of invisible
    characters is blank. Raises EmptyTextError where all are, and KnnlmError where the text is not UTF-8 (with the
    byte offset), has a NUL byte or a word that is too long for BPE; both name `name`.
    """
    nul = data.find(b"\0")
    sign = f"a NUL byte at byte {nul}" if nul >= 0 else "a byte order mark that is not UTF-8's"
    if encoding := other_encoding(data):
        remedy = f"save it as UTF-8 in an editor, or convert it with `iconv -f {encoding} -t UTF-8`"
        raise KnnlmError(f"{name}: has {sign} and looks like {encoding}, not UTF-8; {remedy}.")
    if nul >= 0:
        raise KnnlmError(f"{name}: has {sign}, so it is not plain text; give a UTF-8 text file.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise KnnlmError(f"{name}: not UTF-8 at byte {error.start}; convert the file to UTF-8.") from None
    if normalisation == "nfc":
        text = unicodedata.normalize("NFC", text)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    lines = ["" if INVISIBLE.fullmatch(line) else " ".join(line.lstrip(BEFORE_A_LINE).split()) for line in lines]
    if not any(lines):
        raise EmptyTextError(f"{name}: the file is empty; give a file with text in it.")
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_WORD and (longest := max(map(len, line.split()))) > LONGEST_WORD:
            limit = f"BPE cannot learn from a word of more than {LONGEST_WORD:,}; divide it by spaces or remove it"
            raise KnnlmError(f"{name}: line {number} has {longest:,} characters without a space, and {limit}.")
    return lines


def other_encoding(data: bytes) -> str | None:
    """Return which other encoding of Unicode a text looks like: by its first mark, or if every other byte is NUL."""
    for encoding in ("UTF-32", "UTF-16"):  # in this order: UTF-32's little-endian mark begins with UTF-16's
        if data.startswith(("\ufeff".encode(f"{encoding}-le"), "\ufeff".encode(f"{encoding}-be"))):
            return encoding
    head = data[:4096]
    even, odd = (head[first::2].count(0) / max(len(head) // 2, 1) for first in (0, 1))
    if max(even, odd) < 0.7 or min(even, odd) > 0.2:
        return None
    return "UTF-16LE" if odd > even else "UTF-16BE"


def read_lines(path: str | Path, normalisation: str = "none") -> list[str]:
    """Read a text file as `decode` does; a missing or unreadable file is a KnnlmError too."""
    try:
        return decode(Path(path).read_bytes(), str(path), normalisation)
    except OSError as error:
        raise KnnlmError(f"{path}: cannot be read ({error.strerror}); correct the path in the config.") from None


def divide(lines: list[str], separator: str) -> list[Document]:
    """Divide the lines of a file into documents.

    `file`: all lines are one document. `blank_line`: blank lines stand between documents. `heading`: a document begins
    at each level-1 heading of WikiText, and the first takes what stands before it. Blank lines are dropped; `heading`
    keeps them, because each is a token of WikiText.
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


def split_of(number: int, section: dict) -> str:
    """Return the split of a numbered thing, a year's say: valid and test take one remainder each by `period`.

    `section` is that of the source in the config, with `period`, `valid` and `test`.
    """
    return {section["valid"]: "valid", section["test"]: "test"}.get(number % section["period"], "train")


def rewrite(source: Path, target: Path, change: Callable[[Iterable[str]], Iterable[str]], what: str) -> None:
    """Write `change` of a file's lines, a line for a line, to another file, whole or not at all; `what` is its verb."""
    from knnlm.running.progress import progress  # imports tqdm, which reading a config does not need

    with open(source, "rb") as lines:
        total = sum(1 for _ in lines)
    with (
        atomic(target) as unfinished,
        open(source, encoding="utf-8", newline="\n") as lines,
        open(unfinished, "w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in progress(change(lines), f"{what} {source} (lines)", total))
