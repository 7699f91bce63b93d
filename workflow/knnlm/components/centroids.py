"""Clusters in place of the datastore: centroids, the words they stand for, and the distribution they give a query.

p(w|h) = Σ_c softmax(s(h, c)/τ)_c P(w|c), where s is −‖h−c‖² or h·c (docs/paper.md#clustering). As a kNN distribution is
cut to k neighbours, so this one is cut to the centroids nearest to the query: every temperature is then arithmetic on
what was kept (`knn.log_p_knn`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import faiss
import numpy as np
import torch
from scipy import sparse

from knnlm.components.adam import Adam
from knnlm.datastore.factory import GPU_MOST_CHOSEN, ROWS_AT_ONCE
from knnlm.datastore.index import METRICS
from knnlm.retrieval.blocks import slices

QUERIES_AT_ONCE = 8192  # searched together
DENSE_AT_ONCE = 256  # queries whose P(gold|c) for all centroids is written out, one tile at a time
Sample = tuple[np.ndarray, np.ndarray]  # keys, float32 (n, width), and the word of each, int32 (n,)


@dataclass(frozen=True)
class Clusters:
    """Centroids, float32 (C, width), and P(w|c), float32 (C, V), whose rows sum to 1.

    `unit` says that keys and queries are scaled to length 1.
    """

    centroids: np.ndarray
    distribution: sparse.csr_array
    unit: bool = False


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, width), scaled to length 1 as float32; a zero vector stays one."""
    vectors = np.array(vectors, dtype=np.float32)
    faiss.normalize_L2(vectors)
    return vectors


def k_means(
    keys: np.ndarray, centroids: int, iterations: int, seed: int, spherical: bool, factory: str, nprobe: int,
    device: str = "cpu",
) -> tuple[np.ndarray, faiss.Index]:  # fmt: skip
    """Cluster keys, float32 (n, width), n ≥ centroids; return float32 (centroids, width) and the index that holds them.

    Plain: Lloyd's algorithm. Spherical: centroids have length 1, and a key belongs to the one with the largest inner
    product. An index of `factory` assigns the rows: exactly if it is `Flat`, approximately if it is such as
    `IVF128,Flat`, which visits `nprobe` of its lists. FAISS refills a centroid that loses all its rows with half of a
    large one's. On a GPU the index is there; the means are made on the CPU.
    """
    width = keys.shape[1]
    clustering = faiss.Clustering(width, centroids)
    clustering.niter, clustering.seed, clustering.spherical = iterations, seed, spherical
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(keys)  # every key counts
    index = faiss.index_factory(width, factory, METRICS["ip" if spherical else "l2"])
    if is_divided := isinstance(index, faiss.IndexIVF):
        index.nprobe = nprobe
    if device != "cpu":
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)  # with its nprobe
    if is_divided:
        index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    clustering.train(keys, index)
    return faiss.vector_to_array(clustering.centroids).reshape(centroids, width), index


def nearest_centroids(index: faiss.Index, keys: np.ndarray, unit: bool) -> np.ndarray:
    """Return the centroid of every key, int64 (rows,); `unit` scales the keys to length 1 first.

    keys: float16 or float32 (rows, width), read by blocks.
    """
    found = np.empty(len(keys), dtype=np.int64)
    for rows in slices(len(keys), ROWS_AT_ONCE):
        _, nearest = index.search(unit_length(keys[rows]) if unit else keys[rows].astype(np.float32), 1)  # (rows, 1)
        found[rows] = nearest[:, 0]
    return found


def word_distribution(cells: np.ndarray, values: np.ndarray, centroids: int, types: int) -> sparse.csr_array:
    """Return P(w|c) by counting, float32 (centroids, types); the row of a centroid without a key stays 0.

    cells and values, int (rows,), are each row's centroid and word.
    """
    counts = sparse.csr_array((np.ones(len(cells)), (cells, values)), shape=(centroids, types))
    counts.data /= np.repeat(counts.sum(axis=1), np.diff(counts.indptr))
    return counts.astype(np.float32)


def occupied(centroids: np.ndarray, distribution: sparse.csr_array, unit: bool = False) -> Clusters:
    """Leave out the centroids that no row belongs to: they stand for no word."""
    some = np.diff(distribution.indptr) > 0
    return Clusters(np.ascontiguousarray(centroids[some]), distribution[some], unit)


def distribution_facts(clusters: Clusters, cells: np.ndarray, centroids: int) -> dict[str, float]:
    """Return what k-means made of the keys: `cells`, int (rows,), is each key's among `centroids` of them."""
    p = clusters.distribution.data  # P(w|c) > 0
    # of each entry of P: the keys of its centroid
    rows = np.repeat(np.bincount(cells, minlength=centroids)[np.unique(cells)], np.diff(clusters.distribution.indptr))
    return {
        "share of empty centroids": 1 - len(clusters.centroids) / centroids,
        "word types per centroid": len(p) / len(clusters.centroids),
        "nats of a word given its centroid, on the store": float(-(rows * p * np.log(p)).sum() / len(cells)),
    }


def one_word_each(centroids: np.ndarray, owners: np.ndarray, types: int) -> tuple[Clusters, dict[str, float]]:
    """Return clusters that each stand for one word, P(owner|c) = 1, and how many a word type has where some have many.

    centroids: float32 (C, width); owners: int (C,).
    """
    each = np.unique(owners, return_counts=True)[1]
    most, several = float(each.max()), float((each > 1).sum())
    facts = {"word types with more than one centroid": several, "most centroids of one word type": most}
    clusters = Clusters(centroids, word_distribution(np.arange(len(owners)), owners, len(owners), types))
    return clusters, facts if most > 2 else {}


def nearest_to_queries(
    queries: np.ndarray, clusters: Clusters, metric: str, kept: int, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities, float32 (n, m), and ids, int64 (n, m), of the m = min(kept, C) centroids nearest to queries.

    queries: float32 (n, width).
    """
    kept = min(kept, len(clusters.centroids))
    on_gpu = device != "cpu" and kept <= GPU_MOST_CHOSEN
    search = partial(faiss.knn_gpu, faiss.StandardGpuResources()) if on_gpu else faiss.knn
    similarities, ids = np.empty((len(queries), kept), dtype=np.float32), np.empty((len(queries), kept), dtype=np.int64)
    for rows in slices(len(queries), QUERIES_AT_ONCE):
        block = unit_length(queries[rows]) if clusters.unit else queries[rows]
        scores, ids[rows] = search(block, clusters.centroids, kept, metric=METRICS[metric])
        similarities[rows] = -scores if metric == "l2" else scores
    return similarities, ids


def gold_shares(distribution: sparse.csr_array, ids: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return P(gold|c) of given centroids, float32 (n, m). distribution: (C, V); ids: int (n, m); gold: int (n,).

    Memory: DENSE_AT_ONCE × C floats.
    """
    of_words = sparse.csr_array(distribution.T)
    shares = np.empty(ids.shape, dtype=np.float32)
    for rows in slices(len(ids), DENSE_AT_ONCE):
        shares[rows] = np.take_along_axis(of_words[gold[rows]].toarray(), ids[rows], axis=1)
    return shares


class GoldCentroids(NamedTuple):
    """The centroids that stand for each row's gold word, row after row, on the device."""

    counts: torch.Tensor  # of each row, int64 (rows,), which sum to m
    ids: torch.Tensor  # int64 (m,)
    log_shares: torch.Tensor  # log P(gold|c), float32 (m,)


def centroid_gradient(
    keys: torch.Tensor, centroids: torch.Tensor, gold: GoldCentroids, temperature: float, metric: str
) -> torch.Tensor:
    """Return the gradient of the rows' mean −log p(gold) by the centroids, float32 (C, width); P(w|c) is held fixed.

    keys: float32 (rows, width). With z = s/τ the gradient by z is softmax(z) − softmax(z + log P), and the second
    softmax is 0 but at the centroids of the gold word.
    """
    if metric == "l2":  # 2 h·c − ‖c‖²: the query's own length cancels
        norms = centroids.square().sum(1)
        logits = torch.addmm(norms, keys, centroids.T, beta=-1 / temperature, alpha=2 / temperature)  # (rows, C)
    else:
        logits = keys @ centroids.T / temperature
    row = torch.repeat_interleave(gold.counts)  # of each of the gold's centroids, (m,)
    of_gold = logits[row, gold.ids] + gold.log_shares
    of_gold -= torch.segment_reduce(of_gold, "max", lengths=gold.counts, unsafe=True)[row]
    of_gold = of_gold.exp_()
    of_gold /= torch.segment_reduce(of_gold, "sum", lengths=gold.counts, unsafe=True)[row]
    by_logits = torch.softmax(logits, 1)  # (rows, C)
    by_logits[row, gold.ids] -= of_gold
    pulled = by_logits.T @ keys  # (C, width)
    gradient = 2 * (pulled - by_logits.sum(0)[:, None] * centroids) if metric == "l2" else pulled
    return gradient / (temperature * len(keys))


def fine_tune(
    clusters: Clusters, sample: Sample, metric: str, temperature: float, recipe: dict, seed: int, device: str
) -> Iterator[np.ndarray]:
    """Train the centroids to minimise −log p(gold) at a fixed temperature; yield them, float32 (C, width), every pass.

    `recipe` holds `passes` over the sample, `batch` (keys an update), each of which is compared with all centroids, and
    Adam's `learning_rate`. Memory: a few times batch × C floats.
    """
    keys, values = sample
    centroids = torch.from_numpy(clusters.centroids.copy()).to(device)
    optimiser = Adam([centroids])
    log_of_words = sparse.csr_array(clusters.distribution.T)
    log_of_words.data = np.log(log_of_words.data)
    generator = np.random.default_rng(seed)
    for _ in range(recipe["passes"]):
        order = generator.permutation(len(keys))
        for some in slices(len(order), recipe["batch"]):
            rows = order[some]
            of_gold = log_of_words[values[rows]]
            parts = np.diff(of_gold.indptr).astype(np.int64), of_gold.indices.astype(np.int64), of_gold.data
            gold = GoldCentroids(*(torch.from_numpy(part).to(device) for part in parts))
            batch = torch.from_numpy(keys[rows]).to(device)  # (batch, width)
            centroids.grad = centroid_gradient(batch, centroids, gold, temperature, metric)
            optimiser.step(recipe["learning_rate"])
        yield centroids.cpu().numpy().copy()
