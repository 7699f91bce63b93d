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

from knnlm.datastore.index import join_indexes, train_codes
from knnlm.datastore.placing import gpu_place, ivf_of, place_for, through
from knnlm.datastore.store import Datastore
from knnlm.retrieval.blocks import KEYS_AT_ONCE, QUERIES_AT_ONCE, slices
from knnlm.retrieval.tiles import pair_similarities
from knnlm.retrieval.top_k import RunningNeighbours, Snapshot
from knnlm.running.progress import progress


def approximate_search(
    queries: np.ndarray, store: Datastore, trained: faiss.Index, filled: list[faiss.Index],
    nprobe: int, k: int, fractions: list[float], device: str, folder: Path,
) -> Iterator[Snapshot]:  # fmt: skip
    """Yield (fraction, ids, similarities) as FAISS finds and scores them, for each of the ascending fractions.

    This is the paper's FAISS mask with FAISS score (docs/paper.md#approximate-search). queries: float32 (n, width);
    ids: int32 (n, k); similarities: float32 (n, k). `trained` is the empty index, `filled` its copies with the rows of
    each chunk; the quantisers are those of the full store at every fraction. `folder` is where the lists of a band are
    joined, before they are searched there or copied to a GPU. Memory: queries, result, and what one block of queries
    finds.
    """
    metric = "l2" if trained.metric_type == faiss.METRIC_L2 else "ip"
    place = place_for(trained, device, k, nprobe)
    running = RunningNeighbours(len(queries), k, device if place.gpus else "cpu")
    blocks = list(slices(len(queries), QUERIES_AT_ONCE))
    for low, high in pairwise([0.0, *fractions]):
        index = join_indexes(trained, filled, store.chunks, low, high, folder)
        ivf_of(index).nprobe = nprobe
        index = place.searched(index)
        for rows in progress(blocks, f"approximate search {metric}, up to {high:.0%} of the store"):
            similarities, ids = found_by(index, queries[rows], k, metric, running.ids.device)
            if low:
                running.merge(rows, similarities, ids)
            else:  # FAISS gives them best first
                running.similarities[rows], running.ids[rows] = similarities, ids
        del index  # and its lists, before the next are joined
        yield high, *running.snapshot()


def found_by(
    index: faiss.Index, queries: np.ndarray, k: int, metric: str, device: torch.device,
    parameters: faiss.SearchParameters | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Search an index: return similarities, float32, and ids, int32, (n, k) on `device`, −inf and −1 for none."""
    scores, ids = (torch.from_numpy(array).to(device) for array in index.search(queries, k, params=parameters))
    return (-scores if metric == "l2" else scores).masked_fill_(ids < 0, -torch.inf), ids.int()


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


def real_similarities(
    queries: np.ndarray, ids: np.ndarray, store: Datastore, h: str, metric: str, device: str = "cpu"
) -> np.ndarray:
    """Return the true similarities of given rows (real score): float32 (n, k), −‖q−k‖² or q·k; −inf for id −1.

    queries: float32 (n, width); ids: int32 (n, k), global. Memory: one block of keys in float32, one block of queries
    and their pairs; on a GPU all queries and ids too. Raises KnnlmError, naming the file, if the keys turn out damaged.
    """
    found = torch.full(ids.shape, -torch.inf, device=device)
    queries, ids = (torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in (queries, ids))
    most = min(KEYS_AT_ONCE, max(chunk.rows for chunk in store.chunks))
    converted = torch.empty((most, queries.shape[1]), device=device)
    blocks = [(number, rows) for number, chunk in enumerate(store.chunks) for rows in slices(chunk.rows, KEYS_AT_ONCE)]
    pairs_of = pairs_in_block if device == "cpu" else gpu_pairs_in_block
    with store.keys_in_order(h) as stored:
        for number, block in progress(blocks, f"real scores {h} {metric}"):
            keys = converted[: block.stop - block.start]  # the same memory: fresh pages take longer than converting
            with warnings.catch_warnings(action="ignore"):  # torch's, that what is mapped cannot be written to
                keys.copy_(torch.from_numpy(stored[number][block]).to(device))  # to float32, (block, width)
            first = store.chunks[number].first_position + block.start
            for rows in slices(len(queries), QUERIES_AT_ONCE):
                place, column = pairs_of(ids[rows], first, len(keys))  # (pairs,) each
                similarities = pair_similarities(queries[rows], keys, place // ids.shape[1], column, metric)
                found[rows].view(-1)[place] = similarities
    return found.cpu().numpy()


def pairs_in_block(ids: torch.Tensor, first: int, keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the ids, int32 (n, k), of a block of keys stand, and the number in it of each, int64 (pairs,) both.

    `first`: the id of the block's first key. The pairs are in the order of their keys, which so are read from memory
    one behind the other; a block of queries stays in the cache.
    """
    local = ids.numpy().ravel() - np.int32(first)  # (n · k,): the key's number in the block
    places = np.flatnonzero(local.view(np.uint32) < keys)  # (pairs,); as unsigned, what is below 0 is large
    # Sort (key, place) pairs as one int64 each.
    ordered = np.left_shift(local[places], 32, dtype=np.int64)
    ordered |= places
    ordered.sort()
    places = ordered & 0xFFFFFFFF
    ordered >>= 32
    return torch.from_numpy(places), torch.from_numpy(ordered)


def gpu_pairs_in_block(ids: torch.Tensor, first: int, keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same pairs as `pairs_in_block`, by their places: a GPU does not gain by the order of the keys."""
    local = ids.view(-1) - first  # (n · k,)
    places = torch.nonzero((local >= 0) & (local < keys)).view(-1)  # (pairs,)
    return places, local[places].long()


def nprobe_search(
    index: faiss.Index, queries: np.ndarray, k: int, nprobes: list[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (nprobe, ids, similarities) for each of the ascending `nprobes`, as `index.search` would find them.

    On the CPU all together cost as much as the last alone: each query's lists are ranked once and visited in bands,
    from one nprobe to the next. On a GPU each is a search of its own. queries: float32 (n, width); ids: int32 (n, k),
    −1 for none; similarities: float32 (n, k), best first. The results share memory with the running result: use one
    before asking for the next. Raises ValueError if the `nprobes` do not ascend or exceed the index's lists.
    """
    is_l2, ivf = index.metric_type == faiss.METRIC_L2, ivf_of(index)
    blocks = list(slices(len(queries), QUERIES_AT_ONCE))
    on_cpu = isinstance(ivf, faiss.IndexIVF)
    if (on_cpu and nprobes[-1] > ivf.nlist) or any(low >= high for low, high in pairwise([0, *nprobes])):
        raise ValueError(f"nprobes {nprobes} do not ascend from at least 1 to at most those of the index")
    running = RunningNeighbours(len(queries), k)
    if not on_cpu:
        for nprobe in nprobes:
            parameters = faiss.SearchParametersIVF(nprobe=nprobe)
            for rows in progress(blocks, f"search of {nprobe} lists"):
                found = found_by(index, queries[rows], k, "l2" if is_l2 else "ip", running.ids.device, parameters)
                running.similarities[rows], running.ids[rows] = found
            yield nprobe, *running.snapshot()
        return
    queries = through(index, queries)
    ranked = (ivf.quantizer.search(queries[rows], nprobes[-1]) for rows in blocks)
    coarse, lists = (np.concatenate(parts) for parts in zip(*ranked, strict=True))  # (n, the last nprobe) each
    for low, high in pairwise([0, *nprobes]):
        ivf.nprobe = high - low
        for rows in progress(blocks, f"search of lists {low} to {high}"):
            scanned = ivf.search_preassigned(queries[rows], k, lists[rows, low:high], coarse[rows, low:high])
            scores, ids = (torch.from_numpy(found) for found in scanned)  # (rows, k) each
            running.merge(rows, (-scores if is_l2 else scores).masked_fill_(ids < 0, -torch.inf), ids.int())
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


def recoded_index(trained: faiss.Index, codes: int, sample: np.ndarray, seed: int, device: str = "cpu") -> faiss.Index:
    """Return an empty index with the lists of `trained` and product codes of `codes` bytes, trained on `sample`.

    `codes` must divide the width of a code; sample: float32 (rows, width). Only the code size differs from an index of
    `trained`'s factory, sample and seed. A transform stays as it is, and so does a graph of the centroids.
    """
    whole = faiss.clone_index(trained)
    lists = ivf_of(whole)
    index = faiss.IndexIVFPQ(lists.quantizer, lists.d, lists.nlist, codes, 8, lists.metric_type)
    index.referenced_objects = [whole]  # whose centroids it uses, as FAISS keeps those that are there
    if lists is not whole:
        index = faiss.IndexPreTransform(faiss.downcast_VectorTransform(whole.chain.at(0)), index)
    train_codes(index, sample, seed, gpu_place(device))
    return index
