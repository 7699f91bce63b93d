"""How long a block of words must be: the interval of one gain with blocks of several lengths (docs/intervals.md).

Blocks that are too short depend on each other, and their intervals are too narrow. Where doubling the length no longer
widens the interval, it is long enough.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from knnlm.analysis.intervals import interval, log_perplexities, standard_error
from knnlm.analysis.tables import BASE, Reader, Split
from knnlm.analysis.units import unit_sums
from knnlm.components.interpolation import interpolate

TIMES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # the block's length of the config
COLUMNS = ["component", "split", "block", "documents", "units", "gain", "standard_error", "gain_low", "gain_high"]
COLUMNS += ["width"]
ENDLESS = 10**12  # words: every document is one block


def block_length_table(
    component: str, weight: float, read: Reader, cut: Callable[[int], Sequence[Split]], block: int, level: float
) -> pd.DataFrame:
    """Return the table of COLUMNS: the gain of a component, mixed at λ = `weight`, a row for each split and length.

    `cut` returns the splits in blocks of so many words. Lengths are TIMES `block`; the last row of a split, whose
    `block` is empty, has whole documents as units. Lengths that give the same units as a shorter one are left out.
    `standard_error`, `width` and the ends of the interval are in word perplexity.
    """
    lengths = [*sorted({max(1, round(times * block)) for times in TIMES}), ENDLESS]
    rows = [row for length in lengths for row in _rows(component, weight, read, cut(length), length, level)]
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values("split", kind="stable", ascending=False)
    # where two lengths give as many units, whole documents stand for both
    table = table.drop_duplicates(["split", "units"], keep="last")
    return table.astype({"block": "Int64"}).reset_index(drop=True)


def _rows(component: str, weight: float, read: Reader, splits: Sequence[Split], length: int, level: float) -> list:
    """Return the rows of all splits for one length."""
    rows = []
    for split in splits:
        base, units = read(BASE, split.name), split.units
        mixture = interpolate(base, read(component, split.name), weight)  # (T,)
        sums = np.stack([unit_sums(log_p, units.offsets) for log_p in (base, mixture)])  # (2, units)
        perplexities = np.exp(log_perplexities(sums, split.unit_words))  # (2, 1 + units)
        gains = perplexities[0] - perplexities[1]
        low, high = interval(gains, split.confidence(level))
        whole = units.size == units.documents
        sizes = (pd.NA if whole else length, units.documents, units.size)
        rows.append((component, split.name, *sizes, gains[0], standard_error(gains), low, high, high - low))
    return rows
