"""The kNN distribution of the gold token, from stored neighbours: arithmetic only, no search (spec §4.1)."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize_scalar

QUERIES_AT_ONCE = 1024  # a block of similarities stays in the cache for one temperature


def gold_matches(ids: np.ndarray, values: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return where a neighbour's value is the gold token: bool (n, k). ids: int (n, k), −1 for none; values: (rows,); gold: (n,)."""
    return (values[ids] == gold[:, None]) & (ids >= 0)


def log_p_knn(similarities: np.ndarray, matches: np.ndarray, temperature: float) -> np.ndarray:
    """Return log p_kNN of the gold token, float32 (n,), nats; −inf where no neighbour has it.

    p_kNN(w|q) = Σ_{j: v_j = w} exp(s_j/τ) / Σ_j exp(s_j/τ) over the k neighbours. similarities: float32 (n, k), best first; matches: bool (n, k).
    """
    result = np.empty(len(similarities), dtype=np.float32)
    for begin in range(0, len(similarities), QUERIES_AT_ONCE):
        rows = slice(begin, begin + QUERIES_AT_ONCE)
        scores = torch.from_numpy(np.ascontiguousarray(similarities[rows]))
        weights = scores.sub(scores.max(dim=1, keepdim=True).values).mul_(1 / temperature).exp_()
        normaliser = weights.sum(dim=1, dtype=torch.float64)
        gold = weights.mul_(torch.from_numpy(np.ascontiguousarray(matches[rows]))).sum(dim=1, dtype=torch.float64)
        result[rows] = torch.log(gold / normaliser).numpy()
    return result


def tune_temperature(loss: Callable[[float], float], grid: list[float], low: float, high: float) -> tuple[float, str]:
    """Return the temperature that minimises `loss`, and how it was found: `optimum`, or `edge` where the search range ends first.

    Starts from the best of `grid`, walks on geometrically while the end of what was tried is still the best, within [low, high], and then
    searches between the best point's neighbours in log τ (bounded Brent) to about 1e-3 relative.
    """
    tried = {temperature: loss(temperature) for temperature in sorted(grid)}
    while True:
        best = min(tried, key=tried.get)
        if best == max(tried) and best < high:
            step = min(best * 1.5, high)
        elif best == min(tried) and best > low:
            step = max(best / 1.5, low)
        else:
            break
        tried[step] = loss(step)
    if best in (low, high) and best in (min(tried), max(tried)):
        return best, "edge"
    ordered = sorted(tried)
    place = ordered.index(best)
    bounds = np.log(ordered[place - 1]), np.log(ordered[place + 1])
    found = minimize_scalar(lambda log_temperature: loss(float(np.exp(log_temperature))), bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return (float(np.exp(found.x)), "optimum") if found.fun <= tried[best] else (best, "optimum")
