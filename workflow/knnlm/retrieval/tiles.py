"""One tile of queries against one block of keys: the arithmetic of exact search."""

from dataclasses import dataclass

import faiss
import torch

from knnlm.retrieval.blocks import PAIRS_GATHERED, PLACES, TILE_KEYS, WIDER, slices
from knnlm.retrieval.bounds import Centres, key_factors, product_dtype, query_factors, wanted_places
from knnlm.retrieval.top_k import RunningNeighbours, packed

NONE = int(packed(torch.tensor(-torch.inf), torch.tensor(-1, dtype=torch.int32)))  # no candidate


@dataclass(frozen=True)
class Block:
    """Keys, float32 (m, width), their global ids, int32 (m,), and their factors (`knnlm.retrieval.bounds`)."""

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
    """Candidates of one tile of queries that beat their query's threshold, kept until a merge is worth it."""

    def __init__(self, running: RunningNeighbours, rows: slice):
        """Begin with none; `rows` are the queries' rows of the running result."""
        self.running, self.rows, device = running, rows, running.ids.device
        self.count = torch.zeros(rows.stop - rows.start, dtype=torch.int64, device=device)
        self.candidates = torch.full((len(self.count), PLACES), NONE, device=device)

    def add(self, row: torch.Tensor, count: torch.Tensor, similarities: torch.Tensor, ids: torch.Tensor) -> None:
        """Append candidates, sorted by their query `row`; `count` says how many each query gets, no more than fit."""
        begin = torch.arange(len(count), device=row.device) * PLACES + self.count - (count.cumsum(0) - count)
        place = begin[row] + torch.arange(len(row), device=row.device)  # (candidates,)
        self.candidates.view(-1)[place] = packed(similarities, ids)
        self.count += count

    def flush(self) -> None:
        """Merge what waits."""
        used = int(self.count.max())
        self.running.merge_packed(self.rows, self.candidates[:, :used])
        self.candidates[:, :used] = NONE
        self.count.zero_()


def merge_all(
    running: RunningNeighbours, rows: slice, queries: torch.Tensor,
    keys: torch.Tensor, ids: torch.Tensor, most: int, metric: str,
) -> None:  # fmt: skip
    """Merge the nearest keys of a tile of queries, `most` for each, without a threshold.

    For the first keys of a store, and where the candidates of one query have no room to wait. queries: float32
    (n, width); keys: float32 (m, width); ids: int32 (m,).
    """
    bias = -torch.linalg.vecdot(keys, keys) if metric == "l2" else keys.new_zeros(len(keys))  # (m,)
    product = torch.addmm(bias, queries, keys.T, alpha=2 if metric == "l2" else 1)  # (n, m)
    column = product.topk(min(most, len(keys)), sorted=False).indices  # (n, most)
    row = torch.arange(len(queries), device=keys.device).repeat_interleave(column.shape[1])  # (n · most,)
    similarities = pair_similarities(queries, keys, row, column.view(-1), metric)
    running.merge(rows, similarities.view(column.shape), ids[column])


def merge_wanted(
    running: RunningNeighbours, rows: slice, queries: torch.Tensor, block: Block, threshold: torch.Tensor
) -> None:
    """Merge the keys of a block that are nearer to a tile of queries, (n, width), than a threshold, float32 (n,)."""
    products = torch.empty(len(queries) * TILE_KEYS, dtype=block.factors.dtype, device=queries.device)
    metric, waiting, ours = block.centre.metric, Waiting(running, rows), None
    for columns in slices(len(block.keys), TILE_KEYS):
        keys, ids, wide = block.keys[columns], block.ids[columns], columns.stop - columns.start
        # Bound − threshold of every pair, in low precision: (n, wide).
        if ours is None:
            ours = query_factors(queries, block.centre, threshold, block.longest, block.factors.dtype)
        product = products[: len(ours) * wide].view(len(ours), wide)
        places = wanted_places(torch.mm(ours, block.factors[columns].T, out=product))
        # True similarities of the pairs that are left: (pairs,).
        row = places // wide
        column = places - row * wide
        similarities = pair_similarities(queries, keys, row, column, metric)
        # The pairs that do beat the threshold, and how many of them each query has: (n,).
        nearer = (similarities > threshold[row]).nonzero().squeeze(1)
        row, column, similarities = row[nearer], column[nearer], similarities[nearer]
        count = torch.bincount(row, minlength=len(queries))
        full, too_many = int((waiting.count + count).max()) > PLACES, int(count.max()) > PLACES
        if full:
            waiting.flush()
        if too_many:
            merge_all(running, rows, queries, keys, ids, running.ids.shape[1], metric)
        else:
            waiting.add(row, count, similarities, ids[column])
        # After a merge the k-th neighbour may be nearer than the threshold: from then on it is the threshold.
        if full or too_many:
            threshold, ours = torch.maximum(threshold, running.similarities[rows, -1]), None
    waiting.flush()


def pair_similarities(
    queries: torch.Tensor, keys: torch.Tensor, row: torch.Tensor, column: torch.Tensor, metric: str
) -> torch.Tensor:
    """Return −‖q−k‖² or q·k, float32 (pairs,), of pairs of a query, float32 (n, width), and a key, float32 (m, width).

    row, column: their numbers, int64 (pairs,). This is what must differ between devices: on a CPU, FAISS reads the
    pairs where they are; on a GPU they are gathered.
    """
    if queries.device.type == "cpu":
        found = torch.empty(len(row))
        score = faiss.pairwise_indexed_L2sqr if metric == "l2" else faiss.pairwise_indexed_inner_product
        x, ix, y, iy, out = (faiss.swig_ptr(tensor.numpy()) for tensor in (queries, row, keys, column, found))
        score(keys.shape[1], len(row), x, ix, y, iy, out)
    else:
        found = queries.new_empty(len(row))
        for part in slices(len(row), PAIRS_GATHERED):
            q, k = queries[row[part]], keys[column[part]]  # (part, width) each
            found[part] = (q - k).square().sum(1) if metric == "l2" else torch.linalg.vecdot(q, k)
    return -found if metric == "l2" else found
