"""Nearest neighbours of every query, exact or approximate, for every fraction of the store in one pass.

Rows are shuffled within chunks, so the store of fraction f is a prefix of every chunk. Both searches walk the store in bands, from one fraction to
the next, keep a running top k, and hand out a snapshot at each fraction: no row is compared twice.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import faiss
import numpy as np
import torch

from knnlm.certificates import WIDER, Centres, centres, key_factors, product_dtype, query_factors, wanted_places
from knnlm.datastore import Datastore, prefix_rows
from knnlm.index import join_indexes
from knnlm.progress import progress
from knnlm.query_blocks import QUERIES_AT_ONCE

KEYS_AT_ONCE = 524288
FIRST_KEYS = 16384  # compared with every query, so that there is a threshold
TILE_QUERIES, TILE_KEYS = 512, 8192  # one matrix product of exact search; its 8 or 16 MiB stay in the cache of a CPU
PLACES = 1024  # candidates of each query that wait to be merged
PAIRS_GATHERED = 1048576  # of a query and a key, at once on a GPU
Snapshot = tuple[float, np.ndarray, np.ndarray]


class RunningNeighbours:
    """The k best rows so far for each of n queries: ids int32 (n, k), similarities float32 (n, k); id −1 where there are fewer."""

    def __init__(self, queries: int, k: int, device: str = "cpu"):
        """Begin with no neighbours at all."""
        self.ids = torch.full((queries, k), -1, dtype=torch.int32, device=device)
        self.similarities = torch.full((queries, k), -torch.inf, device=device)

    def merge(self, rows: slice, similarities: torch.Tensor, ids: torch.Tensor, best_first: bool = True) -> None:
        """Merge candidates of the queries `rows`: float32 and int32 (len, m), in any order; −inf and −1 where there are fewer than m.

        Sorting takes longer than selecting: what will be merged again need not stand best first.
        """
        both = torch.cat([self.similarities[rows], similarities], 1)
        self.similarities[rows], order = both.topk(self.ids.shape[1], sorted=best_first)
        self.ids[rows] = torch.cat([self.ids[rows], ids], 1).gather(1, order)

    def put_in_order(self, rows: slice) -> None:
        """Put the neighbours of some queries best first, as `merge` does where it is not told otherwise."""
        self.similarities[rows], order = self.similarities[rows].sort(descending=True)
        self.ids[rows] = self.ids[rows].gather(1, order)

    def snapshot(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and similarities as they are now; on a CPU they share memory with the running result."""
        return self.ids.cpu().numpy(), self.similarities.cpu().numpy()


class Waiting:
    """Candidates of one tile of queries that beat their query's k-th best row, kept until enough have come to be worth a merge."""

    def __init__(self, running: RunningNeighbours, rows: slice):
        """Begin with none; `rows` are the queries' rows of the running result."""
        self.running, self.rows = running, rows
        self.count = torch.zeros(rows.stop - rows.start, dtype=torch.int64, device=running.ids.device)
        self.similarities = torch.full((len(self.count), PLACES), -torch.inf, device=running.ids.device)
        self.ids = torch.full((len(self.count), PLACES), -1, dtype=torch.int32, device=running.ids.device)

    def add(self, row: torch.Tensor, count: torch.Tensor, similarities: torch.Tensor, ids: torch.Tensor) -> None:
        """Append candidates, sorted by their query `row`; `count` says how many each query gets, no more than there is room for."""
        begin = torch.arange(len(count), device=row.device) * PLACES + self.count - (count.cumsum(0) - count)
        place = begin[row] + torch.arange(len(row), device=row.device)
        self.similarities.view(-1)[place] = similarities
        self.ids.view(-1)[place] = ids
        self.count += count

    def flush(self) -> None:
        """Merge what waits."""
        used = int(self.count.max())
        self.running.merge(self.rows, self.similarities[:, :used], self.ids[:, :used], best_first=False)
        self.similarities[:, :used], self.ids[:, :used] = -torch.inf, -1
        self.count.zero_()


def exact_search(queries: np.ndarray, store: Datastore, h: str, metric: str, k: int, fractions: list[float], device: str) -> Iterator[Snapshot]:
    """Yield (fraction, ids, similarities) of the true k nearest rows for each of the ascending fractions.

    queries: float32 (n, width). Similarities are −‖q−k‖² for `l2` and q·k for `ip` (spec §4.1). Most rows are turned away for certain by products of low
    precision (`knnlm.certificates`); all others are compared in float32. The snapshots share memory with the running result: use one before asking for
    the next. Memory: the queries, the result, one block of keys in float32 and as factors, and one tile, whatever the size of the store.
    """
    torch.set_float32_matmul_precision("highest")
    points, dtype = torch.from_numpy(queries).to(device), product_dtype(device)
    running, centre = RunningNeighbours(len(queries), k, device), None
    blocks = [block for low, high in pairwise([0.0, *fractions]) for block in _band_blocks(store, low, high)]
    with side_by_side(device) as every:
        for number, (low, high, fraction) in enumerate(progress(blocks, f"exact search {h} {metric}")):
            keys, ids = (torch.from_numpy(array).to(device) for array in _rows_between(store, h, low, high))
            keys = keys.float()  # the float16 block goes
            centre = centre or (centres(keys, points, metric) if len(keys) else None)
            if centre and len(points):
                _search_block(running, points, keys, ids, centre, dtype, every)
            del keys, ids  # before the next block is read
            if number + 1 == len(blocks) or blocks[number + 1][2] != fraction:
                every(running.put_in_order, list(_slices(len(queries), TILE_QUERIES)))
                yield fraction, *running.snapshot()


def _search_block(
    running: RunningNeighbours, points: torch.Tensor, keys: torch.Tensor, ids: torch.Tensor, centre: Centres, dtype: torch.dtype, every: Callable
) -> None:
    """Merge a block of keys, the first ones without a threshold where there are fewer than k neighbours so far."""
    tiles = list(_slices(len(points), TILE_QUERIES))
    first = min(max(running.ids.shape[1], FIRST_KEYS), len(keys)) if (running.ids < 0).any() else 0
    if first:
        every(lambda rows: _merge_all(running, rows, points[rows], keys[:first], ids[:first], centre.metric), tiles)
    if first < len(keys):
        block = Block.of(keys[first:], ids[first:], centre, dtype)
        every(lambda rows: _merge_wanted(running, rows, points[rows], block), tiles)


@contextmanager
def side_by_side(device: str) -> Iterator[Callable]:
    """Give a function that calls another on every item of a list, on a CPU as many at once as there are threads, each with one thread of its own.

    Tiles of queries share nothing that they write; a step of one that has no threads, such as reading signs, then keeps no core waiting.
    """
    threads = torch.get_num_threads()

    def one_thread_each() -> None:
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)

    with ThreadPoolExecutor(threads if device == "cpu" else 1, initializer=one_thread_each) as pool:
        try:
            yield lambda function, items: list(pool.map(function, items))
        finally:
            torch.set_num_threads(threads)  # one thread's setting is the default of others


@dataclass(frozen=True)
class Block:
    """Keys, float32 (m, width), their global ids, int32 (m,), and their factors: see `knnlm.certificates`."""

    keys: torch.Tensor
    ids: torch.Tensor
    factors: torch.Tensor
    centre: Centres
    longest: float

    @classmethod
    def of(cls, keys: torch.Tensor, ids: torch.Tensor, centre: Centres, dtype: torch.dtype) -> "Block":
        """Make the factors, a tile of keys at a time."""
        factors = torch.empty(len(keys), keys.shape[1] + WIDER, dtype=dtype, device=keys.device)
        for columns in _slices(len(keys), TILE_KEYS):
            factors[columns] = key_factors(keys[columns], centre, dtype)
        return cls(keys, ids, factors, centre, float(torch.linalg.vector_norm(keys, dim=1).max()))


def _merge_all(running: RunningNeighbours, rows: slice, queries: torch.Tensor, keys: torch.Tensor, ids: torch.Tensor, metric: str) -> None:
    """Merge the nearest of some keys to a tile of queries without a threshold: the first keys, or those that are nearer than all before."""
    bias = -torch.linalg.vecdot(keys, keys) if metric == "l2" else keys.new_zeros(len(keys))
    product = torch.addmm(bias, queries, keys.T, alpha=2 if metric == "l2" else 1)
    column = product.topk(min(running.ids.shape[1], len(keys)), sorted=False).indices
    row = torch.arange(len(queries), device=keys.device).repeat_interleave(column.shape[1])
    similarities = pair_similarities(queries, keys, row, column.view(-1), metric)
    running.merge(rows, similarities.view(column.shape), ids[column], best_first=False)


def _merge_wanted(running: RunningNeighbours, rows: slice, queries: torch.Tensor, block: Block) -> None:
    """Merge the keys of a block that are nearer to a tile of queries than the k neighbours that each of these has by now."""
    products = torch.empty(len(queries) * TILE_KEYS, dtype=block.factors.dtype, device=queries.device)
    metric, waiting, ours = block.centre.metric, Waiting(running, rows), None
    for columns in _slices(len(block.keys), TILE_KEYS):
        keys, ids, wide = block.keys[columns], block.ids[columns], columns.stop - columns.start
        if ours is None:
            worst = running.similarities[rows].amin(1)
            ours = query_factors(queries, block.centre, worst, block.longest, block.factors.dtype)
        places = wanted_places(torch.mm(ours, block.factors[columns].T, out=products[: len(ours) * wide].view(len(ours), wide)))
        row = places // wide
        column = places - row * wide
        similarities = pair_similarities(queries, keys, row, column, metric)
        nearer = similarities > worst[row]
        row, column, similarities = row[nearer], column[nearer], similarities[nearer]
        count = torch.bincount(row, minlength=len(queries))
        if int((waiting.count + count).max()) > PLACES:
            waiting.flush()
            ours = None  # the thresholds are higher now
        if int(count.max()) > PLACES:
            _merge_all(running, rows, queries, keys, ids, metric)
            ours = None
        else:
            waiting.add(row, count, similarities, ids[column])
    waiting.flush()


def pair_similarities(queries: torch.Tensor, keys: torch.Tensor, row: torch.Tensor, column: torch.Tensor, metric: str) -> torch.Tensor:
    """Return −‖q−k‖² or q·k, float32 (pairs,), of pairs of a query, float32 (n, width), and a key, float32 (m, width), by their numbers, int64 (pairs,).

    This is what must differ between devices: on a CPU FAISS reads the pairs where they are, on a GPU they are gathered.
    """
    if queries.device.type == "cpu":
        found = torch.empty(len(row))
        score = faiss.pairwise_indexed_L2sqr if metric == "l2" else faiss.pairwise_indexed_inner_product
        x, ix, y, iy, out = (faiss.swig_ptr(tensor.numpy()) for tensor in (queries, row, keys, column, found))
        score(keys.shape[1], len(row), x, ix, y, iy, out)
    else:
        pairs = [(queries[row[part]], keys[column[part]]) for part in _slices(len(row), PAIRS_GATHERED)]
        found = torch.cat([(q - k).square().sum(1) if metric == "l2" else torch.linalg.vecdot(q, k) for q, k in pairs] or [queries.new_empty(0)])
    return -found if metric == "l2" else found


def approximate_search(
    queries: np.ndarray, store: Datastore, trained: faiss.Index, filled: list[faiss.Index], nprobe: int, k: int, fractions: list[float], device: str
) -> Iterator[Snapshot]:
    """Yield (fraction, ids, similarities) as FAISS finds and scores them (*FAISS mask, FAISS score*), for each of the ascending fractions.

    `trained` is the empty index, `filled` its copies with the rows of each chunk. The quantisers are those of the full store at every fraction.
    """
    metric = "l2" if trained.metric_type == faiss.METRIC_L2 else "ip"
    running = RunningNeighbours(len(queries), k)
    for low, high in pairwise([0.0, *fractions]):
        index = _searchable(join_indexes(trained, filled, store.chunks, low, high), nprobe, device)
        for rows in progress(list(_slices(len(queries), QUERIES_AT_ONCE)), f"approximate search {metric}, up to {high:.0%} of the store"):
            scores, ids = (torch.from_numpy(array) for array in index.search(queries[rows], k))
            similarities = -scores if metric == "l2" else scores
            running.merge(rows, similarities.masked_fill_(ids < 0, -torch.inf), ids.int())
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


def _band_blocks(store: Datastore, low: float, high: float) -> list[tuple[float, float, float]]:
    """Divide the band between two fractions into blocks (from, to, high) of about KEYS_AT_ONCE rows, each the same share of every chunk.

    Every block is then a sample of the whole store, and the k-th best row so far soon turns almost all others away.
    """
    rows = sum(prefix_rows(high, chunk.rows) - prefix_rows(low, chunk.rows) for chunk in store.chunks)
    edges = np.linspace(low, high, max(1, math.ceil(rows / KEYS_AT_ONCE)) + 1).tolist()
    return [(begin, end, high) for begin, end in pairwise(edges)]


def _rows_between(store: Datastore, h: str, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return keys, float16 (rows, width), and global ids, int32, of the rows between two fractions of every chunk."""
    spans = [(chunk, prefix_rows(low, chunk.rows), prefix_rows(high, chunk.rows)) for chunk in store.chunks]
    keys = np.concatenate([chunk.keys_of(h)[begin:end] for chunk, begin, end in spans])
    return keys, np.concatenate([np.arange(chunk.first_position + begin, chunk.first_position + end, dtype=np.int32) for chunk, begin, end in spans])


def _searchable(index: faiss.Index, nprobe: int, device: str) -> faiss.Index:
    """Put an index on the device and set how many of its lists a query visits."""
    index.nprobe = nprobe
    return index if device == "cpu" else faiss.index_cpu_to_all_gpus(index)
