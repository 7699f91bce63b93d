"""Why a part of the datastore is a random sample of it: the rows of every chunk stand in random order.

So the first f·n rows of every chunk are a uniform sample of fraction f, and one pass over the store, from one fraction
to the next, serves every size of it; the paper draws a random part for each (docs/paper.md#datastore).
"""

import math

import numpy as np


def shuffled_order(rows: int, seed: int, chunk: int) -> np.ndarray:
    """Return the random order of a chunk's rows, int64 (rows,): row i of the chunk is state order[i] of the text."""
    return np.random.default_rng([seed, chunk]).permutation(rows)


def prefix_rows(fraction: float, rows: int) -> int:
    """Return how many rows of a chunk, the first ones, belong to a store of this fraction; rounded down."""
    return math.floor(fraction * rows + 1e-9)
