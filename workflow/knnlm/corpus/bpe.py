"""Byte-pair encoding in subword-nmt's convention: learned on the training text, every piece but a word's last carries `@@`.

The library `tokenizers` learns and applies the merges. It knows a word's last piece by a suffix, here a space, which no word contains.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from tokenizers.trainers import BpeTrainer

from knnlm.corpus.moses import UNIT, UNITS
from knnlm.errors import KnnlmError

CONTINUATION = "@@"
UNKNOWN = "<unk>"
END = " "  # closes a word's last piece inside bpe.json
SPECIAL = ("<s>", "<pad>", "</s>", UNKNOWN)  # fairseq's own; they have ids 0..3 and no line in dictionary.txt
MULTIPLE = 8  # of the vocabulary size, as fairseq-preprocess pads it
MINIMUM_COUNT = 2  # a pair is merged only if the training text has it at least this often, as in subword-nmt


def character_forms(words: Iterable[str]) -> list[str]:
    """Return every character that occurs before a word's end and, with END, every one that occurs at it; sorted."""
    forms: set[str] = set()
    for word in words:
        forms.update(word[:-1])
        forms.add(word[-1] + END)
    return sorted(forms)


def learn(path: Path, words: Iterable[str], merges: int) -> Tokenizer:
    """Return the tokeniser of the first `merges` merges of the training text at `path`, of which `words` are the distinct words.

    Pairs of equal count are merged in the order of their pieces' numbers, so the result depends on the text alone. Fewer merges are learned
    where no pair occurs twice any more. Raises KnnlmError if the text has no word to learn from.
    """
    forms = character_forms(word for word in words if word not in UNITS)
    if not forms:
        raise KnnlmError(f"{path}: the training text has no word to learn BPE from; give more text.")
    # The final forms are given as special tokens because the trainer would number them in the order of a hash table, which differs from run to
    # run. It counts characters and merges together, so it is asked for enough and what is too much is cut off below.
    final = [form for form in forms if form.endswith(END)]
    characters = {form[0] for form in forms}
    trainer = BpeTrainer(
        vocab_size=len(final) + len(characters) + merges,
        min_frequency=MINIMUM_COUNT,
        special_tokens=final,
        end_of_word_suffix=END,
        show_progress=False,
    )
    tokenizer = Tokenizer(BPE())
    units = Regex("^(?:" + UNIT.pattern + ")$")
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Split(units, "removed")])
    tokenizer.train([str(path)], trainer)
    learned = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"][:merges]]
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

    They cannot where a character never occurred in the training text in that place (inside or at the end of a word), where the word itself ends
    in `@@`, and where a piece is the name of one of fairseq's special symbols.
    """
    if word in UNITS:
        return word
    pieces = [token.value for token in tokenizer.model.tokenize(word)]
    if "".join(pieces) != word + END or word.endswith(CONTINUATION):
        return UNKNOWN
    text = [marked(piece) for piece in pieces]
    return UNKNOWN if set(text) & set(SPECIAL) else " ".join(text)


class Encoder:
    """Encodes lines, each distinct word once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, str] = {}

    def __call__(self, line: str) -> str:
        """Return the pieces of a tokenised line, separated by single spaces."""
        return " ".join(map(self.word, line.split()))

    def word(self, word: str) -> str:
        """Return the pieces of a word."""
        if word not in self.known:
            self.known[word] = encode_word(self.tokenizer, word)
        return self.known[word]


def count_pieces(words: Counter[str], encoder: Encoder) -> Counter[str]:
    """Return how often each piece occurs in a text, given how often each of its words does."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in encoder.word(word).split():
            counts[piece] += count
    return counts


def dictionary_lines(tokenizer: Tokenizer, counts: Counter[str]) -> Iterator[str]:
    """Yield the lines `piece count` of fairseq's dict.txt: every piece of the tokeniser and every unit, the most frequent first.

    Pieces of equal count are in the order of their text. Symbols `madeupword0000` ... fill up to a multiple of 8, with the four special symbols
    of fairseq, which have no line.
    """
    pieces = ({marked(piece) for piece in tokenizer.get_vocab()} | set(UNITS)) - set(SPECIAL)
    names = (name for number in range(2 * MULTIPLE) if (name := f"madeupword{number:04d}") not in pieces)
    for piece in sorted(pieces, key=lambda piece: (-counts[piece], piece)):
        yield f"{piece} {counts[piece]}"
    for _ in range(-(len(pieces) + len(SPECIAL)) % MULTIPLE):
        yield f"{next(names)} 0"
