"""How sure a perplexity, a difference of two and a ratio of two differences are.

A statistic is computed once on the whole split and once without each resampling unit (`units`): its *replicates*,
float64 (..., 1 + units). Arithmetic on replicates gives the replicates of whatever is computed from them: differences
of perplexities or of nats, all paired. Their spread is the jackknife's standard error, and Student's t with units − 1
degrees of freedom turns it into an interval. A ratio has Fieller's interval (docs/intervals.md).
"""

import numpy as np
from scipy import stats

ROUNDING = 1e-9  # of a spread, in units of the largest among several statistics


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
    # (components, units) of what is left without each unit
    left, without_mass = totals(finite), totals(impossible.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):  # no word is left: NaN
        return np.where(without_mass > 0, np.inf, -left / totals(words))


def interval(replicates: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval that covers the statistic with probability `level`, each float64 (...).

    `replicates` is (..., 1 + units). Both ends are NaN where a replicate is not finite, and with one unit.
    """
    value = replicates[..., 0]
    reach = quantile(replicates, level) * np.sqrt(_covariance(replicates, replicates))
    with np.errstate(invalid="ignore"):
        return value - reach, value + reach


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return Fieller's interval of numerator / denominator, each end float64 (...): every ratio r that t allows.

    Both are replicates (..., 1 + units) of statistics whose difference numerator − r · denominator is tested against 0
    for every r. Where the denominator's own interval reaches 0 nothing is known of the ratio, and both ends are NaN.
    """
    above, below = numerators[..., 0], denominators[..., 0]
    squared = quantile(denominators, level) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        # (below² − t² v) r² − 2 (above · below − t² c) r + (above² − t² u) ≤ 0
        leading = below**2 - squared * _covariance(denominators, denominators)
        middle = above * below - squared * _covariance(numerators, denominators)
        last = above**2 - squared * _covariance(numerators, numerators)
        root = np.sqrt(np.maximum(middle**2 - leading * last, 0.0))  # below 0 by rounding alone
        known = (leading > 0) & (below > 0)
        return np.where(known, (middle - root) / leading, np.nan), np.where(known, (middle + root) / leading, np.nan)


def simultaneous_level(replicates: np.ndarray, level: float, resamples: int, seed: int) -> float:
    """Return the level at which each of several intervals must be made so that all cover at once with `level`.

    `replicates` (statistics, 1 + units) tells how the statistics depend on each other; that of a ratio r is numerator −
    r · denominator. The largest of their t values is drawn `resamples` times from the multivariate t of the
    jackknife's correlations. Statistics that are constant or not finite are left out.
    """
    freedom, spread = replicates.shape[-1] - 2, _centred(replicates)
    with np.errstate(invalid="ignore"):
        scale = np.sqrt(np.square(spread).sum(axis=-1, keepdims=True))
        # what rounding alone makes vary is constant: the share of the reference itself
        varying = np.isfinite(scale[..., 0]) & (scale[..., 0] > ROUNDING * np.nanmax(scale, initial=0.0))
    if freedom < 1 or varying.sum() < 2:
        return level
    standard = (spread / np.where(scale > 0, scale, 1.0))[varying]  # (statistics, units), of length 1 each
    generator = np.random.default_rng(seed)
    correlation, centre = standard @ standard.T, np.zeros(len(standard))
    normal = generator.multivariate_normal(centre, correlation, size=resamples, method="eigh")
    largest = np.abs(normal).max(axis=1) / np.sqrt(generator.chisquare(freedom, resamples) / freedom)
    return float(1 - 2 * stats.t.sf(np.quantile(largest, level), freedom))


def quantile(replicates: np.ndarray, level: float) -> float:
    """Return the quantile of Student's t that bounds `level`, for as many degrees of freedom as units less one."""
    freedom = replicates.shape[-1] - 2
    return float(stats.t.ppf((1 + level) / 2, freedom)) if freedom > 0 else np.nan


def _centred(replicates: np.ndarray) -> np.ndarray:
    """Return the replicates without a unit, less their mean: (..., units)."""
    with np.errstate(invalid="ignore"):
        left = replicates[..., 1:]
        return left - left.mean(axis=-1, keepdims=True)


def _covariance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the jackknife's covariance of two statistics from their replicates (..., 1 + units): (...)."""
    units = one.shape[-1] - 1
    with np.errstate(invalid="ignore"):
        return (units - 1) / units * (_centred(one) * _centred(other)).sum(axis=-1)
