"""What a search would have found with other settings: more or fewer lists, other codes, fewer neighbours, a store padded with zero rows."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import faiss
import numpy as np
import torch

from knnlm.components.knn import gold_matches, log_p_knn
from knnlm.datastore.index import fill_index
from knnlm.datastore.store import Datastore
from knnlm.retrieval.query_blocks import slices
from knnlm.retrieval.running_neighbours import RunningNeighbours
from knnlm.running.progress import progress

QUERIES_AT_ONCE = 8192


def nprobe_search(
    index: faiss.IndexIVF, queries: np.ndarray, k: int, nprobes: list[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (nprobe, ids, similarities) for each of the ascending `nprobes`, as `index.search` finds them; the cost is that of the last alone (§5.11).

    queries: float32 (n, width); ids: int32 (n, k), −1 for none; similarities: float32 (n, k), best first. A query's lists are ranked once and
    visited in bands, from one nprobe to the next. The results share memory with the running result: use one before asking for the next.
    Runs on the CPU: `index` must be a CPU index. Raises ValueError if an nprobe is more than the index has lists, or they do not ascend.
    """
    if nprobes[-1] > index.nlist or any(low >= high for low, high in pairwise([0, *nprobes])):
        raise ValueError(f"nprobes {nprobes} do not ascend from at least 1 to at most {index.nlist}")
    sign = -1 if index.metric_type == faiss.METRIC_L2 else 1
    blocks = list(slices(len(queries), QUERIES_AT_ONCE))
    coarse, lists = (
        np.concatenate(parts)
        for parts in zip(*(index.quantizer.search(queries[rows], nprobes[-1]) for rows in blocks), strict=True)
    )
    running = RunningNeighbours(len(queries), k)
    for low, high in pairwise([0, *nprobes]):
        index.nprobe = high - low
        for rows in progress(blocks, f"search of lists {low} to {high}"):
            scores, ids = (
                torch.from_numpy(found)
                for found in index.search_preassigned(queries[rows], k, lists[rows, low:high], coarse[rows, low:high])
            )
            running.merge(rows, (sign * scores).masked_fill_(ids < 0, -torch.inf), ids.int())
        yield high, *running.snapshot()


def recall(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the share of each query's true neighbours that a search found, float64 (n,): recall@k.

    Both are ids, int (n, k), without repetition in a row, in any order; −1 is no row.
    """
    result = np.empty(len(true))
    for begin in range(0, len(true), QUERIES_AT_ONCE):
        rows = slice(begin, begin + QUERIES_AT_ONCE)
        ids = np.sort(
            np.concatenate([found[rows], true[rows]], axis=1), axis=1
        )  # a row of both stands twice, side by side
        result[rows] = np.count_nonzero((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0), axis=1) / true.shape[1]
    return result


def recoded_index(trained: faiss.IndexIVF, codes: int, sample: np.ndarray, seed: int) -> faiss.IndexIVFPQ:
    """Return an empty index with the lists of `trained` and product codes of `codes` bytes, trained on `sample`, float32 (rows, width).

    `codes` must divide the width. Nothing but the code size differs from an index of `trained`'s factory, sample and seed.
    """
    index = faiss.index_factory(trained.d, f"IVF{trained.nlist},PQ{codes}", trained.metric_type)
    index.quantizer.add(
        trained.quantizer.reconstruct_n(0, trained.nlist)
    )  # FAISS does not train a quantiser that has its centroids
    index.pq.cp.seed = seed
    index.do_polysemous_training = False  # as in train_index
    index.train(sample)
    return index


def fill_in_memory(index: faiss.Index, store: Datastore, h: str) -> None:
    """Add all keys of a store to a trained, empty index under their global ids, chunk by chunk."""
    for chunk in progress(store.chunks, f"filling an index with {h}"):
        fill_index(index, chunk, h)


def count_zero_rows(share: float, rows: int) -> int:
    """Return how many zero rows make up `share`, in [0, 1), of a store that has `rows` others (§2.2)."""
    return round(rows * share / (1 - share))


def padded_neighbours(
    ids: np.ndarray, similarities: np.ndarray, to_zero: np.ndarray, zero_rows: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows in a store to which `zero_rows` zero vectors were added, from those that the same search found without (§7.1a).

    ids: int32 (n, k), −1 for none; similarities: float32 (n, k), best first; to_zero: float32 (n,), each query's similarity to a zero vector as
    the search scores it, −inf where it does not come across it. The zero rows have the ids from `rows` on; a stored row that ties with them goes
    first. Returns ids and similarities as they came, best first.
    """
    k = ids.shape[1]
    before = np.count_nonzero(similarities >= to_zero[:, None], axis=1)[
        :, None
    ]  # all, where a zero row is out of reach
    after = before + np.minimum(zero_rows, k - before)
    place = np.arange(k)
    is_zero = (place >= before) & (place < after)
    stored = np.where(place < before, place, np.maximum(place - (after - before), 0))
    padded_ids = np.where(is_zero, rows + place - before, np.take_along_axis(ids, stored, 1)).astype(np.int32)
    return padded_ids, np.where(is_zero, to_zero[:, None], np.take_along_axis(similarities, stored, 1))


def similarity_to_zero(queries: np.ndarray, metric: str) -> np.ndarray:
    """Return each query's similarity to a zero vector, float32 (n,): −‖q‖² for `l2`, 0 for `ip`. queries: float32 (n, width)."""
    return -np.square(queries).sum(axis=1) if metric == "l2" else np.zeros(len(queries), np.float32)


def scanned_similarity_to_zero(trained: faiss.IndexIVF, nprobe: int, queries: np.ndarray) -> np.ndarray:
    """Return each query's similarity to a zero vector as a search of the index scores it, float32 (n,); −inf where it does not visit its list (§7.1a).

    queries: float32 (n, width). The zero vector is encoded by the quantisers of `trained`: all zero rows have one code in one list, and so tie.
    """
    zero = np.zeros((1, trained.d), np.float32)
    decoded, (_, home) = trained.sa_decode(trained.sa_encode(zero)), trained.quantizer.search(zero, 1)
    _, visited = trained.quantizer.search(queries, nprobe)
    scores = (
        -np.square(queries - decoded).sum(axis=1) if trained.metric_type == faiss.METRIC_L2 else queries @ decoded[0]
    )
    return np.where((visited == home).any(axis=1), scores, -np.inf).astype(np.float32)


def knn_scorer(
    found: dict[str, tuple[np.ndarray, np.ndarray]], values: np.ndarray, gold: dict[str, np.ndarray]
) -> Callable[[str, float], np.ndarray]:
    """Return the function of (split, temperature) that gives log p_kNN of the gold tokens, float32 (n,) in nats (§4.1).

    `found` holds ids, int (n, k), and similarities, float32 (n, k), of each split; values: int32 (rows,) by id; gold: int32 (n,) of each split.
    """
    matches = {split: gold_matches(ids, values, gold[split]) for split, (ids, _) in found.items()}
    return lambda split, temperature: log_p_knn(found[split][1], matches[split], temperature)
