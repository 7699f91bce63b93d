"""Blocks: how many queries and keys a search takes at once, and how one search is divided among jobs.

Imports nothing heavy: the cost of a job is computed from these numbers too.
"""

import math
from collections.abc import Iterator

QUERIES_AT_ONCE = 8192  # that meet in one matrix product, whose rounding depends on what stands in it
BLOCK_KEYS = 262144  # the most keys that exact search has in memory
FIRST_KEYS = 4096  # that it compares with every query, so that there is a threshold
MOST_GROWTH = 6  # of the rows it has seen, by one block of keys: thresholds stay as they are until its end
TILE_QUERIES, TILE_KEYS = 1024, 4096  # of one of its matrix products, whose 8 or 16 MiB stay in the cache of a CPU
PLACES = 2048  # candidates of each query that wait to be merged
PAIRS_GATHERED = 1048576  # pairs of a query and a key that a GPU gathers at once
WIDER = 8  # columns that a key's factor has beside those of the key (`knnlm.retrieval.bounds`)
KEYS_AT_ONCE = 524288  # keys, in float32, whose real scores are computed together


def slices(length: int, step: int) -> Iterator[slice]:
    """Yield consecutive slices of `step` rows, the last one shorter, that make up `length` rows."""
    for begin in range(0, length, step):
        yield slice(begin, min(begin + step, length))


def block_edges(queries: int, blocks: int) -> list[int]:
    """Return where blocks of queries begin and end, blocks + 1 ascending numbers.

    All but the last are multiples of QUERIES_AT_ONCE: so the same queries meet in a matrix product, and the neighbours
    are the same to the last bit, whatever the number of blocks. Of more blocks than that allows, some are empty.
    """
    together = math.ceil(queries / QUERIES_AT_ONCE)
    return [min(together * block // blocks * QUERIES_AT_ONCE, queries) for block in range(blocks + 1)]


def rows_of_splits(sizes: dict[str, int], block: int, blocks: int) -> dict[str, slice]:
    """Return which rows of each split belong to a block; the splits, of `sizes` queries, stand one behind the other."""
    edges = block_edges(sum(sizes.values()), blocks)
    found, first = {}, 0
    for split, size in sizes.items():
        begin, end = (min(max(edge - first, 0), size) for edge in edges[block : block + 2])
        found[split], first = slice(begin, end), first + size
    return found
