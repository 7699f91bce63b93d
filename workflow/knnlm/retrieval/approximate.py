"""Nearest neighbours as an index finds them, for every fraction of the store in one pass, and their true similarities.

Both searches, this and the exact one, walk the store in bands, from one fraction to the next, keep a running top k, and
hand out a snapshot at each fraction (`knnlm.datastore.shuffle`): no row is compared twice.
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
from knnlm.retrieval.blocks import KEYS_AT_ONCE, QUERIES_AT_ONCE, slices
from knnlm.retrieval.tiles import pair_similarities
from knnlm.retrieval.top_k import RunningNeighbours, Snapshot
from knnlm.running.progress import progress


def approximate_search(
    queries: np.ndarray, store: Datastore, trained: faiss.IndexIVF, filled: list[faiss.IndexIVF],
    nprobe: int, k: int, fractions: list[float], device: str, folder: Path,
) -> Iterator[Snapshot]:  # fmt: skip
    """Yield (fraction, ids, similarities) as FAISS finds and scores them, for each of the ascending fractions.

    This is the paper's FAISS mask with FAISS score (docs/paper.md#approximate-search). queries: float32 (n, width);
    ids: int32 (n, k); similarities: float32 (n, k). `trained` is the empty index, `filled` its copies with the rows of
    each chunk; the quantisers are those of the full store at every fraction. `folder` is where the lists of a band are
    joined. Memory: queries, result, and what one block of queries finds.
    """
    metric = "l2" if trained.metric_type == faiss.METRIC_L2 else "ip"
    running, blocks = RunningNeighbours(len(queries), k), list(slices(len(queries), QUERIES_AT_ONCE))
    for low, high in pairwise([0.0, *fractions]):
        index = join_indexes(trained, filled, store.chunks, low, high, folder)
        index.nprobe = nprobe
        index = index if device == "cpu" else faiss.index_cpu_to_all_gpus(index)
        for rows in progress(blocks, f"approximate search {metric}, up to {high:.0%} of the store"):
            scores, ids = (torch.from_numpy(array) for array in index.search(queries[rows], k))  # (rows, k) each
            similarities = (-scores if metric == "l2" else scores).masked_fill_(ids < 0, -torch.inf)
            if low:
                running.merge(rows, similarities, ids.int())
            else:  # FAISS gives them best first
                running.similarities[rows], running.ids[rows] = similarities, ids.int()
        del index  # and its lists, before the next are joined
        yield high, *running.snapshot()


def training_neighbours(
    keys: np.ndarray, own_ids: np.ndarray, index: faiss.Index, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows of an index to keys that stand in it, each key left out of its own neighbours.

    keys: (n, width), any float type; own_ids: int (n,), the row id of each. Returns ids, int32 (n, k), and
    similarities, float32 (n, k), nearest first, as FAISS scores them: −‖q−k̂‖² for `l2` and q·k̂ for `ip`; id −1 and
    −inf if a search finds fewer. The paper's code dropped whatever came first; with quantised keys that need not be the
    row itself (docs/paper.md#loss-weighting). Memory: the result and one block of keys in float32.
    """
    ids, similarities = np.empty((len(keys), k), np.int32), np.empty((len(keys), k), np.float32)
    for rows in progress(list(slices(len(keys), QUERIES_AT_ONCE)), "neighbours of training positions"):
        scores, found = index.search(np.ascontiguousarray(keys[rows], dtype=np.float32), k + 1)  # (rows, k + 1) each
        kept = without_own(found, own_ids[rows])
        found = np.take_along_axis(found, kept, axis=1)
        scores = np.take_along_axis(-scores if metric == "l2" else scores, kept, axis=1)
        ids[rows], similarities[rows] = found, np.where(found < 0, -np.inf, scores)
    return ids, similarities


def without_own(ids: np.ndarray, own_ids: np.ndarray) -> np.ndarray:
    """Return which of k+1 columns stay, int (n, k), in their order: all but the own id's, or else the last."""
    own = ids == np.asarray(own_ids)[:, None]
    own[:, -1] |= ~own.any(axis=1)
    return np.nonzero(~own)[1].reshape(len(ids), -1)


def real_similarities(queries: np.ndarray, ids: np.ndarray, store: Datastore, h: str, metric: str) -> np.ndarray:
    """Return the true similarities of given rows (real score): float32 (n, k), −‖q−k‖² or q·k; −inf for id −1.

    queries: float32 (n, width); ids: int32 (n, k), global. Memory: one block of keys in float32, one block of queries
    and their pairs. Raises KnnlmError, naming the file, if the keys turn out damaged.
    """
    found = np.full(ids.shape, -np.inf, dtype=np.float32)
    most = min(KEYS_AT_ONCE, max(chunk.rows for chunk in store.chunks))
    converted = np.empty((most, queries.shape[1]), dtype=np.float32)
    blocks = [(number, rows) for number, chunk in enumerate(store.chunks) for rows in slices(chunk.rows, KEYS_AT_ONCE)]
    with store.keys_in_order(h) as stored:
        for number, block in progress(blocks, f"real scores {h} {metric}"):
            keys = converted[: block.stop - block.start]  # the same memory: fresh pages take longer than converting
            with warnings.catch_warnings(action="ignore"):  # torch's, that what is mapped cannot be written to
                torch.from_numpy(keys).copy_(torch.from_numpy(stored[number][block]))  # to float32, (block, width)
            first = store.chunks[number].first_position + block.start
            for rows in slices(len(queries), QUERIES_AT_ONCE):
                _score_pairs(found[rows], np.ascontiguousarray(queries[rows]), ids[rows], keys, first, metric)
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
    """Write into `found`, float32 (n, k), the similarities of those ids, int32 (n, k), that are in a block of keys.

    queries: float32 (n, width); keys: float32 (m, width); `first`: the id of the block's first key. Pairs are taken in
    the order of their keys, which so are read from memory one behind the other; a block of queries stays in the cache.
    """
    local = ids.ravel() - np.int32(first)  # (n · k,): the key's number in the block
    places = np.flatnonzero(local.view(np.uint32) < len(keys))  # (pairs,); as unsigned, what is below 0 is large
    # Sort (key, place) pairs as one int64 each.
    ordered = np.left_shift(local[places], 32, dtype=np.int64)
    ordered |= places
    ordered.sort()
    places = ordered & 0xFFFFFFFF
    ordered >>= 32
    pairs = (torch.from_numpy(array) for array in (queries, keys, places // ids.shape[1], ordered))
    found.reshape(-1)[places] = pair_similarities(*pairs, metric)
