"""Nearest neighbours as an index finds them, for every fraction of the store in one pass, and the true similarities of what it has found.

Rows are shuffled within chunks, so the store of fraction f is a prefix of every chunk. Both searches, this and the exact one, walk the store in bands,
from one fraction to the next, keep a running top k, and hand out a snapshot at each fraction: no row is compared twice.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import torch

from knnlm.datastore import Datastore
from knnlm.index import join_indexes
from knnlm.progress import progress
from knnlm.query_blocks import QUERIES_AT_ONCE, slices
from knnlm.running_neighbours import RunningNeighbours

KEYS_AT_ONCE = 524288
Snapshot = tuple[float, np.ndarray, np.ndarray]


def approximate_search(
    queries: np.ndarray,
    store: Datastore,
    trained: faiss.IndexIVF,
    filled: list[faiss.IndexIVF],
    nprobe: int,
    k: int,
    fractions: list[float],
    device: str,
    folder: Path,
) -> Iterator[Snapshot]:
    """Yield (fraction, ids, similarities) as FAISS finds and scores them (*FAISS mask, FAISS score*), for each of the ascending fractions.

    `trained` is the empty index, `filled` its copies with the rows of each chunk. The quantisers are those of the full store at every fraction.
    Memory: queries, result, and what one block of queries finds. `folder` is where the lists of a band are joined.
    """
    metric = "l2" if trained.metric_type == faiss.METRIC_L2 else "ip"
    running = RunningNeighbours(len(queries), k)
    for low, high in pairwise([0.0, *fractions]):
        index = _searchable(join_indexes(trained, filled, store.chunks, low, high, folder), nprobe, device)
        for rows in progress(list(slices(len(queries), QUERIES_AT_ONCE)), f"approximate search {metric}, up to {high:.0%} of the store"):
            scores, ids = (torch.from_numpy(array) for array in index.search(queries[rows], k))
            similarities = (-scores if metric == "l2" else scores).masked_fill_(ids < 0, -torch.inf)
            if low:
                running.merge(rows, similarities, ids.int())
            else:  # FAISS gives them best first
                running.similarities[rows], running.ids[rows] = similarities, ids.int()
        yield high, *running.snapshot()


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
        for rows in slices(len(queries), QUERIES_AT_ONCE):
            local = np.subtract(ids[rows], first, dtype=np.int64)
            elsewhere = local.view(np.uint64) >= len(keys)  # as such, what is below 0 is large
            np.copyto(local, -1, where=elsewhere)  # FAISS skips these
            scores = np.empty(local.shape, dtype=np.float32)
            some = np.ascontiguousarray(queries[rows])
            score(*(faiss.swig_ptr(array) for array in (scores, some, keys, local)), keys.shape[1], *local.shape)
            if metric == "l2":
                np.negative(scores, out=scores)
            np.copyto(found[rows], scores, where=~elsewhere)
    return found


def _searchable(index: faiss.Index, nprobe: int, device: str) -> faiss.Index:
    """Put an index on the device and set how many of its lists a query visits."""
    index.nprobe = nprobe
    return index if device == "cpu" else faiss.index_cpu_to_all_gpus(index)
