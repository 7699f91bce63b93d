"""How often intervals cover: texts with the dependence that was measured, and the methods that were compared on them.

    PYTHONPATH=workflow:tests/unit python tests/unit/simulated_texts.py > coverage.md

prints the tables of docs/intervals.md; with a number of texts behind it, fewer of them.

A text is a row of cells of 20 words. Each has four numbers, in nats a word: the base LM's −log p; what the kNN adds to
it; what another component, a learned output embedding on `att`, adds to it; what the kNN adds beside both. A cell is
their mean, plus an effect of its document, plus an autoregression inside the document, plus noise. Means and
covariances are those of 2,204 cells of eight addresses of the demo: of documents' means, of cells up to 200 words
apart, and what is left. The noise is as skewed as an exponential, somewhat more than what was measured.
"""

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import signal, stats

from knnlm.analysis.intervals import Confidence, interval, log_perplexities, ratio_interval, totals
from knnlm.analysis.units import resampling_units

CELL = 20  # words
MEAN = np.array([5.5336, 0.0903, 0.0482, 0.0793])
UPPER = np.triu_indices(4)


def symmetric(upper: list[float]) -> np.ndarray:
    """Return the 4 × 4 matrix with these ten numbers above and on its diagonal, row by row."""
    found = np.zeros((4, 4))
    found[UPPER] = upper
    return found + np.triu(found, 1).T


NOISE = symmetric([1.3101, 0.047077, 0.033944, 0.040126, 0.021154, 0.0022954, 0.018865, 0.006848, 0.00096061, 0.01759])
NEAR = symmetric(
    [0.42392, 0.0077293, 0.011901, 0.0058207, 0.00096111, 0.00014825, 0.00094516, 0.00075445, 7.979e-5, 0.00094595]
)
DOCUMENT = symmetric(
    [0.032835, 0.0015438, 0.00043143, 0.0016036, 0.00011017, 2.791e-5, 9.6669e-5, 7.2157e-6, 2.5386e-5, 9.0359e-5]
)
DECAY = 0.75  # of the autoregression, from cell to cell: a correlation length of 70 words
RESAMPLES = 1000
BLOCK = 100  # cells: 2,000 words
WHOLE = 10**6  # cells of a block that no document is as long as
Texts = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]  # draws units (units, 5) and the true means (4,)
PAIRS = np.triu_indices(5)


def root(covariance: np.ndarray) -> np.ndarray:
    """Return a lower triangular matrix whose product with its transpose is `covariance`, perhaps singular."""
    values, vectors = np.linalg.eigh(covariance)
    found = np.linalg.qr((vectors * np.sqrt(values.clip(0))).T)[1].T
    return found * np.where(np.diag(found) < 0, -1, 1)


def simulated_text(generator: np.random.Generator, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cells, float64 (4, cells), of documents with these `lengths` in cells, and the mean of these documents."""
    cells = MEAN[:, None] + root(NOISE) @ (generator.exponential(size=(4, lengths.sum())) - 1)
    drawn = generator.normal(size=(4, lengths.sum()))
    ends = np.cumsum(lengths)
    for begin, end in zip(ends - lengths, ends, strict=True):
        steps = drawn[:, begin:end] * np.sqrt(1 - DECAY**2)
        steps[:, 0] = drawn[:, begin]  # stationary from the first cell on
        drawn[:, begin:end] = signal.lfilter([1], [1, -DECAY], steps, axis=1)
    effects = root(DOCUMENT) @ (generator.gamma(4, size=(4, lengths.size)) - 4) / 2
    cells += root(NEAR) @ drawn + np.repeat(effects, lengths, axis=1)
    return cells, MEAN + effects @ lengths / lengths.sum()


def statistics(sums: np.ndarray) -> np.ndarray:
    """Return gain, share and removes, (3, ...), from sums (..., 5): the four numbers of the cells, and their count."""
    base, knn, other, beside = (sums[..., place] / sums[..., 4] for place in range(4))
    shares = (1 - np.exp(-other)) / (1 - np.exp(-knn))
    return np.stack([np.exp(base) - np.exp(base - knn), shares, 1 - beside / knn])


def gradients(sums: np.ndarray) -> np.ndarray:
    """Return the gradients of `statistics` by the five sums: (3, ..., 5)."""
    means = sums[..., :4] / sums[..., 4:]
    base, knn, other, beside = np.moveaxis(means, -1, 0)
    above, below, nothing = 1 - np.exp(-other), 1 - np.exp(-knn), np.zeros_like(base)
    of_gain = [np.exp(base) - np.exp(base - knn), np.exp(base - knn), nothing, nothing]
    of_share = [nothing, -above * np.exp(-knn) / below**2, np.exp(-other) / below, nothing]
    of_removes = [nothing, beside / knn**2, nothing, -1 / knn]
    slopes = np.stack([np.stack(slope, axis=-1) for slope in (of_gain, of_share, of_removes)]) / sums[..., 4:]
    return np.concatenate([slopes, -(slopes * means).sum(-1, keepdims=True)], axis=-1)


def as_chosen(units: np.ndarray, level: float) -> np.ndarray:
    """Return both ends, (2, 3), by the library: the jackknife, and t with as many degrees as effective units less one.

    `units` is float64 (units, 5).
    """
    base, knn, other, beside, words = units.T
    confidence = Confidence.of(words, level)
    lm, with_knn, with_other = np.exp(log_perplexities(np.stack([-base, knn - base, other - base]), words))
    low, high = ratio_interval(totals(beside), totals(knn), confidence)
    of_gain, of_share = interval(lm - with_knn, confidence), ratio_interval(lm - with_other, lm - with_knn, confidence)
    return np.array([of_gain, of_share, (1 - high, 1 - low)]).T


def with_standard_errors(units: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Return both ends, (2, 3), by methods that have a standard error and t with units less one degrees of freedom."""
    count, whole = len(units), units.sum(axis=0)
    found, influence = statistics(whole), gradients(whole) @ units.T  # (3, units)
    left = statistics(whole - units)
    jackknife = np.sqrt((count - 1) * left.var(axis=1))
    robust = np.sqrt(count / (count - 1) * np.square(influence).sum(axis=1))
    t = stats.t.ppf((1 + level) / 2, count - 1)
    ends = {"cluster-robust, t": np.stack([found - t * robust, found + t * robust])}
    ends["jackknife, t"] = np.stack([found - t * jackknife, found + t * jackknife])
    knn, other, beside = (left_means(units, place) for place in (1, 2, 3))
    of_share, of_removes = fieller(1 - np.exp(-other), 1 - np.exp(-knn), t), 1 - fieller(beside, knn, t)[::-1]
    ends["jackknife, t, Fieller"] = np.stack([ends["jackknife, t"][:, 0], of_share, of_removes], axis=1)
    return ends


def left_means(units: np.ndarray, place: int) -> np.ndarray:
    """Return the mean of one of the four numbers on the whole text and without each unit: (1 + units,)."""
    return totals(units[:, place]) / totals(units[:, 4])


def fieller(above: np.ndarray, below: np.ndarray, t: float) -> np.ndarray:
    """Return Fieller's interval, (2,), of a ratio from replicates of both differences; NaN if it is unbounded."""
    covariance = (above.size - 2) * np.cov(above[1:], below[1:], ddof=0) * t**2
    leading, last = below[0] ** 2 - covariance[1, 1], above[0] ** 2 - covariance[0, 0]
    middle = above[0] * below[0] - covariance[0, 1]
    if leading <= 0:
        return np.full(2, np.nan)
    reach = np.sqrt(max(middle**2 - leading * last, 0))
    return np.array([middle - reach, middle + reach]) / leading


def by_resampling(units: np.ndarray, level: float, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return both ends, (2, 3), by the percentile and the studentised bootstrap; `counts` is (resamples, units)."""
    whole, tails = units.sum(axis=0), [(1 - level) / 2, (1 + level) / 2]
    found, drawn = statistics(whole), counts @ units  # (resamples, 5)
    samples = statistics(drawn)  # (3, resamples)
    products = units[:, PAIRS[0]] * units[:, PAIRS[1]]  # (units, 15): a unit's influence squared is a sum of them
    slopes = gradients(drawn)  # (3, resamples, 5)
    weights = slopes[..., PAIRS[0]] * slopes[..., PAIRS[1]] * np.where(PAIRS[0] == PAIRS[1], 1, 2)
    errors = np.sqrt(((weights * (counts @ products)).sum(-1)).clip(1e-20))  # (3, resamples)
    own = np.sqrt(np.square(gradients(whole) @ units.T).sum(axis=1))  # (3,)
    low, high = np.quantile((samples - found[:, None]) / errors, tails, axis=1)
    percentile = np.quantile(samples, tails, axis=1)
    return {
        "percentile bootstrap": percentile,
        "studentised bootstrap": np.stack([found - high * own, found - low * own]),
    }


def blocks(generator: np.random.Generator, documents: int, mean: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return blocks of `block` cells, (units, 5), of documents of about `mean` cells; and what these documents mean."""
    lengths = generator.lognormal(0, 0.3, documents)
    lengths = np.maximum(np.rint(lengths * documents * mean / lengths.sum()).astype(int), 1)
    cells, of_these = simulated_text(generator, lengths)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    return in_units(cells, resampling_units(np.ones(lengths.sum(), bool), borders, block).offsets), of_these


def documents(generator: np.random.Generator, count: int, mean: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return whole documents as units, (count, 5), of log-normal lengths of `mean` cells; and what all of them mean."""
    lengths = generator.lognormal(np.log(mean) - spread**2 / 2, spread, count)
    lengths = np.maximum(np.rint(lengths).astype(int), 1)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    return in_units(simulated_text(generator, lengths)[0], borders), MEAN


def of_others(documents: int, mean: int, block: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks of a text as `blocks` does, with the true numbers of all such texts."""
    return blocks(generator, documents, mean, block)[0], MEAN


def in_units(cells: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Return the sums of cells in each unit, and their number: (units, 5)."""
    sums = np.add.reduceat(cells, borders[:-1], axis=1)
    return np.concatenate([sums, np.diff(borders)[None]]).T


def covered(texts: Texts, trials: int, level: float = 0.95, *, chosen_alone: bool = False) -> dict[str, np.ndarray]:
    """Return how often each method's interval, where it has one, covers gain, share and removes: (3,) each."""
    generator, hits, counts = np.random.default_rng(1), {}, {}
    for _ in range(trials):
        units, mean = texts(generator)
        truth = statistics(np.append(mean, 1.0))
        ends = {"jackknife, t of effective units": as_chosen(units, level)}
        if not chosen_alone:
            count = len(units)
            if count not in counts:
                shares = np.full(count, 1 / count)
                counts[count] = np.random.default_rng(2).multinomial(count, shares, RESAMPLES).astype(float)
            ends |= with_standard_errors(units, level) | by_resampling(units, level, counts[count])
        for method, (low, high) in ends.items():
            hits.setdefault(method, []).append(np.where(np.isnan(low), np.nan, (low <= truth) & (truth <= high)))
    return {method: np.nanmean(found, axis=0) for method, found in hits.items()}


def print_table(kinds: dict[str, Texts], trials: int, *, chosen_alone: bool = False) -> None:
    """Print coverage in percent as a table of Markdown: a row a method, a column a kind of text."""
    found = [covered(texts, trials, chosen_alone=chosen_alone) for texts in kinds.values()]
    print(f"| method | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for method in sorted(found[0]):
        cells = (" / ".join(f"{100 * value:.0f}" for value in of_kind[method]) for of_kind in found)
        print(f"| {method} | {' | '.join(cells)} |", flush=True)
    print()


def main(trials: int = 2000) -> None:
    """Print the tables: many units and few, of three kinds; then what blocks of few documents say of other ones."""
    units = (5, 10, 30, 60, 120, 500)
    print_table({f"{n}": lambda g, n=n: blocks(g, 1, n * BLOCK, BLOCK) for n in units}, trials)
    print_table({f"{n}": lambda g, n=n: documents(g, n, 80, 0.3) for n in units}, trials)
    print_table({f"{n}": lambda g, n=n: documents(g, n, 15, 1.0) for n in units}, trials)
    for count, mean in ((5, 300), (13, 110)):
        kinds = {
            f"{n * CELL}" if n < WHOLE else "whole documents": partial(of_others, count, mean, n)
            for n in (12, 25, 50, 100, WHOLE)
        }
        print_table(kinds, trials, chosen_alone=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
