"""Resampling units: the parts of a split that an interval treats as independent of each other.

Tokens of one document depend on each other, so documents are the units where a split has enough of them. Where it has
few, blocks of consecutive words within documents take their place (docs/intervals.md#units).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from knnlm.errors import KnnlmError

ENOUGH_DOCUMENTS = 50  # from so many documents on, whole documents are the units


@dataclass(frozen=True)
class Units:
    """Units of a split: their token `offsets`, int64 (units+1,), and how many documents they come from.

    `block` is the length in words that was asked for, None where the units are whole documents.
    """

    offsets: np.ndarray
    documents: int
    block: int | None

    @property
    def size(self) -> int:
        """Return how many units there are."""
        return self.offsets.size - 1


def resampling_units(ends_word: np.ndarray, document_offsets: np.ndarray, block: int) -> Units:
    """Return the documents of a split as units if there are at least ENOUGH_DOCUMENTS, else blocks of `block` words.

    `ends_word`, bool (T,), marks tokens that end a word; `document_offsets` is int64 (documents+1,). Documents without
    a token are no units. Raises KnnlmError as `unit_sums` does.
    """
    documents = whole_documents(document_offsets, ends_word.size)
    count = documents.size - 1
    if count >= ENOUGH_DOCUMENTS:
        return Units(documents, count, None)
    return Units(blocks(ends_word, documents, block), count, block)


def whole_documents(document_offsets: np.ndarray, tokens: int) -> np.ndarray:
    """Return the offsets of documents that have a token, int64 (units+1,); raises KnnlmError as `unit_sums` does."""
    _check(document_offsets, tokens)
    return np.unique(np.asarray(document_offsets, np.int64))


def blocks(ends_word: np.ndarray, documents: np.ndarray, block: int) -> np.ndarray:
    """Return the token offsets of blocks of `block` words, int64 (units+1,), of documents of offsets (documents+1,).

    A document is cut into blocks of as equal a number of words as can be, as many as bring that number closest to
    `block`. None crosses two documents or cuts a word.
    """
    ends = np.flatnonzero(ends_word) + 1  # (words,): the token after each word's last
    first_words = np.searchsorted(ends, documents, side="right")  # (documents+1,): words that end before each
    cuts = [documents]
    for first, last in pairwise(first_words):
        count = max(1, int((last - first) / block + 0.5))
        words = first + np.arange(1, count) * (last - first) // count  # (count-1,): words before each cut
        cuts.append(ends[words - 1])
    return np.unique(np.concatenate(cuts))


def unit_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the sum of `values`, (T,), over the tokens of each unit: float64 (units,), 0 for an empty one.

    `offsets`, int64 (units+1,), holds the first token of each unit, and T at the end. Raises KnnlmError if they do not
    span the values.
    """
    _check(offsets, values.size)
    starts, filled = offsets[:-1], np.diff(offsets) > 0
    sums = np.zeros(filled.size)
    if filled.any():  # reduceat would give an empty unit the first value of its successor
        sums[filled] = np.add.reduceat(np.asarray(values, np.float64), starts[filled])
    return sums


def _check(offsets: np.ndarray, tokens: int) -> None:
    """Raise KnnlmError unless offsets rise from 0 to the number of tokens."""
    if offsets[0] != 0 or offsets[-1] != tokens or (np.diff(offsets) < 0).any():
        raise KnnlmError(
            f"document offsets: they must rise from 0 to the {tokens} tokens; rerun the step that makes the corpus."
        )
