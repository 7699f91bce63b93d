"""Moses tokenisation as in WikiText: `well @-@ known`, `1 @,@ 000`, `3 @.@ 5`.

sacremoses does the work. Added to it: the units of text that is already tokenised stay whole, the separators inside numbers are split off as
WikiText has them, and runs of hyphens stand alone.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice

from sacremoses import MosesTokenizer

from knnlm.running.processes import die_with_parent

UNITS = ("<unk>", "@-@", "@,@", "@.@")  # never split, neither here nor by BPE
UNIT = re.compile("|".join(map(re.escape, UNITS)))
HYPHENS = re.compile(r"-{2,}")
NUMBER_SEPARATOR = re.compile(r"(?<=\d)[.,](?=\d)")
PRIVATE_USE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))
LINES_PER_TASK = 500


class EnglishMoses(MosesTokenizer):
    """sacremoses' English tokeniser; the character sets that it would build anew for every full stop are built once (half the time)."""

    LOWER = frozenset(MosesTokenizer.IsLower)
    ALPHA = frozenset(MosesTokenizer.IsAlpha)

    def islower(self, text: str) -> bool:
        """Return whether all characters are lower case."""
        return self.LOWER.issuperset(text)

    def isanyalpha(self, text: str) -> bool:
        """Return whether one of the characters is a letter."""
        return not self.ALPHA.isdisjoint(text)


MOSES = EnglishMoses("en")


def tokenise(line: str) -> str:
    """Return one line as words separated by single spaces, without HTML escapes. Stands alone: a line is tokenised without its neighbours."""
    units = {}
    if UNIT.search(line):
        # A private-use character passes through Moses as a word of its own; those that the line itself has are left alone.
        unused = (character for character in map(chr, PRIVATE_USE) if character not in line)
        units = dict(zip(UNITS, unused, strict=False))
        line = UNIT.sub(lambda match: f" {units[match.group()]} ", line)
    line = HYPHENS.sub(r" \g<0> ", line)
    line = MOSES.tokenize(line, aggressive_dash_splits=True, return_str=True, escape=False)
    line = NUMBER_SEPARATOR.sub(r" @\g<0>@ ", line)
    for unit, character in units.items():
        line = line.replace(character, unit)
    return " ".join(line.split())


def tokenise_lines(lines: list[str]) -> list[str]:
    """Return the lines tokenised, one for one."""
    return [tokenise(line) for line in lines]


def tokenise_stream(lines: Iterable[str], processes: int) -> Iterator[str]:
    """Yield the lines tokenised, one for one and in order, by `processes` processes; memory is bounded by a few chunks of lines."""
    lines = iter(lines)
    chunks = iter(lambda: list(islice(lines, LINES_PER_TASK)), [])
    if processes == 1:
        for chunk in chunks:
            yield from tokenise_lines(chunk)
        return
    with ProcessPoolExecutor(processes, initializer=die_with_parent) as pool:
        waiting: deque[Future[list[str]]] = deque(
            pool.submit(tokenise_lines, chunk) for chunk in islice(chunks, 2 * processes)
        )
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(tokenise_lines, chunk) for chunk in islice(chunks, 1))
