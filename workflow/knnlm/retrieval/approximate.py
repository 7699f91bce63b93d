"""Nearest neighbours as an index finds them, for every fraction of the store in one pass, and the true similarities of what it has found.

Rows are shuffled within chunks, so the store of fraction f is a prefix of every chunk. Both searches, this and the exact one, walk the store in bands,
from one fraction to the next, keep a running top k, and hand out a snapshot at each fraction: no row is compared twice.
"""

import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import torch

from knnlm.datastore.index import fill_index, join_indexes
from knnlm.datastore.store import Datastore
from knnlm.retrieval.query_blocks import QUERIES_AT_ONCE, slices
from knnlm.retrieval.running_neighbours import RunningNeighbours
from knnlm.running.progress import progress

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
        for rows in progress(
            list(slices(len(queries), QUERIES_AT_ONCE)), f"approximate search {metric}, up to {high:.0%} of the store"
        ):
            scores, ids = (torch.from_numpy(array) for array in index.search(queries[rows], k))
            similarities = (-scores if metric == "l2" else scores).masked_fill_(ids < 0, -torch.inf)
            if low:
                running.merge(rows, similarities, ids.int())
            else:  # FAISS gives them best first
                running.similarities[rows], running.ids[rows] = similarities, ids.int()
        del index  # and its lists, before the next are joined
        yield high, *running.snapshot()


def real_similarities(queries: np.ndarray, ids: np.ndarray, store: Datastore, h: str, metric: str) -> np.ndarray:
    """Return the true similarities of given rows (*real score*), float32 (n, k): −‖q−k‖² or q·k with the stored keys; −inf where id is −1.

    queries: float32 (n, width); ids: int32 (n, k), global. Memory: one block of keys in float32, one block of queries and their pairs.
    """
    found = np.full(ids.shape, -np.inf, dtype=np.float32)
    blocks = [(chunk, begin) for chunk in store.chunks for begin in range(0, chunk.rows, KEYS_AT_ONCE)]
    converted = np.empty(
        (min(KEYS_AT_ONCE, max(chunk.rows for chunk in store.chunks)), queries.shape[1]), dtype=np.float32
    )
    for chunk, begin in progress(blocks, f"real scores {h} {metric}"):
        stored = chunk.keys_of(h)[begin : begin + KEYS_AT_ONCE]
        keys = converted[: len(stored)]  # the same memory every time: fresh pages take longer than the conversion
        with warnings.catch_warnings(
            action="ignore"
        ):  # torch's, that what is memory-mapped for reading cannot be written to
            torch.from_numpy(keys).copy_(torch.from_numpy(stored))
        for rows in slices(len(queries), QUERIES_AT_ONCE):
            _score_pairs(
                found[rows], np.ascontiguousarray(queries[rows]), ids[rows], keys, chunk.first_position + begin, metric
            )
    return found


def nprobe_search(
    index: faiss.IndexIVF, queries: np.ndarray, k: int, nprobes: list[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (nprobe, ids, similarities) for each of the ascending `nprobes`, as `index.search` would find them.

    All together cost as much as the last alone: each query's lists are ranked once and visited in bands, from one
    nprobe to the next. queries: float32 (n, width); ids: int32 (n, k), −1 for none; similarities: float32 (n, k),
    best first. The results share memory with the running result: use one before asking for the next. Runs on the CPU:
    `index` must be a CPU index. Raises ValueError if the `nprobes` do not ascend or exceed the index's lists.
    """
    if nprobes[-1] > index.nlist or any(low >= high for low, high in pairwise([0, *nprobes])):
        raise ValueError(f"nprobes {nprobes} do not ascend from at least 1 to at most {index.nlist}")
    sign = -1 if index.metric_type == faiss.METRIC_L2 else 1
    blocks = list(slices(len(queries), QUERIES_AT_ONCE))
    ranked = (index.quantizer.search(queries[rows], nprobes[-1]) for rows in blocks)
    coarse, lists = (np.concatenate(parts) for parts in zip(*ranked, strict=True))  # (n, the last nprobe) each
    running = RunningNeighbours(len(queries), k)
    for low, high in pairwise([0, *nprobes]):
        index.nprobe = high - low
        for rows in progress(blocks, f"search of lists {low} to {high}"):
            scanned = index.search_preassigned(queries[rows], k, lists[rows, low:high], coarse[rows, low:high])
            scores, ids = (torch.from_numpy(found) for found in scanned)  # (rows, k) each
            running.merge(rows, (sign * scores).masked_fill_(ids < 0, -torch.inf), ids.int())
        yield high, *running.snapshot()


def recall(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the share of each query's true neighbours that a search found, float64 (n,): recall@k.

    Both are ids, int (n, k), without repetition in a row, in any order; −1 is no row.
    """
    result = np.empty(len(true))
    for rows in slices(len(true), QUERIES_AT_ONCE):
        ids = np.sort(np.concatenate([found[rows], true[rows]], axis=1), axis=1)  # (rows, 2k): equal ids are adjacent
        result[rows] = np.count_nonzero((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0), axis=1) / true.shape[1]
    return result


def recoded_index(trained: faiss.IndexIVF, codes: int, sample: np.ndarray, seed: int) -> faiss.IndexIVFPQ:
    """Return an empty index with the lists of `trained` and product codes of `codes` bytes, trained on `sample`.

    `codes` must divide the width; sample: float32 (rows, width). Only the code size differs from an index of
    `trained`'s factory, sample and seed.
    """
    index = faiss.index_factory(trained.d, f"IVF{trained.nlist},PQ{codes}", trained.metric_type)
    index.quantizer.add(trained.quantizer.reconstruct_n(0, trained.nlist))  # FAISS keeps centroids that are there
    index.pq.cp.seed = seed
    index.do_polysemous_training = False  # as in train_index
    index.train(sample)
    return index


def fill_in_memory(index: faiss.Index, store: Datastore, h: str) -> None:
    """Add all keys of a store to a trained, empty index under their global ids, chunk by chunk."""
    for chunk in progress(store.chunks, f"filling an index with {h}"):
        fill_index(index, chunk, h)


def _score_pairs(
    found: np.ndarray, queries: np.ndarray, ids: np.ndarray, keys: np.ndarray, first: int, metric: str
) -> None:
    """Write into `found`, float32 (n, k), the similarities of those of the ids, int32 (n, k), that are in a block of keys, float32 (m, width).

    queries: float32 (n, width); `first`: the id of the block's first key. Pairs are taken in the order of their keys, which so are read from memory one
    behind the other; a block of queries stays in the cache.
    """
    local = ids.ravel() - np.int32(first)
    places = np.flatnonzero(local.view(np.uint32) < len(keys))  # as such, what is below 0 is large
    ordered = np.left_shift(local[places], 32, dtype=np.int64)
    ordered |= places
    ordered.sort()
    places = ordered & 0xFFFFFFFF
    ordered >>= 32
    of_queries, scores = places // ids.shape[1], np.empty(len(places), dtype=np.float32)
    score = faiss.pairwise_indexed_L2sqr if metric == "l2" else faiss.pairwise_indexed_inner_product
    score(
        keys.shape[1], len(places), *(faiss.swig_ptr(array) for array in (queries, of_queries, keys, ordered, scores))
    )
    found.reshape(-1)[places] = -scores if metric == "l2" else scores


def _searchable(index: faiss.Index, nprobe: int, device: str) -> faiss.Index:
    """Put an index on the device and set how many of its lists a query visits."""
    index.nprobe = nprobe
    return index if device == "cpu" else faiss.index_cpu_to_all_gpus(index)
