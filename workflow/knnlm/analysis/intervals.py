"""How sure a perplexity, a difference of two and a ratio of two differences are.

A statistic is computed once on the whole split and once without each resampling unit (`units`): its *replicates*,
float64 (..., 1 + units). Arithmetic on replicates gives the replicates of whatever is computed from them: differences
of perplexities or of nats, ratios of such, all paired. Their spread is the jackknife's standard error, and Student's t
turns it into an interval. Of the methods that were compared it is the one that covers, also where units are few or of
unequal length (docs/intervals.md).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit  # scipy.stats takes half a second to import

ROUNDING = 1e-9  # of a spread, in units of the largest among several statistics


@dataclass(frozen=True)
class Confidence:
    """The probability `level` with which an interval covers, and the degrees of `freedom` of the t that makes it so."""

    level: float
    freedom: float

    @classmethod
    def of(cls, words: np.ndarray, level: float) -> "Confidence":
        """Return that of units of so many `words`, (units,): as many degrees as units less one if all are of one size.

        Units of unequal size count as fewer, Kish's effective number (Σ words)² / Σ words².
        """
        words = np.asarray(words, np.float64)
        with np.errstate(invalid="ignore"):  # no word at all: NaN
            return cls(level, float(words.sum() ** 2 / np.square(words).sum() - 1))

    @property
    def quantile(self) -> float:
        """Return the t within which a standardised statistic stays with probability `level`; NaN with one unit."""
        return float(stdtrit(self.freedom, (1 + self.level) / 2)) if self.freedom > 0 else np.nan


def totals(values: np.ndarray) -> np.ndarray:
    """Return the replicates of a sum over all units: the sum of `values` (..., units), and it without each unit."""
    total = values.sum(axis=-1, keepdims=True)
    return np.concatenate([total, total - values], axis=-1)


def log_perplexities(sums: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the replicates of every component's nats per word, float64 (components, 1 + units).

    `sums` (components, units) holds Σ log p in nats, -inf allowed; `words` (units,) the words of each unit. A replicate
    whose tokens include one without mass is inf. `np.exp` of the result has the replicates of word perplexity.
    """
    impossible = np.isneginf(sums)
    finite = np.where(impossible, 0.0, sums)
    # (components, 1 + units) each: nats, and whether a token without mass is among them
    left, without_mass = totals(finite), totals(impossible.astype(np.float64)) > 0
    with np.errstate(divide="ignore", invalid="ignore"):  # no word is left: NaN
        return np.where(without_mass, np.inf, -left / totals(words))


def interval(replicates: np.ndarray, confidence: Confidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of a statistic, each float64 (...), from its `replicates` (..., 1 + units).

    Both ends are NaN where a replicate is not finite, and with one unit.
    """
    with np.errstate(invalid="ignore"):
        reach = confidence.quantile * standard_error(replicates)
        return replicates[..., 0] - reach, replicates[..., 0] + reach


def standard_error(replicates: np.ndarray) -> np.ndarray:
    """Return the jackknife's standard error of a statistic from its `replicates` (..., 1 + units): float64 (...)."""
    units = replicates.shape[-1] - 1
    with np.errstate(invalid="ignore"):
        return np.sqrt((units - 1) / units * np.square(_centred(replicates)).sum(axis=-1))


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, confidence: Confidence
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of numerator / denominator, each float64 (...), from replicates (..., 1 + units).

    Where the denominator's own interval reaches 0 nothing is known of the ratio, and both ends are NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ends = interval(numerators / denominators, confidence)
    known = interval(denominators, confidence)[0] > 0
    low, high = (np.where(known, end, np.nan) for end in ends)
    return low, high


def simultaneous(replicates: np.ndarray, confidence: Confidence, resamples: int, seed: int) -> Confidence:
    """Return the confidence that each of several intervals needs so that all cover at once with `confidence.level`.

    `replicates` (statistics, 1 + units) tells how the statistics depend on each other. The largest of their t values is
    drawn `resamples` times from the multivariate t of the jackknife's correlations. Statistics that are constant or not
    finite are left out.
    """
    spread = _centred(replicates)
    with np.errstate(invalid="ignore"):
        scale = np.sqrt(np.square(spread).sum(axis=-1))  # (statistics,)
        # what rounding alone makes vary is constant: the share of the reference itself
        varying = np.isfinite(scale) & (scale > ROUNDING * np.nanmax(scale, initial=0.0))
    if not confidence.freedom > 0 or varying.sum() < 2:
        return confidence
    standard = spread[varying] / scale[varying, None]  # (statistics, units), of length 1 each
    generator, correlation = np.random.default_rng(seed), standard @ standard.T
    normal = generator.multivariate_normal(np.zeros(len(standard)), correlation, size=resamples, method="eigh")
    scatter = generator.chisquare(confidence.freedom, resamples) / confidence.freedom
    largest = np.quantile(np.abs(normal).max(axis=1) / np.sqrt(scatter), confidence.level)
    return Confidence(float(1 - 2 * stdtr(confidence.freedom, -largest)), confidence.freedom)


def _centred(replicates: np.ndarray) -> np.ndarray:
    """Return the replicates without a unit, less their mean: (..., units)."""
    with np.errstate(invalid="ignore"):
        left = replicates[..., 1:]
        return left - left.mean(axis=-1, keepdims=True)
