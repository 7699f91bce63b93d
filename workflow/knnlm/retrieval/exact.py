"""The true nearest neighbours of every query, for every fraction of the store in one pass.

Rows are shuffled within chunks, so the rows seen so far tell how near the k-th neighbour in a whole fraction will be: what is not as near is turned away
from the beginning, most of it by products of low precision, and a query for which that was too much is searched again.
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

from knnlm.datastore.store import Datastore, prefix_rows
from knnlm.retrieval.approximate import Snapshot
from knnlm.retrieval.bounds import WIDER, Centres, centres, key_factors, product_dtype, query_factors, wanted_places
from knnlm.retrieval.query_blocks import QUERIES_AT_ONCE, slices
from knnlm.retrieval.running_neighbours import RunningNeighbours, packed
from knnlm.running.progress import progress

BLOCK_KEYS = 262144  # the most keys that are in memory
FIRST_KEYS = 4096  # compared with every query, so that there is a threshold
MOST_GROWTH = 6  # of the rows seen, by one block of keys: until its end the thresholds stay as they are
DEVIATIONS = 4  # by which a threshold lies below what is expected of the k-th neighbour: one query in some ten thousand is searched again
TILE_QUERIES, TILE_KEYS = 1024, 4096  # of one matrix product, whose 8 or 16 MiB stay in the cache of a CPU
PLACES = 2048  # candidates of each query that wait to be merged
PAIRS_GATHERED = 1048576  # of a query and a key, at once on a GPU
NONE = int(packed(torch.tensor(-torch.inf), torch.tensor(-1, dtype=torch.int32)))  # no candidate


def exact_search(
    queries: np.ndarray,
    store: Datastore,
    h: str,
    metric: str,
    k: int,
    fractions: list[float],
    device: str,
    certain: bool = False,
) -> Iterator[Snapshot]:
    """Yield (fraction, ids, similarities) of the true k nearest rows for each of the ascending fractions.

    queries: float32 (n, width). Similarities are −‖q−k‖² for `l2` and q·k for `ip` (spec §4.1). Most rows are turned away by products of low precision
    (`knnlm.retrieval.bounds`), all others are compared in float32. Where `certain`, a row is turned away only if it is no nearer than k others.
    The snapshots share memory with the running result: use one before asking for the next. Memory: the queries, the result, one block of keys in float32
    and as factors, and one tile for each thread, whatever the size of the store.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # which the bound does not allow for
    points, centre = torch.from_numpy(queries).to(device), None
    running, thresholds = (
        RunningNeighbours(len(points), k, device),
        torch.full((len(points),), -torch.inf, device=device),
    )
    blocks = [block for low, high in pairwise([0.0, *fractions]) for block in _band_blocks(store, low, high)]
    with side_by_side(device) as every:
        for number, (low, high, fraction) in enumerate(progress(blocks, f"exact search {h} {metric}")):
            keys, ids = (torch.from_numpy(array).to(device) for array in _rows_between(store, h, low, high))
            keys = keys.float()  # the float16 block goes
            if len(keys) and len(points):
                centre = centre or centres(keys, points, metric)
                seen, after, end = (_rows_below(store, part) for part in (low, high, fraction))
                ranks = [k if certain else likely_rank(k, rows, end) for rows in (seen, after)]
                _search_block(running, thresholds, points, keys, ids, seen, ranks, centre, every)
            del keys, ids  # before the next block is read
            if number + 1 == len(blocks) or blocks[number + 1][2] != fraction:
                again = (
                    (running.similarities[:, -1] < thresholds).nonzero().squeeze(1)
                )  # rows between the two were turned away
                if len(again):
                    ((_, *found),) = exact_search(
                        queries[again.cpu().numpy()], store, h, metric, k, [fraction], device, certain=True
                    )
                    running.ids[again], running.similarities[again] = (
                        torch.from_numpy(array).to(device) for array in found
                    )
                thresholds.fill_(-torch.inf)
                yield fraction, *running.snapshot()


def likely_rank(k: int, rows: int, end: int) -> int:
    """Return the rank among `rows` of a store whose similarity, when `end` rows are seen, at least k of them are expected to reach.

    Rows stand in random order: with g = end/rows, the r-th best of those seen is reached by r·g in the end, with variance r·(g − 1)·g about. So the rank is
    the least r for which r·g is DEVIATIONS of its standard deviations above k, and k where there is none below.
    """
    if rows == 0:
        return k
    growth = end / rows
    spread = DEVIATIONS * math.sqrt(growth * (growth - 1))
    return min(k, math.ceil(((spread + math.sqrt(spread * spread + 4 * growth * k)) / (2 * growth)) ** 2))


def _search_block(
    running: RunningNeighbours,
    thresholds: torch.Tensor,
    points: torch.Tensor,
    keys: torch.Tensor,
    ids: torch.Tensor,
    seen: int,
    ranks: list[int],
    centre: Centres,
    every: Callable,
) -> None:
    """Merge what may be wanted of a block of keys, and keep for each query the threshold, float32 (n,), up to which rows may be missing.

    A threshold is the similarity of the neighbour of a rank: that before the block, where so many rows are `seen`, else that after it.
    """
    before, after = ranks
    block = Block.of(keys, ids, centre) if seen >= before else None

    def merge(rows: slice) -> None:
        if block:
            thresholds[rows] = torch.maximum(thresholds[rows], running.similarities[rows, before - 1])
            _merge_wanted(running, rows, points[rows], block, thresholds[rows])
        else:
            _merge_all(running, rows, points[rows], keys, ids, after, centre.metric)
            thresholds[rows] = running.similarities[rows, after - 1]

    every(merge, list(slices(len(points), tile_queries(torch.get_num_threads()))))


def tile_queries(threads: int) -> int:
    """Return the queries of a tile, enough tiles for so many threads; a search by blocks has the tiles of an undivided one, and so rounds as it does."""
    return min(TILE_QUERIES, 2 ** int(math.log2(max(1, QUERIES_AT_ONCE // threads))))


@contextmanager
def side_by_side(device: str) -> Iterator[Callable]:
    """Give a function that calls another on every item of a list, on a CPU as many at once as there are threads, each with one thread of its own.

    Tiles of queries share nothing that they write; a step of one that has no threads, such as reading signs, then keeps no core waiting.
    """
    threads = torch.get_num_threads()

    def one_thread_each() -> None:
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)

    def every(function: Callable, items: list) -> list:
        held = [
            function
        ]  # a worker keeps what it was given a little longer than its result is waited for: not the arrays behind the function
        found = list(pool.map(lambda item: held[0](item), items))
        held.clear()
        return found

    with ThreadPoolExecutor(threads if device == "cpu" else 1, initializer=one_thread_each) as pool:
        try:
            yield every
        finally:
            torch.set_num_threads(threads)  # one thread's setting is the default of others


@dataclass(frozen=True)
class Block:
    """Keys, float32 (m, width), their global ids, int32 (m,), and their factors: see `knnlm.retrieval.bounds`."""

    keys: torch.Tensor
    ids: torch.Tensor
    factors: torch.Tensor
    centre: Centres
    longest: float

    @classmethod
    def of(cls, keys: torch.Tensor, ids: torch.Tensor, centre: Centres) -> "Block":
        """Make the factors, a tile of keys at a time."""
        dtype = product_dtype(keys.device.type)
        factors = torch.empty(len(keys), keys.shape[1] + WIDER, dtype=dtype, device=keys.device)
        for columns in slices(len(keys), TILE_KEYS):
            factors[columns] = key_factors(keys[columns], centre, dtype)
        return cls(keys, ids, factors, centre, float(torch.linalg.vector_norm(keys, dim=1).max()))


class Waiting:
    """Candidates of one tile of queries that beat their query's threshold, kept until enough have come to be worth a merge."""

    def __init__(self, running: RunningNeighbours, rows: slice):
        """Begin with none; `rows` are the queries' rows of the running result."""
        self.running, self.rows, device = running, rows, running.ids.device
        self.count = torch.zeros(rows.stop - rows.start, dtype=torch.int64, device=device)
        self.candidates = torch.full((len(self.count), PLACES), NONE, device=device)

    def add(self, row: torch.Tensor, count: torch.Tensor, similarities: torch.Tensor, ids: torch.Tensor) -> None:
        """Append candidates, sorted by their query `row`; `count` says how many each query gets, no more than there is room for."""
        begin = torch.arange(len(count), device=row.device) * PLACES + self.count - (count.cumsum(0) - count)
        place = begin[row] + torch.arange(len(row), device=row.device)
        self.candidates.view(-1)[place] = packed(similarities, ids)
        self.count += count

    def flush(self) -> None:
        """Merge what waits."""
        used = int(self.count.max())
        self.running.merge_packed(self.rows, self.candidates[:, :used])
        self.candidates[:, :used] = NONE
        self.count.zero_()


def _merge_all(
    running: RunningNeighbours,
    rows: slice,
    queries: torch.Tensor,
    keys: torch.Tensor,
    ids: torch.Tensor,
    most: int,
    metric: str,
) -> None:
    """Merge the nearest keys of a tile of queries, `most` for each, without a threshold: of the first keys, or where all that wait have no room."""
    bias = -torch.linalg.vecdot(keys, keys) if metric == "l2" else keys.new_zeros(len(keys))
    product = torch.addmm(bias, queries, keys.T, alpha=2 if metric == "l2" else 1)
    column = product.topk(min(most, len(keys)), sorted=False).indices
    row = torch.arange(len(queries), device=keys.device).repeat_interleave(column.shape[1])
    similarities = pair_similarities(queries, keys, row, column.view(-1), metric)
    running.merge(rows, similarities.view(column.shape), ids[column])


def _merge_wanted(
    running: RunningNeighbours, rows: slice, queries: torch.Tensor, block: Block, threshold: torch.Tensor
) -> None:
    """Merge the keys of a block that are nearer to a tile of queries than a threshold, float32 (n,)."""
    products = torch.empty(len(queries) * TILE_KEYS, dtype=block.factors.dtype, device=queries.device)
    metric, waiting, ours = block.centre.metric, Waiting(running, rows), None
    for columns in slices(len(block.keys), TILE_KEYS):
        keys, ids, wide = block.keys[columns], block.ids[columns], columns.stop - columns.start
        if ours is None:
            ours = query_factors(queries, block.centre, threshold, block.longest, block.factors.dtype)
        places = wanted_places(
            torch.mm(ours, block.factors[columns].T, out=products[: len(ours) * wide].view(len(ours), wide))
        )
        row = places // wide
        column = places - row * wide
        similarities = pair_similarities(queries, keys, row, column, metric)
        nearer = (similarities > threshold[row]).nonzero().squeeze(1)
        row, column, similarities = row[nearer], column[nearer], similarities[nearer]
        count = torch.bincount(row, minlength=len(queries))
        full, too_many = int((waiting.count + count).max()) > PLACES, int(count.max()) > PLACES
        if full:
            waiting.flush()
        if too_many:
            _merge_all(running, rows, queries, keys, ids, running.ids.shape[1], metric)
        else:
            waiting.add(row, count, similarities, ids[column])
        if full or too_many:
            threshold, ours = torch.maximum(threshold, running.similarities[rows, -1]), None
    waiting.flush()


def pair_similarities(
    queries: torch.Tensor, keys: torch.Tensor, row: torch.Tensor, column: torch.Tensor, metric: str
) -> torch.Tensor:
    """Return −‖q−k‖² or q·k, float32 (pairs,), of pairs of a query, float32 (n, width), and a key, float32 (m, width), by their numbers, int64 (pairs,).

    This is what must differ between devices: on a CPU FAISS reads the pairs where they are, on a GPU they are gathered.
    """
    if queries.device.type == "cpu":
        found = torch.empty(len(row))
        score = faiss.pairwise_indexed_L2sqr if metric == "l2" else faiss.pairwise_indexed_inner_product
        x, ix, y, iy, out = (faiss.swig_ptr(tensor.numpy()) for tensor in (queries, row, keys, column, found))
        score(keys.shape[1], len(row), x, ix, y, iy, out)
    else:
        pairs = [(queries[row[part]], keys[column[part]]) for part in slices(len(row), PAIRS_GATHERED)]
        found = torch.cat(
            [(q - k).square().sum(1) if metric == "l2" else torch.linalg.vecdot(q, k) for q, k in pairs]
            or [queries.new_empty(0)]
        )
    return -found if metric == "l2" else found


def _rows_below(store: Datastore, fraction: float) -> int:
    return sum(prefix_rows(fraction, chunk.rows) for chunk in store.chunks)


def _band_blocks(store: Datastore, low: float, high: float) -> Iterator[tuple[float, float, float]]:
    """Divide the band between two fractions into blocks (from, to, high) of as many rows as FIRST_KEYS, MOST_GROWTH and BLOCK_KEYS allow.

    Each is the same share of every chunk, and so a sample of the whole store.
    """
    while low < high:
        seen = _rows_below(store, low)
        most = min(BLOCK_KEYS, max(FIRST_KEYS, (MOST_GROWTH - 1) * seen))
        end = low + most / store.rows if _rows_below(store, high) - seen > most else high
        yield low, end, high
        low = end


def _rows_between(store: Datastore, h: str, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return keys, float16 (rows, width), and global ids, int32, of the rows between two fractions of every chunk."""
    spans = [(chunk, prefix_rows(low, chunk.rows), prefix_rows(high, chunk.rows)) for chunk in store.chunks]
    keys = np.concatenate([chunk.keys_of(h)[begin:end] for chunk, begin, end in spans])
    return keys, np.concatenate(
        [
            np.arange(chunk.first_position + begin, chunk.first_position + end, dtype=np.int32)
            for chunk, begin, end in spans
        ]
    )
