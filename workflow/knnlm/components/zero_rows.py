"""Neighbours in a store that is padded with zero vectors, worked out from the neighbours in the store without them.

The datastore of the paper's code has 153,225,485 rows, of which 112,733,184 are keys; the others are zero vectors
(docs/paper.md#padding).
"""

import faiss
import numpy as np

from knnlm.datastore.placing import ivf_of, packed


def count_zero_rows(share: float, rows: int) -> int:
    """Return how many zero rows make up `share`, in [0, 1), of a store that has `rows` others."""
    return round(rows * share / (1 - share))


def padded_neighbours(
    ids: np.ndarray, similarities: np.ndarray, to_zero: np.ndarray, zero_rows: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows after `zero_rows` zero vectors were added to a store of `rows` rows: ids, similarities.

    ids: int32 (n, k), −1 for none; similarities: float32 (n, k), best first. Both are what the same search found in
    the store without padding, and come back in the same form. to_zero: float32 (n,), each query's similarity to a
    zero vector as the search scores it, −inf where the search does not meet it. The zero rows have the ids from
    `rows` on. A stored row that ties with them goes first.
    """
    k = ids.shape[1]
    place = np.arange(k)
    # (n, 1) each: where a query's zero rows begin (at k, where it meets none) and end
    before = np.count_nonzero(similarities >= to_zero[:, None], axis=1)[:, None]
    after = before + np.minimum(zero_rows, k - before)
    is_zero = (place >= before) & (place < after)  # (n, k)
    stored = np.where(place < before, place, np.maximum(place - (after - before), 0))  # (n, k): where each comes from
    padded_ids = np.where(is_zero, rows + place - before, np.take_along_axis(ids, stored, 1)).astype(np.int32)
    return padded_ids, np.where(is_zero, to_zero[:, None], np.take_along_axis(similarities, stored, 1))


def similarity_to_zero(queries: np.ndarray, metric: str) -> np.ndarray:
    """Return each query's similarity to a zero vector, float32 (n,): −‖q‖² for `l2`, 0 for `ip`.

    queries: float32 (n, width).
    """
    return -np.square(queries).sum(axis=1) if metric == "l2" else np.zeros(len(queries), np.float32)


def scanned_similarity_to_zero(trained: faiss.Index, nprobe: int, queries: np.ndarray) -> np.ndarray:
    """Return each query's similarity to a zero vector as a search of the index scores it, float32 (n,).

    It is −inf where the search does not visit the zero vector's list. queries: float32 (n, width). The quantisers of
    `trained`, an index without rows, encode the zero vector: all zero rows have one code in one list, so they tie.
    """
    index = faiss.clone_index(trained)
    index.add(np.zeros((1, trained.d), np.float32))
    ivf_of(index).nprobe = nprobe
    scores, ids = (found[:, 0] for found in packed(index).search(queries, 1))  # (n,) each
    return np.where(ids < 0, -np.inf, -scores if trained.metric_type == faiss.METRIC_L2 else scores)
