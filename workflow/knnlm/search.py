"""Nearest neighbours of every query, exact or approximate, for every fraction of the store in one pass.

Rows are shuffled within chunks, so the store of fraction f is a prefix of every chunk. Both searches walk the store in bands, from one fraction to
the next, keep a running top k, and hand out a snapshot at each fraction: no row is compared twice.
"""

from collections.abc import Callable, Iterator

import faiss
import numpy as np

from knnlm.datastore import Datastore, prefix_rows
from knnlm.index import METRICS, join_indexes
from knnlm.progress import progress

QUERIES_AT_ONCE = 8192
KEYS_AT_ONCE = 262144
Snapshot = tuple[float, np.ndarray, np.ndarray]


class RunningNeighbours:
    """The k best rows so far for each of n queries: ids int32 (n, k), similarities float32 (n, k), best first; id −1 where there are fewer."""

    def __init__(self, queries: int, k: int, metric: str):
        """Begin with no neighbours at all."""
        self.metric = metric
        self.ids = np.full((queries, k), -1, dtype=np.int32)
        self.similarities = np.full((queries, k), -np.inf, dtype=np.float32)

    def merge(self, rows: slice, scores: np.ndarray, ids: np.ndarray) -> None:
        """Merge FAISS results for the queries `rows`: scores float32 and ids int64, (len, k), as `index.search` returns them."""
        similarities = scores if self.metric == "ip" else -scores
        similarities[ids < 0] = -np.inf
        both = np.stack([self.similarities[rows], similarities]), np.stack([self.ids[rows].astype(np.int64), ids])
        self.similarities[rows], self.ids[rows] = faiss.merge_knn_results(*both, keep_max=True)


def exact_search(queries: np.ndarray, store: Datastore, h: str, metric: str, k: int, fractions: list[float], device: str) -> Iterator[Snapshot]:
    """Yield (fraction, ids, similarities) of the true k nearest rows for each of the ascending fractions.

    queries: float32 (n, width). Similarities are −‖q−k‖² for `l2` and q·k for `ip` (spec §4.1). The snapshots share memory with the running result:
    use one before asking for the next. Memory: the result and one block of keys in float32, whatever the size of the store.
    """
    nearest = _exact_function(device)
    running = RunningNeighbours(len(queries), k, metric)
    blocks = [
        (high, chunk, begin, min(begin + KEYS_AT_ONCE, prefix_rows(high, chunk.rows)))
        for low, high in zip([0.0, *fractions], fractions, strict=False)
        for chunk in store.chunks
        for begin in range(prefix_rows(low, chunk.rows), prefix_rows(high, chunk.rows), KEYS_AT_ONCE)
    ]
    for number, (fraction, chunk, begin, end) in enumerate(progress(blocks, f"exact search {h} {metric}")):
        keys = chunk.keys_of(h)[begin:end].astype(np.float32)
        for rows in _slices(len(queries), QUERIES_AT_ONCE):
            scores, ids = nearest(queries[rows], keys, min(k, len(keys)), METRICS[metric])
            running.merge(rows, *_widened(scores, ids, k, chunk.first_position + begin))
        if number + 1 == len(blocks) or blocks[number + 1][0] != fraction:
            yield fraction, running.ids, running.similarities


def approximate_search(
    queries: np.ndarray, store: Datastore, trained: faiss.Index, filled: list[faiss.Index], nprobe: int, k: int, fractions: list[float], device: str
) -> Iterator[Snapshot]:
    """Yield (fraction, ids, similarities) as FAISS finds and scores them (*FAISS mask, FAISS score*), for each of the ascending fractions.

    `trained` is the empty index, `filled` its copies with the rows of each chunk. The quantisers are those of the full store at every fraction.
    """
    metric = "l2" if trained.metric_type == faiss.METRIC_L2 else "ip"
    running = RunningNeighbours(len(queries), k, metric)
    for low, high in zip([0.0, *fractions], fractions, strict=False):
        index = _searchable(join_indexes(trained, filled, store.chunks, low, high), nprobe, device)
        for rows in progress(list(_slices(len(queries), QUERIES_AT_ONCE)), f"approximate search {metric}, up to {high:.0%} of the store"):
            running.merge(rows, *index.search(queries[rows], k))
        yield high, running.ids, running.similarities


def real_similarities(queries: np.ndarray, ids: np.ndarray, store: Datastore, h: str, metric: str) -> np.ndarray:
    """Return the true similarities of given rows (*real score*), float32 (n, k): −‖q−k‖² or q·k with the stored keys; −inf where id is −1.

    queries: float32 (n, width); ids: int32 (n, k), global. Memory: one block of keys in float32 and one block of queries.
    """
    found = np.full(ids.shape, -np.inf, dtype=np.float32)
    score = faiss.fvec_L2sqr_by_idx if metric == "l2" else faiss.fvec_inner_products_by_idx
    blocks = [(chunk, begin) for chunk in store.chunks for begin in range(0, chunk.rows, KEYS_AT_ONCE)]
    for chunk, begin in progress(blocks, f"real scores {h} {metric}"):
        keys = chunk.keys_of(h)[begin : begin + KEYS_AT_ONCE].astype(np.float32)
        first = chunk.first_position + begin
        for rows in _slices(len(queries), QUERIES_AT_ONCE):
            local = ids[rows].astype(np.int64) - first
            elsewhere = (local < 0) | (local >= len(keys))
            local[elsewhere] = -1  # FAISS skips these
            scores = np.empty(local.shape, dtype=np.float32)
            some = np.ascontiguousarray(queries[rows])
            score(*(faiss.swig_ptr(array) for array in (scores, some, keys, local)), keys.shape[1], *local.shape)
            similarities = -scores if metric == "l2" else scores
            np.copyto(found[rows], similarities, where=~elsewhere)
    return found


def _slices(length: int, step: int) -> Iterator[slice]:
    for begin in range(0, length, step):
        yield slice(begin, min(begin + step, length))


def _widened(scores: np.ndarray, ids: np.ndarray, k: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Give FAISS results of fewer than k columns k columns, and local ids their global number."""
    missing = k - ids.shape[1]
    ids = np.where(ids >= 0, ids + first, -1)
    return np.pad(scores, ((0, 0), (0, missing))), np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)


def _exact_function(device: str) -> Callable:
    """Return FAISS's brute-force search for the device; both have the same arguments."""
    if device == "cpu":
        return faiss.knn
    resources = faiss.StandardGpuResources()
    return lambda queries, keys, k, metric: faiss.knn_gpu(resources, queries, keys, k, metric=metric)


def _searchable(index: faiss.Index, nprobe: int, device: str) -> faiss.Index:
    """Put an index on the device and set how many of its lists a query visits."""
    index.nprobe = nprobe
    return index if device == "cpu" else faiss.index_cpu_to_all_gpus(index)
