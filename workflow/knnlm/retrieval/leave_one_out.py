"""Neighbours of the training positions themselves, each position left out of its own (spec §4.4, by row id)."""

import faiss
import numpy as np

from knnlm.running.progress import progress

QUERIES_AT_ONCE = 8192


def training_neighbours(
    keys: np.ndarray, own_ids: np.ndarray, index: faiss.Index, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows of an index to keys that stand in it themselves: ids int32 (n, k), similarities float32 (n, k), nearest first.

    keys: (n, width), any float type; own_ids: int (n,), the row id of each, which is left out wherever it is found. Similarities are as FAISS scores
    them, −‖q−k̂‖² for `l2` and q·k̂ for `ip`; where a search finds fewer than k rows, id −1 and −inf. The paper dropped whatever came first (§7.1 j);
    with quantised keys that need not be the row itself. Memory: the result and one block of keys in float32.
    """
    ids, similarities = np.empty((len(keys), k), np.int32), np.empty((len(keys), k), np.float32)
    for begin in progress(range(0, len(keys), QUERIES_AT_ONCE), "neighbours of training positions"):
        rows = slice(begin, begin + QUERIES_AT_ONCE)
        scores, found = index.search(np.ascontiguousarray(keys[rows], dtype=np.float32), k + 1)
        kept = without_own(found, own_ids[rows])
        found = np.take_along_axis(found, kept, axis=1)
        scores = np.take_along_axis(-scores if metric == "l2" else scores, kept, axis=1)
        ids[rows], similarities[rows] = found, np.where(found < 0, -np.inf, scores)
    return ids, similarities


def without_own(ids: np.ndarray, own_ids: np.ndarray) -> np.ndarray:
    """Return which of k+1 columns stay, int (n, k), in their order: all but a row's own id, or but the last one where the own id is not among them."""
    own = ids == np.asarray(own_ids)[:, None]
    own[:, -1] |= ~own.any(axis=1)
    return np.nonzero(~own)[1].reshape(len(ids), -1)
