"""How sure a perplexity is: the paired bootstrap over documents, and the spread over seeds.

Tokens of one document depend on each other, so whole documents are resampled. Every component sees the same resamples.
The interval of a difference is therefore that of paired differences, and much narrower than two separate intervals
suggest.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

MEASURES = [
    "temperature",
    "lambda",
    "ppl_alone",
    "ppl",
    "oracle",
    "gain",
    "reaches",
    "removes",
]  # those with a spread over seeds
COUNTS_PER_BLOCK = 4_000_000  # 32 MB of counts at a time, however many documents a split has


def resample_counts(documents: int, resamples: int, seed: int | np.random.Generator) -> np.ndarray:
    """Return int64 (resamples, documents): how often each document is drawn when as many are drawn with replacement."""
    return np.random.default_rng(seed).multinomial(documents, np.full(documents, 1 / documents), size=resamples)


def bootstrap_perplexity(sums: np.ndarray, words: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the word perplexity of every component on every resample, float64 (components, resamples).

    `sums` (components, documents) holds Σ log p in nats, -inf allowed; `words` (documents,) the words of each document;
    `counts` (resamples, documents) comes from `resample_counts`, one for all components. A single document says nothing
    of the spread, since every resample is the document itself: all samples are then NaN, and so is every interval.
    """
    if words.size < 2:
        return np.full((sums.shape[0], counts.shape[0]), np.nan)
    counts = counts.astype(np.float64)  # for a matrix product by BLAS
    impossible = np.isneginf(sums)
    with np.errstate(over="ignore", invalid="ignore"):  # documents without a single word: NaN
        # (components, documents) · (documents, resamples) over the words of each resample: nats per word
        log_perplexity = -(np.where(impossible, 0.0, sums) @ counts.T) / (counts @ words)
        if impossible.any():  # kept apart because a document drawn zero times must not count as 0 · -inf
            log_perplexity[(impossible.astype(np.float64) @ counts.T) > 0] = np.inf
        return np.exp(log_perplexity)


def bootstrap(sums: np.ndarray, words: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return `bootstrap_perplexity` of fresh resamples, drawn and used block by block to bound the memory."""
    generator, block, found = np.random.default_rng(seed), max(1, COUNTS_PER_BLOCK // words.size), []
    for begin in range(0, resamples, block):
        counts = resample_counts(words.size, min(block, resamples - begin), generator)
        found.append(bootstrap_perplexity(sums, words, counts))
    return np.concatenate(found, axis=1)


def interval(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the percentile interval that holds `level` of `samples`, (..., resamples); NaN in, NaN out."""
    # the ends are samples themselves, not values between two of them, so infinite samples are harmless
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=-1, method="inverted_cdf")
    return low, high


def over_seeds(tables: Sequence[pd.DataFrame], key: list[str]) -> pd.DataFrame:
    """Return one row for each value of the `key` columns, in the first table's order, with mean, spread and counts.

    The standard deviation is that of a sample (n-1); NaN is left out. `verdicts` counts them: `explains 2, worse 1`.
    """
    stacked = pd.concat(tables, ignore_index=True)
    groups = stacked.groupby(key, sort=False)
    columns = [groups.size().rename("seeds")]  # how many tables have the row
    for measure in (name for name in MEASURES if name in stacked):
        columns.append(groups[measure].agg(["mean", "std", "min", "max"]).add_prefix(f"{measure}_"))
    if "verdict" in stacked:
        columns.append(groups["verdict"].agg(_counted).rename("verdicts"))
    return pd.concat(columns, axis=1).reset_index()


def _counted(verdicts: pd.Series) -> str:
    return ", ".join(f"{verdict} {count}" for verdict, count in verdicts.value_counts(sort=False).items())
