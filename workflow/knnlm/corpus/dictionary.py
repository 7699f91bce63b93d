"""fairseq's dictionary of pieces: its symbols, and `dictionary.txt` with a line `piece count` for each piece."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from knnlm.errors import KnnlmError

CONTINUATION = "@@"  # ends every piece but a word's last
UNITS = ("<unk>", "@-@", "@,@", "@.@")  # words that are never split
UNKNOWN = "<unk>"
SPECIAL = ("<s>", "<pad>", "</s>", UNKNOWN)  # fairseq's own; they have ids 0..3 and no line in the file
END_OF_LINE, UNKNOWN_ID = SPECIAL.index("</s>"), SPECIAL.index(UNKNOWN)
MULTIPLE = 8  # of the vocabulary size, as fairseq-preprocess pads it


def dictionary_lines(vocabulary: Iterable[str], counts: Counter[str]) -> Iterator[str]:
    """Yield the lines of the file: every piece of the vocabulary and every unit, the most frequent first.

    Pieces of equal count are in the order of their text. Symbols `madeupword0000` ... fill up to a multiple of 8,
    fairseq's four special symbols counted.
    """
    pieces = ({*vocabulary, *UNITS}) - set(SPECIAL)
    names = (name for number in range(2 * MULTIPLE) if (name := f"madeupword{number:04d}") not in pieces)
    for piece in sorted(pieces, key=lambda piece: (-counts[piece], piece)):
        yield f"{piece} {counts[piece]}"
    for _ in range(-(len(pieces) + len(SPECIAL)) % MULTIPLE):
        yield f"{next(names)} 0"


def read_pieces(path: str | Path) -> list[str]:
    """Return the piece of every token id, special symbols first. Raises KnnlmError if the file cannot be read."""
    try:
        return [*SPECIAL, *(piece.decode() for piece in _encoded_pieces(path))]
    except UnicodeDecodeError:
        raise KnnlmError(f"{path}: not a readable dictionary (not UTF-8); rerun the step that makes it.") from None


def pieces_hash(path: str | Path) -> str:
    """Return the SHA-256 of the pieces in their order; a trained model does not depend on their counts."""
    return hashlib.sha256(b"\n".join(_encoded_pieces(path))).hexdigest()


def _encoded_pieces(path: str | Path) -> list[bytes]:
    try:
        with open(path, "rb") as lines:
            return [line.rsplit(b" ", 1)[0] for line in lines]
    except OSError as error:
        reason = error.strerror
    raise KnnlmError(f"{path}: not a readable dictionary ({reason}); rerun the step that makes it.")
