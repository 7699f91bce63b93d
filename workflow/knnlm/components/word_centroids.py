"""Centroids of single word types: means, random keys, two means, and as many as their variance asks for.

All of a word's rows count in its centroids and in its within-cluster sum of squares. The priority in the paper's code
divided the objective of at most 256 sampled rows by the count of all, so that frequent words looked compact
(docs/paper.md#clustering).
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import faiss
import numpy as np
from scipy import sparse

from knnlm.datastore.factory import ROWS_AT_ONCE
from knnlm.retrieval.blocks import slices

Centroids = tuple[np.ndarray, np.ndarray]  # float32 (C, width), and the word type of each, int64 (C,)
Cluster = tuple[float, np.ndarray]  # the sum of squares around the mean, and the keys, float32 (n, width)
Priority = Callable[[list[Cluster]], float]


@dataclass(frozen=True)
class WordRows:
    """Keys sorted by word."""

    keys: np.ndarray  # float32 (rows, width)
    words: np.ndarray  # int64 (T,), the types that occur
    starts: np.ndarray  # int64 (T + 1,), where their rows begin and the last ends

    def of(self, number: int) -> np.ndarray:
        """Return the rows of the type `words[number]`."""
        return self.keys[self.starts[number] : self.starts[number + 1]]


def sorted_by_word(keys: np.ndarray, values: np.ndarray) -> WordRows:
    """Group keys (rows, width) by their word. values: int (rows,). Memory: a copy of the keys in float32."""
    order = np.argsort(values, kind="stable")
    words, starts = np.unique(values[order], return_index=True)
    return WordRows(keys[order].astype(np.float32), words.astype(np.int64), np.append(starts, len(order)))


def word_means(blocks: Iterable[tuple[np.ndarray, np.ndarray]], types: int) -> Centroids:
    """Return the mean key of every type that occurs.

    blocks: keys, float (rows, width), and values, int (rows,), as of chunks. Sums in float64; memory: types × width.
    """
    sums, counts = 0, np.zeros(types, dtype=np.int64)
    for keys, values in blocks:
        for rows in slices(len(values), ROWS_AT_ONCE):
            block = np.asarray(values[rows])
            sums = sums + _membership(block, types) @ keys[rows].astype(np.float64)  # (types, width)
            counts += np.bincount(block, minlength=types)
    words = np.flatnonzero(counts)
    return (sums[words] / counts[words, None]).astype(np.float32), words


def random_rows(values: np.ndarray, per_word: int, seed: int) -> np.ndarray:
    """Return the places, int64, sorted, of `per_word` random rows of every type or all it has; values: int (rows,)."""
    shuffled = np.random.default_rng(seed).permutation(len(values))
    order = shuffled[np.argsort(values[shuffled], kind="stable")]
    _, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(starts, counts)
    return np.sort(order[rank < per_word])


def two_means(rows: WordRows, iterations: int) -> Centroids:
    """Return the two means of every type; one where its rows are all the same."""
    means, owners = [], []
    for number, word in enumerate(rows.words.tolist()):
        keys = rows.of(number)
        side = halves(keys, iterations)
        parts = [keys] if side.all() else [keys[side], keys[~side]]
        means += [part.mean(axis=0) for part in parts]
        owners += [word] * len(parts)
    return np.stack(means), np.array(owners)


def variance_per_row(clusters: list[Cluster]) -> float:
    """Return a type's within-cluster variance over all of its rows: what the paper's priority was meant to be."""
    return sum(squares for squares, _ in clusters) / sum(len(keys) for _, keys in clusters)


def widest_cluster(clusters: list[Cluster]) -> float:
    """Return the sum of squares of a type's widest cluster: what one more centroid can take off k-means' objective.

    The type's whole sum falls so slowly with each centroid that the few most frequent types would take them all.
    """
    return max(squares for squares, _ in clusters)


def allotted(rows: WordRows, centroids: int, least_points: int, iterations: int, priority: Priority) -> Centroids:
    """Give every type one mean, then one more, again and again, to the type whose clusters have the highest `priority`.

    2-means cut that type's widest cluster in two; at the end the clusters of each type go on together in Lloyd
    iterations over its rows. It ends with `centroids` in all, or when every type has no variance left, or fewer than
    `least_points` rows for each centroid that it would have.
    """
    clusters = [[cluster_of(rows.of(number))] for number in range(len(rows.words))]
    waiting = [(-priority(parts), number) for number, parts in enumerate(clusters)]
    heapq.heapify(waiting)
    made = len(clusters)
    while made < centroids and waiting:
        number = heapq.heappop(waiting)[1]
        parts = clusters[number]
        if len(rows.of(number)) < least_points * (len(parts) + 1):
            continue
        widest = max(range(len(parts)), key=[squares for squares, _ in parts].__getitem__)
        keys = parts[widest][1]
        side = halves(keys, iterations)
        if side.all():
            continue
        parts[widest : widest + 1] = cluster_of(keys[side]), cluster_of(keys[~side])
        heapq.heappush(waiting, (-priority(parts), number))
        made += 1
    starts = [np.stack([keys.mean(axis=0) for _, keys in parts]) for parts in clusters]
    means = [lloyd(rows.of(number), start, iterations) for number, start in enumerate(starts)]
    return np.concatenate(means), np.repeat(rows.words, [len(parts) for parts in clusters])


def halves(keys: np.ndarray, iterations: int) -> np.ndarray:
    """Divide keys, float32 (n, width), by 2-means; return bool (n,), all true where the keys are all the same.

    It starts with the two sides of the mean in the direction of the key farthest from it, and ends when nothing moves.
    """
    apart = keys - keys.sum(axis=0) / len(keys)
    squares = np.einsum("ij,ij->i", apart, apart)
    if squares.max() <= np.finfo(np.float32).eps * max(1.0, float(np.square(keys[0]).sum())):
        return np.ones(len(keys), dtype=bool)
    side = apart @ apart[squares.argmax()] > 0
    for _ in range(iterations):
        count = np.count_nonzero(side)
        if count in (0, len(keys)):
            return np.ones(len(keys), dtype=bool)
        one = side.astype(np.float32) @ apart
        first, second = one / count, -one / (len(keys) - count)  # the rows stand around 0
        moved = apart @ (first - second) > (first @ first - second @ second) / 2
        if (moved == side).all():
            break
        side = moved
    return side


def cluster_of(keys: np.ndarray) -> Cluster:
    """Return Σ ‖key − mean‖² of keys, float32 (n, width), and the keys."""
    apart = keys - keys.mean(axis=0)
    return float(np.vdot(apart, apart)), keys


def lloyd(keys: np.ndarray, means: np.ndarray, iterations: int) -> np.ndarray:
    """Return the means, float32 (C, width), after Lloyd iterations over keys (n, width); one without keys stays put."""
    if len(means) == 1:
        return means
    for _ in range(iterations):
        nearest = faiss.knn(keys, means, 1)[1][:, 0]
        counts = np.bincount(nearest, minlength=len(means))
        sums = _membership(nearest, len(means)) @ keys
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], means).astype(np.float32)
    return means


def _membership(groups: np.ndarray, count: int) -> sparse.csr_array:
    """Return the matrix (count, rows) that sums rows by their group."""
    ones = np.ones(len(groups), dtype=np.float32)
    return sparse.csr_array((ones, (groups, np.arange(len(groups)))), shape=(count, len(groups)))
