"""Blocks of queries: how one search of the store is divided among jobs, so that the neighbours are the same as those of one job, to the last bit."""

import math
from collections.abc import Iterator

QUERIES_AT_ONCE = 8192  # that a search takes together; the rounding of a matrix product depends on what stands in it


def block_edges(queries: int, blocks: int) -> list[int]:
    """Return where blocks of queries begin and end, blocks + 1 ascending numbers: whole multiples of QUERIES_AT_ONCE, and at the end what is left.

    So the same queries meet in a matrix product whatever the number of blocks. With more blocks than that allows some are empty.
    """
    together = math.ceil(queries / QUERIES_AT_ONCE)
    return [min(together * block // blocks * QUERIES_AT_ONCE, queries) for block in range(blocks + 1)]


def slices(length: int, step: int) -> Iterator[slice]:
    """Yield slices of `step` rows one behind the other, the last of what is left, that make up `length` rows."""
    for begin in range(0, length, step):
        yield slice(begin, min(begin + step, length))


def rows_of_splits(sizes: dict[str, int], block: int, blocks: int) -> dict[str, slice]:
    """Return which rows of each split belong to a block, the splits standing one behind the other; `sizes` are their numbers of queries."""
    edges = block_edges(sum(sizes.values()), blocks)
    found, first = {}, 0
    for split, size in sizes.items():
        begin, end = (min(max(edge - first, 0), size) for edge in edges[block : block + 2])
        found[split], first = slice(begin, end), first + size
    return found
