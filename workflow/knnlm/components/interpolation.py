"""Mixing a component with the base LM: the weight λ, the mixture, the oracle, and word perplexity.

A component is a vector of log p of the gold token, one entry per BPE token, in nats; it is −inf where the component
gives the token no mass.
"""

import numpy as np

WEIGHT_TOLERANCE = 1e-9  # well below the 1e-6 that is promised
MAXIMUM_ITERATIONS = 200  # Newton takes about ten; bisection alone would take thirty


def optimal_weight(log_p_base: np.ndarray, log_p_component: np.ndarray) -> float:
    """Return the λ in [0, 1] that maximises Σ log((1−λ) p_base + λ p_component), correct to 1e-6.

    The paper searches a grid for it (docs/paper.md#knn-lm). Both arrays are float (T,) in nats. The objective is
    concave, so Newton steps inside a shrinking bracket find the root of its derivative. The result is 0 where the
    component cannot help, also where both are equal everywhere or there are no tokens. Tokens to which both give no
    mass say nothing about λ and are left out.

    With r = p_component / p_base the derivative is Σ (r−1) / (1 + λ(r−1)) = Σ 1 / (λ + s), s = 1 / (r−1): s ≥ 0 where
    the component is better, s ≤ −1 where it is worse. This form is exact for any r: s is 0 where r overflows and −1
    where r vanishes.
    """
    shift = _reciprocal_advantage(log_p_base, log_p_component)  # s, (at most T,)
    if shift.size == 0 or _slope(shift, 0.0) <= 0:
        return 0.0
    if _slope(shift, 1.0) >= 0:
        return 1.0
    low, high, weight = 0.0, 1.0, 0.5
    for _ in range(MAXIMUM_ITERATIONS):
        terms = 1.0 / (weight + shift)
        slope = terms.sum()
        low, high = (weight, high) if slope > 0 else (low, weight)
        step = slope / np.square(terms).sum()  # Newton: the second derivative is minus the sum of the squared terms
        if abs(step) < WEIGHT_TOLERANCE or high - low < WEIGHT_TOLERANCE:
            break
        weight += step
        if not low < weight < high:
            weight = (low + high) / 2
    return float(weight)


def interpolate(log_p_base: np.ndarray, log_p_component: np.ndarray, weight: float) -> np.ndarray:
    """Return log((1−λ) p_base + λ p_component) per token, float64 (T,) in nats, for λ = `weight` in [0, 1]."""
    with np.errstate(divide="ignore"):
        of_base, of_component = np.log1p(-weight), np.log(weight)
    base, component = np.asarray(log_p_base, np.float64), np.asarray(log_p_component, np.float64)
    return np.logaddexp(of_base + base, of_component + component)


def best_mixture(log_p_base: np.ndarray, log_p_component: np.ndarray) -> tuple[float, float]:
    """Return the nats per token of the mixture at its best λ, and that λ. Both arrays are float (T,) in nats."""
    weight = optimal_weight(log_p_base, log_p_component)
    return -float(interpolate(log_p_base, log_p_component, weight).mean()), weight


def oracle(log_p_base: np.ndarray, log_p_component: np.ndarray) -> np.ndarray:
    """Return log p per token, float64 (T,) in nats, of whichever is better at that token: no mixture can beat it."""
    return np.maximum(np.asarray(log_p_base, np.float64), np.asarray(log_p_component, np.float64))


def agreement(log_p_base: np.ndarray, log_p_one: np.ndarray, log_p_other: np.ndarray) -> float:
    """Return the share of tokens at which both components beat the base LM or neither does. All: float (T,), nats."""
    return float(np.mean((log_p_one > log_p_base) == (log_p_other > log_p_base)))


def correlation(log_p_base: np.ndarray, log_p_one: np.ndarray, log_p_other: np.ndarray) -> float:
    """Return Pearson's correlation of p_one − p_base and p_other − p_base over the tokens; nan where one is constant.

    All are float (T,) in nats (docs/paper.md#memorisation).
    """
    base, one, other = (np.exp(np.asarray(log_p, np.float64)) for log_p in (log_p_base, log_p_one, log_p_other))
    gains = np.stack([one - base, other - base])
    return float(np.corrcoef(gains)[0, 1]) if np.ptp(gains, axis=1).all() else float("nan")


def perplexity(log_p: np.ndarray, words: int) -> float:
    """Return the word perplexity exp(−Σ log p / words) of one split, inf where a token has no mass.

    `log_p` is float (T,) in nats per BPE token; `words` counts whole words (`count_words`) and must be positive
    (docs/paper.md#evaluation).
    """
    with np.errstate(over="ignore"):
        return float(np.exp(-np.sum(log_p, dtype=np.float64) / words))


def count_words(tokens: np.ndarray, continuation: np.ndarray) -> int:
    """Return the number of words in `tokens`, int (T,): pieces that no further piece of the same word follows.

    `</s>` is a word. `continuation` is bool (V,), True for the pieces that end in `@@`.
    """
    return int(tokens.size - np.count_nonzero(continuation[tokens]))


def _reciprocal_advantage(log_p_base: np.ndarray, log_p_component: np.ndarray) -> np.ndarray:
    """Return s = 1 / (p_component / p_base − 1), float64, without the tokens where both agree or neither has mass."""
    log_p_base, log_p_component = np.asarray(log_p_base, np.float64), np.asarray(log_p_component, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        advantage = np.expm1(log_p_component - log_p_base)
    return 1.0 / advantage[(advantage != 0) & ~np.isnan(advantage)]  # nan is -inf minus -inf


def _slope(shift: np.ndarray, weight: float) -> float:
    """Return the derivative of the log-likelihood at λ = 0 or 1, where single terms may be infinite."""
    denominators = weight + shift
    if not denominators.all():  # a token that gets no mass at this end: the slope points infinitely steeply inwards
        return np.inf if weight == 0 else -np.inf
    return float(np.sum(1.0 / denominators))
