"""Moses tokenisation as in WikiText: `well @-@ known`, `1 @,@ 000`, `3 @.@ 5`.

sacremoses does the work, with additions. The units of text that is already tokenised stay whole, separators inside
numbers are split off as in WikiText, and runs of hyphens stand alone. Letters of every script, their marks and joiners
belong to words, but a Chinese character is a word; and a symbol keeps what modifies it, as emoji do.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain, islice

import regex  # knows the letters and marks of Unicode, which `re` does not
from sacremoses import MosesTokenizer

from knnlm.corpus.dictionary import UNITS
from knnlm.running.processes import die_with_parent

UNIT = re.compile("|".join(map(re.escape, UNITS)))
HYPHENS = re.compile(r"-{2,}")
NUMBER_SEPARATOR = re.compile(r"(?<=\d)[.,](?=\d)")
PRIVATE_USE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))
LINES_PER_TASK = 500

# Inside character classes: Chinese characters with signs that repeat one, and kana with the sign that lengthens one.
HAN = "\u3005\u3007\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00016ff0\U00016ff1\U00020000-\U0003ffff"
NARROW_KANA, MARKS_OF_NARROW_KANA = "\uff66-\uff9d", "\uff9e\uff9f"
KANA = "\u3031-\u3035\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\U0001aff0-\U0001b16f"
JOINERS = "\xad\u200c\u200d\u2060"  # soft hyphen, the joiners of Persian and of Indian scripts, word joiner
FLAGS = "\U0001f1e6-\U0001f1ff"  # letters that are a flag in pairs
MODIFIERS = "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"  # of emoji: tones of skin, and tags
OTHERS = "".join(regex.findall(r"[^\p{L}\p{M}\p{Nd}]", MosesTokenizer.IsAlnum))  # numerals, letters in circles
LETTER = rf"[\p{{L}}\p{{M}}{OTHERS}--[{HAN}]]"
CHARACTER = regex.compile(rf"[{HAN}{KANA}{NARROW_KANA}][\p{{M}}{MARKS_OF_NARROW_KANA}]*")


class Moses(MosesTokenizer):
    """sacremoses' English tokeniser, for the letters of every script.

    sacremoses knows the letters of an old Unicode, without the many of Hangul and rarer scripts and without most marks.
    For every full stop it also builds two sets of characters, which takes half the time.
    """

    def __init__(self) -> None:
        super().__init__("en")
        self.islower = frozenset(self.IsLower).issuperset
        self.isanyalpha = regex.compile(f"(?V1){LETTER}").search
        letters, word = f"{LETTER}{JOINERS}", rf"{LETTER}{JOINERS}\p{{Nd}}"  # inside classes, as above
        flag, attached = f"(?<=[{FLAGS}])[{FLAGS}]", rf"\u200d[^{word}\s]|[\p{{M}}{JOINERS}{MODIFIERS}]"
        rules = {
            rf"([^{word}\s.'`,-](?:{flag})?(?:{attached})*)": r" \1 ",
            rf"([{word}])-(?=[{word}])": r"\1 @-@ ",
            rf"([^{letters}])'([^{letters}])": r"\1 ' \2",
            rf"([^{letters}\p{{N}}])'([{letters}])": r"\1 ' \2",
            rf"([{letters}])'([^{letters}])": r"\1 ' \2",
            rf"([{letters}])'([{letters}])": r"\1 '\2",
            r"(\p{N})'(s)": r"\1 '\2",
        }
        self.PAD_NOT_ISALNUM, self.AGGRESSIVE_HYPHEN_SPLIT, *self.ENGLISH_SPECIFIC_APOSTROPHE = (
            (regex.compile(f"(?V1){pattern}"), replacement) for pattern, replacement in rules.items()
        )


MOSES = Moses()


def tokenise(line: str, characters: bool = False) -> str:
    """Return a line as words separated by single spaces, without HTML escapes; its neighbours do not matter.

    With `characters`, every Chinese character and kana is a word.
    """
    units = {}
    if UNIT.search(line):
        # A private-use character passes through Moses as a word of its own; those of the line itself are left alone.
        unused = (character for character in map(chr, PRIVATE_USE) if character not in line)
        units = dict(zip(UNITS, unused, strict=False))
        line = UNIT.sub(lambda match: f" {units[match.group()]} ", line)
    line = HYPHENS.sub(r" \g<0> ", line)
    if characters:
        line = CHARACTER.sub(r" \g<0> ", line)
    line = MOSES.tokenize(line, aggressive_dash_splits=True, return_str=True, escape=False)
    line = NUMBER_SEPARATOR.sub(r" @\g<0>@ ", line)
    for unit, character in units.items():
        line = line.replace(character, unit)
    return " ".join(line.split())


# How a line of text becomes a line of words, by `corpus.tokeniser`.
TOKENISERS: dict[str, Callable[[str], str]] = {"moses": tokenise, "characters": partial(tokenise, characters=True)}


def tokenise_lines(tokeniser: str, lines: list[str]) -> list[str]:
    """Return the lines tokenised, one for one."""
    return list(map(TOKENISERS[tokeniser], lines))


def tokenise_stream(lines: Iterable[str], processes: int, tokeniser: str = "moses") -> Iterator[str]:
    """Yield the lines tokenised, one for one and in order, by `processes` processes; memory is that of a few chunks."""
    lines, work = iter(lines), partial(tokenise_lines, tokeniser)
    chunks = iter(lambda: list(islice(lines, LINES_PER_TASK)), [])
    if processes == 1:
        yield from chain.from_iterable(map(work, chunks))
        return
    with ProcessPoolExecutor(processes, initializer=die_with_parent) as pool:
        waiting: deque[Future[list[str]]] = deque(pool.submit(work, chunk) for chunk in islice(chunks, 2 * processes))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(work, chunk) for chunk in islice(chunks, 1))
