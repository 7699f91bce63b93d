"""The kNN distribution of the gold token, from stored neighbours: arithmetic only, no search (spec §4.1)."""

from collections.abc import Callable

import numpy as np
import torch

QUERIES_AT_ONCE = 256  # a block of similarities stays in the cache


def gold_matches(ids: np.ndarray, values: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return where a neighbour's value is the gold token: bool (n, k). ids: int (n, k), −1 for none; values: (rows,); gold: (n,)."""
    return (values[ids] == gold[:, None]) & (ids >= 0)


def log_p_knn(similarities: np.ndarray, matches: np.ndarray, temperature: float) -> np.ndarray:
    """Return log p_kNN of the gold token, float32 (n,), nats; −inf where no neighbour has it or its probability is below float32's smallest.

    p_kNN(w|q) = Σ_{j: v_j = w} exp(s_j/τ) / Σ_j exp(s_j/τ) over the k neighbours. similarities: float32 (n, k), −inf for none; matches: bool (n, k),
    or, where a neighbour stands for several words, the gold token's share of it, float32 (n, k).
    """
    result = np.empty(len(similarities), dtype=np.float32)
    for begin in range(0, len(similarities), QUERIES_AT_ONCE):
        rows = slice(begin, begin + QUERIES_AT_ONCE)
        best = np.maximum(similarities[rows].max(axis=1, keepdims=True), np.finfo(np.float32).min)
        distances = torch.from_numpy(
            similarities[rows] - best
        )  # exact, where similarities divided by a low τ would be rounded
        gold = (
            torch.softmax(distances.div_(temperature), dim=1)
            .mul_(torch.from_numpy(matches[rows]))
            .sum(dim=1)
            .clamp_(max=1)
        )
        result[rows] = np.where(best[:, 0] > np.finfo(np.float32).min, gold.log_(), -np.inf)
    return result


def knn_scorer(
    found: dict[str, tuple[np.ndarray, np.ndarray]], values: np.ndarray, gold: dict[str, np.ndarray]
) -> Callable[[str, float], np.ndarray]:
    """Return the function of (split, temperature) that gives log p_kNN of the gold tokens, float32 (n,) in nats (§4.1).

    `found` holds ids, int (n, k), and similarities, float32 (n, k), of each split; values: int32 (rows,) by id; gold: int32 (n,) of each split.
    """
    matches = {split: gold_matches(ids, values, gold[split]) for split, (ids, _) in found.items()}
    return lambda split, temperature: log_p_knn(found[split][1], matches[split], temperature)


def tune_temperature(loss: Callable[[float], float], grid: list[float], low: float, high: float) -> tuple[float, str]:
    """Return the temperature that minimises `loss`, and how it was found: `optimum`, or `edge` where the search range ends first.

    Starts from the best of `grid`, walks on geometrically while the end of what was tried is still the best, within [low, high], and then
    searches between the best point's neighbours in log τ (bounded Brent) to about 1e-3 relative.
    """
    from scipy.optimize import minimize_scalar  # takes as long as a third of torch, and most hypotheses tune nothing

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
    found = minimize_scalar(
        lambda log_temperature: loss(float(np.exp(log_temperature))),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-3},
    )
    return (float(np.exp(found.x)), "optimum") if found.fun <= tried[best] else (best, "optimum")
