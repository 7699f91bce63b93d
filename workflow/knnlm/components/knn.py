"""The kNN distribution of the gold token from stored neighbours: arithmetic only, no search (docs/paper.md#knn-lm)."""

from collections.abc import Callable

import numpy as np
import torch

from knnlm.retrieval.blocks import slices

QUERIES_AT_ONCE = 256  # a block of similarities stays in the cache
Neighbours = dict[str, tuple[np.ndarray, np.ndarray]]  # of each split: ids, int32 (n, k), similarities, float32 (n, k)


def gold_matches(ids: np.ndarray, values: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return where a neighbour's value is the gold token, bool (n, k).

    ids: int (n, k), −1 for none; values: int (rows,) by id; gold: int (n,).
    """
    return (values[ids] == gold[:, None]) & (ids >= 0)


def log_p_knn(similarities: np.ndarray, matches: np.ndarray, temperature: float) -> np.ndarray:
    """Return log p_kNN of the gold token, float32 (n,) in nats (docs/paper.md#knn-lm).

    p_kNN(w|q) = Σ_{j: v_j = w} exp(s_j/τ) / Σ_j exp(s_j/τ) over the k neighbours. similarities: float32 (n, k), −inf
    for none. matches: bool (n, k), or, where a neighbour stands for several words, the gold token's share of it,
    float32 (n, k). The result is −inf where no neighbour has the token or p_kNN is below float32's smallest number.
    """
    result = np.empty(len(similarities), dtype=np.float32)
    for rows in slices(len(similarities), QUERIES_AT_ONCE):
        best = np.maximum(similarities[rows].max(axis=1, keepdims=True), np.finfo(np.float32).min)  # (rows, 1)
        # (rows, k), exact: similarities divided by a low τ would lose their differences to rounding
        distances = torch.from_numpy(similarities[rows] - best)
        p = torch.softmax(distances.div_(temperature), dim=1).mul_(torch.from_numpy(matches[rows]))
        log_p = p.sum(dim=1).clamp_(max=1).log_()  # (rows,)
        result[rows] = np.where(best[:, 0] > np.finfo(np.float32).min, log_p, -np.inf)
    return result


def knn_scorer(
    found: Neighbours, values: np.ndarray, gold: dict[str, np.ndarray]
) -> Callable[[str, float], np.ndarray]:
    """Return the function of (split, temperature) that gives log p_kNN of the gold tokens, float32 (n,) in nats.

    values: int32 (rows,) by id; gold: int32 (n,) of each split.
    """
    matches = {split: gold_matches(ids, values, gold[split]) for split, (ids, _) in found.items()}
    return lambda split, temperature: log_p_knn(found[split][1], matches[split], temperature)
