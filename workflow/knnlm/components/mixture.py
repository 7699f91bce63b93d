"""Mixing more than two components: the best weights, by convex optimisation, not a grid (docs/paper.md#ensembling)."""

import numpy as np
from scipy.optimize import nnls

MAXIMUM_ITERATIONS = 200  # Newton takes about ten; more where a weight is tiny
GAP = 1e-13  # nats a token that no other weights can win back; the weights are then right to 1e-6
RIDGE = 1e-10  # where components are equal, so that the quadratic model has one minimum


def simplex_weights(log_p: np.ndarray) -> np.ndarray:
    """Return the weights w ≥ 0, Σ w = 1, float64 (components,), that maximise Σ_t log Σ_c w_c p_c(t), correct to 1e-6.

    `log_p` is float (components, n) in nats, −inf where a component gives the token no mass. Tokens to which none gives
    any say nothing and are left out; the weights are equal if no token is left. With s_c = mean_t p_c(t) / p(t) the
    optimum is where no s_c is above 1, and s_c = 1 wherever w_c > 0. By concavity max s − 1 bounds what is still to be
    won, which is the test for the end. The penalty Σ w in place of Σ w = 1 has the same optimum, so each step of
    Newton's method is a small least-squares problem with w ≥ 0.
    """
    log_p = np.asarray(log_p, np.float64)
    best = log_p.max(axis=0)  # (n,)
    p = np.exp(log_p[:, best > -np.inf] - best[best > -np.inf])  # (components, tokens with mass), 1 at each best
    weights = np.full(len(p), 1.0 / len(p))
    for _ in range(MAXIMUM_ITERATIONS if p.shape[1] else 0):
        shares = p / (weights @ p)
        slope = shares.mean(axis=1)  # s, (components,)
        if slope.max() - 1 < GAP:
            break
        moved = _step(p, weights, _newton(shares, slope, weights))
        if moved is None:
            break
        weights = moved
    return weights


def mixture(log_p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return log Σ_c w_c p_c, float64 (n,) in nats; log_p: float (components, n), weights: (components,), Σ w = 1."""
    with np.errstate(divide="ignore"):
        log_weights = np.log(np.asarray(weights, np.float64))
    return np.logaddexp.reduce(np.asarray(log_p, np.float64) + log_weights[:, None], axis=0)


def _newton(shares: np.ndarray, slope: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weights ≥ 0 that minimise the quadratic model of Σ w − mean_t log p(t) at `weights`, (components,)."""
    ridge = RIDGE * np.eye(len(slope))
    curvature = shares @ shares.T / shares.shape[1] + ridge
    factor = np.linalg.cholesky(curvature)
    # curvature · weights = slope + ridge, and the gradient is 1 − slope, so curvature · w = 2 slope − 1 + ridge
    return nnls(factor.T, np.linalg.solve(factor, 2 * slope - 1 + ridge @ weights))[0]


def _step(p: np.ndarray, weights: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Return better weights on the simplex, towards `target`; None where only rounding is left to win."""
    before = np.log(weights @ p).mean()
    size = 1.0
    while size > 1e-12:
        moved = np.maximum((1 - size) * weights + size * target, 0)
        moved /= moved.sum()
        with np.errstate(divide="ignore"):
            if np.log(moved @ p).mean() > before:
                return moved
        size /= 2
    return None
