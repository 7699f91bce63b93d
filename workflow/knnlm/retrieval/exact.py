"""The true nearest neighbours of every query, for every fraction of the store in one pass.

Rows stand in random order (`knnlm.datastore.shuffle`), so the rows seen so far tell how near the k-th neighbour in a
whole fraction will be. Keys that are not as near are discarded from the beginning, most of them by products of low
precision (`knnlm.retrieval.bounds`). If too many were discarded for a query, it is searched again.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import faiss
import numpy as np
import torch

from knnlm.datastore.shuffle import prefix_rows
from knnlm.datastore.store import Datastore
from knnlm.retrieval.blocks import BLOCK_KEYS, FIRST_KEYS, MOST_GROWTH, QUERIES_AT_ONCE, TILE_QUERIES, slices
from knnlm.retrieval.bounds import Centres, centres
from knnlm.retrieval.tiles import Block, merge_all, merge_wanted
from knnlm.retrieval.top_k import RunningNeighbours, Snapshot
from knnlm.running.progress import progress
from knnlm.storage.arrays import Rows

# By which a threshold lies below the k-th neighbour expected: one query in some 10,000 is searched again.
DEVIATIONS = 4


def exact_search(
    queries: np.ndarray, store: Datastore, h: str, metric: str, k: int, fractions: list[float], device: str
) -> Iterator[Snapshot]:
    """Yield (fraction, ids, similarities) of the true k nearest rows for each of the ascending fractions.

    queries: float32 (n, width). ids: int32 (n, k); similarities: float32 (n, k), −‖q−k‖² for `l2` and q·k for `ip`
    (docs/paper.md#knn-lm), compared in float32. The snapshots share memory with the running result: use one before
    asking for the next. Memory: the queries, the result, one block of keys in float32 and as factors, and one tile for
    each thread, whatever the size of the store. Raises KnnlmError, naming the file, if the keys turn out damaged:
    before the last snapshot.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # which the bound does not allow for
    with store.keys_in_order(h) as stored:
        label = f"exact search {h} {metric}"
        for fraction, *found in _search(queries, store, stored, metric, k, fractions, device, label):
            if fraction == fractions[-1]:
                for keys in stored:
                    keys.check.finish()
            yield fraction, *found


def _search(
    queries: np.ndarray, store: Datastore, stored: list[Rows], metric: str, k: int, fractions: list[float],
    device: str, label: str, certain: bool = False,
) -> Iterator[Snapshot]:  # fmt: skip
    """Search as `exact_search` does; if `certain`, discard a key only if k others are as near."""
    points, centre = torch.from_numpy(queries).to(device), None  # (n, width)
    running = RunningNeighbours(len(points), k, device)
    thresholds = torch.full((len(points),), -torch.inf, device=device)  # below which rows may be missing
    blocks = [block for low, high in pairwise([0.0, *fractions]) for block in _band_blocks(store, low, high)]
    with side_by_side(device) as every:
        for number, (low, high, fraction) in enumerate(progress(blocks, label)):
            keys, ids = (torch.from_numpy(array).to(device) for array in _rows_between(store, stored, low, high))
            keys = keys.float()  # the float16 block goes
            if len(keys) and len(points):
                centre = centre or centres(keys, points, metric)
                seen, after, end = (store.rows_below(part) for part in (low, high, fraction))
                ranks = [k if certain else likely_rank(k, rows, end) for rows in (seen, after)]
                _search_block(running, thresholds, points, keys, ids, seen, ranks, centre, every)
            del keys, ids  # before the next block is read
            if number + 1 == len(blocks) or blocks[number + 1][2] != fraction:  # the last block of a fraction
                # Rows between the k-th neighbour found and the threshold were discarded: search those queries again.
                again = (running.similarities[:, -1] < thresholds).nonzero().squeeze(1)
                if len(again):
                    few = queries[again.cpu().numpy()]
                    ((_, *found),) = _search(few, store, stored, metric, k, [fraction], device, label, certain=True)
                    better = (torch.from_numpy(part).to(device) for part in found)
                    running.ids[again], running.similarities[again] = better
                thresholds.fill_(-torch.inf)
                yield fraction, *running.snapshot()


def likely_rank(k: int, rows: int, end: int) -> int:
    """Return the rank among `rows` whose similarity at least k rows will likely reach when `end` rows are seen.

    Rows stand in random order: with g = end/rows, about r·g rows reach the r-th best of those seen, with variance
    r·(g − 1)·g. So the rank is the least r for which r·g lies DEVIATIONS standard deviations above k, at most k.
    """
    if rows == 0:
        return k
    growth = end / rows
    spread = DEVIATIONS * math.sqrt(growth * (growth - 1))
    return min(k, math.ceil(((spread + math.sqrt(spread * spread + 4 * growth * k)) / (2 * growth)) ** 2))


def _search_block(
    running: RunningNeighbours, thresholds: torch.Tensor, points: torch.Tensor, keys: torch.Tensor, ids: torch.Tensor,
    seen: int, ranks: list[int], centre: Centres, every: Callable,
) -> None:  # fmt: skip
    """Merge the keys of a block that may be wanted, and keep each query's threshold, float32 (n,).

    Up to its threshold, rows may be missing from the result. It is the similarity of the neighbour of a rank: of the
    rank before the block, if so many rows were `seen`, else of that after it.
    """
    before, after = ranks
    block = Block.of(keys, ids, centre) if seen >= before else None

    def merge(rows: slice) -> None:
        if block:
            thresholds[rows] = torch.maximum(thresholds[rows], running.similarities[rows, before - 1])
            merge_wanted(running, rows, points[rows], block, thresholds[rows])
        else:
            merge_all(running, rows, points[rows], keys, ids, after, centre.metric)
            thresholds[rows] = running.similarities[rows, after - 1]

    every(merge, list(slices(len(points), tile_queries(torch.get_num_threads()))))


def tile_queries(threads: int) -> int:
    """Return the queries of a tile, so that there are tiles for so many threads.

    A search by blocks has the tiles of an undivided one, and so rounds as it does.
    """
    return min(TILE_QUERIES, 2 ** int(math.log2(max(1, QUERIES_AT_ONCE // threads))))


@contextmanager
def side_by_side(device: str) -> Iterator[Callable]:
    """Yield a function that calls another on every item of a list: on a CPU on as many at once as there are threads.

    Each call has one thread of its own. Tiles of queries share nothing that they write, and a step of one that knows no
    threads, such as reading signs, keeps no core waiting.
    """
    threads = torch.get_num_threads()

    def one_thread_each() -> None:
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)

    def every(function: Callable, items: list) -> list:
        held = [function]  # a worker keeps its arguments a little too long: not the arrays behind the function
        found = list(pool.map(lambda item: held[0](item), items))
        held.clear()
        return found

    with ThreadPoolExecutor(threads if device == "cpu" else 1, initializer=one_thread_each) as pool:
        try:
            yield every
        finally:
            torch.set_num_threads(threads)  # one thread's setting is the default of others


def _band_blocks(store: Datastore, low: float, high: float) -> Iterator[tuple[float, float, float]]:
    """Divide the band between two fractions into blocks (from, to, high).

    They have as many rows as FIRST_KEYS, MOST_GROWTH and BLOCK_KEYS allow. Each is the same share of every chunk, and
    so a sample of the whole store.
    """
    while low < high:
        seen = store.rows_below(low)
        most = min(BLOCK_KEYS, max(FIRST_KEYS, (MOST_GROWTH - 1) * seen))
        end = low + most / store.rows if store.rows_below(high) - seen > most else high
        yield low, end, high
        low = end


def _rows_between(store: Datastore, stored: list[Rows], low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return keys, float16 (rows, width), and ids, int32 (rows,), of the rows between two fractions of every chunk."""
    keys, ids = [], []
    for chunk, of_chunk in zip(store.chunks, stored, strict=True):
        begin, end = (prefix_rows(fraction, chunk.rows) for fraction in (low, high))
        keys.append(of_chunk[begin:end])
        ids.append(np.arange(chunk.first_position + begin, chunk.first_position + end, dtype=np.int32))
    return np.concatenate(keys), np.concatenate(ids)
