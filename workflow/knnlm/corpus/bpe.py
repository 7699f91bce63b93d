"""Byte-pair encoding as subword-nmt writes it, learned on the training text: `@@` ends every piece but a word's last.

The library `tokenizers` learns and applies the merges. It knows a word's last piece by a suffix: a space, which no word
contains.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from tokenizers.trainers import BpeTrainer

from knnlm.corpus.dictionary import CONTINUATION, SPECIAL, UNITS, UNKNOWN
from knnlm.errors import KnnlmError

END = " "  # closes a word's last piece inside bpe.json
MINIMUM_COUNT = 2  # a pair is merged only if the training text has it at least this often, as in subword-nmt


def learn(path: Path, words: Iterable[str], merges: int) -> Tokenizer:
    """Learn the first `merges` merges of the training text at `path`, whose distinct words are `words`.

    Pairs of equal count are merged in the order of their pieces' numbers, so the result depends on the text alone. It
    has fewer merges where no pair occurs twice any more. Raises KnnlmError if the text has no word to learn from.
    """
    # Every character that occurs inside a word and, with END, every one that occurs at its end.
    forms = sorted({form for word in words if word not in UNITS for form in (*word[:-1], word[-1] + END)})
    if not forms:
        raise KnnlmError(f"{path}: the training text has no word to learn BPE from; give more text.")
    # The trainer would number final forms in the order of a hash table, which differs from run to run, so they are
    # given as special tokens. It counts characters and merges together: it is asked for enough, and cut off below.
    final = [form for form in forms if form.endswith(END)]
    characters = {form[0] for form in forms}
    options = {"min_frequency": MINIMUM_COUNT, "end_of_word_suffix": END, "show_progress": False}
    trainer = BpeTrainer(vocab_size=len(final) + len(characters) + merges, special_tokens=final, **options)
    tokenizer = Tokenizer(BPE())
    units = Regex(f"^(?:{'|'.join(map(re.escape, UNITS))})$")
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Split(units, "removed")])
    tokenizer.train([str(path)], trainer)
    learned = merges_of(tokenizer)[:merges]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*forms, *map("".join, learned)]))}
    result = Tokenizer(BPE(vocab=vocabulary, merges=learned, end_of_word_suffix=END))
    result.pre_tokenizer = WhitespaceSplit()
    return result


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Return the merges in the order in which they were learned; a piece that ends a word ends in END."""
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def marked(piece: str) -> str:
    """Return a piece of the tokeniser as text has it: without END, or with `@@`."""
    return piece.removesuffix(END) if piece.endswith(END) else piece + CONTINUATION


def encode_word(tokenizer: Tokenizer, word: str) -> str:
    """Return the pieces of a word, separated by spaces, or `<unk>` where they cannot say it.

    They cannot say a character in a place (inside a word, at its end) where the training text never had it, a word that
    itself ends in `@@`, and a piece that is the name of one of fairseq's special symbols.
    """
    if word in UNITS:
        return word
    pieces = [token.value for token in tokenizer.model.tokenize(word)]
    if "".join(pieces) != word + END or word.endswith(CONTINUATION):
        return UNKNOWN
    text = [marked(piece) for piece in pieces]
    return UNKNOWN if set(text) & set(SPECIAL) else " ".join(text)


class Encoder:
    """Encodes each distinct word once; a tokenised line becomes its pieces, separated by single spaces."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.word = cache(partial(encode_word, tokenizer))

    def __call__(self, line: str) -> str:
        return " ".join(map(self.word, line.split()))


def count_words(path: Path) -> Counter[str]:
    """Return how often each word occurs in a tokenised text."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        return Counter(word for line in lines for word in line.split())


def count_pieces(words: Counter[str], encoder: Encoder) -> Counter[str]:
    """Return how often each piece occurs in a text, given how often each of its words does."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in encoder.word(word).split():
            counts[piece] += count
    return counts


def vocabulary_of(tokenizer: Tokenizer) -> set[str]:
    """Return every piece of the tokeniser as text has it."""
    return set(map(marked, tokenizer.get_vocab()))
