"""Centroids in place of the datastore: k-means of the store, means and samples of every word type, and trained centroids (§5.7, §5.8).

Centroids of length 1 (`spherical`, `normalised`) give the same distribution by −‖h−c‖² as by h·c, at twice the temperature.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from knnlm.components.centroids import (
    Clusters,
    Training,
    fine_tune,
    gold_shares,
    k_means,
    nearest_centroids,
    nearest_to_queries,
    occupied,
    one_word_each,
    unit_length,
    word_distribution,
)
from knnlm.components.knn import log_p_knn
from knnlm.components.word_centroids import (
    Cluster,
    WordRows,
    allotted,
    random_rows,
    sorted_by_word,
    two_means,
    variance_per_row,
    widest_cluster,
    word_means,
)
from knnlm.datastore.store import prefix_rows
from knnlm.errors import KnnlmError
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result

NEEDS = ("states", "datastore", "temperature")
SETTINGS = {
    "h": "states",
    "kinds": {
        "properties": {
            "kmeans": "metrics",
            "spherical": "metrics",
            "normalised": "metrics",
            "word-means": "metrics",
            "word-samples": "metrics",
            "two-means": "metrics",
            "variance-driven": "metrics",
            "squares-driven": "metrics",
            "fine-tuned": "metrics",
        },
        "required": [],
    },
    "ratio": "positive",
    "kept": "count",
    "k_means": {
        "properties": {"rows_per_centroid": "count", "iterations": "count", "factory": "flat_index", "nprobe": "count"}
    },
    "words": {
        "properties": {"rows": "count", "samples": "count", "iterations": "count", "points_per_centroid": "count"}
    },
    "fine_tuning": {"properties": {"passes": "count", "rows": "count", "batch": "count", "learning_rate": "positive"}},
}
WORK = {
    "hidden_states": "h",
    "rows": "words.rows, fine_tuning.rows",
    "passes": "fine_tuning.passes",
    "components": "h",
    "temperatures": "h, kinds.*",
    "k_means": "k_means",
    "centroids_a_word": "ratio",
    "held_rows": "words.rows",
}

FINE_TUNED = "fine-tuned"
Made = tuple[Clusters, dict[str, float]]  # clusters and what was measured of them


def clustered(inputs: Inputs, h: str, spherical: bool = False, unit: bool = False) -> Made:
    """Cluster a sample of the store; all of its rows tell what words a centroid stands for."""
    settings, types = inputs.settings["k_means"], len(inputs.continuation)
    wanted = int(inputs.settings["ratio"] * types)
    sample = inputs.store.sample(h, settings["rows_per_centroid"] * wanted)
    if len(sample) < wanted:
        where = f"config key hypotheses.{inputs.hypothesis}.settings.ratio"
        raise KnnlmError(
            f"{where}: {len(sample)} rows cannot be divided into {wanted} clusters, {types} word types times the ratio; lower it."
        )
    search = settings["factory"], settings["nprobe"]
    centroids, index = k_means(
        unit_length(sample) if unit else sample, wanted, settings["iterations"], inputs.seed, spherical, *search
    )
    cells = np.concatenate([nearest_centroids(index, chunk.keys_of(h), unit) for chunk in inputs.store.chunks])
    clusters = occupied(centroids, word_distribution(cells, inputs.store.all_values(), wanted, types), unit)
    share = clusters.distribution.data
    rows = np.repeat(np.bincount(cells, minlength=wanted)[np.unique(cells)], np.diff(clusters.distribution.indptr))
    return clusters, {
        "share of empty centroids": 1 - len(clusters.centroids) / wanted,
        "word types per centroid": len(share) / len(clusters.centroids),
        "nats of a word given its centroid, on the store": float(-(rows * share * np.log(share)).sum() / len(cells)),
    }


def mean_of_each(inputs: Inputs, h: str) -> Made:
    """Take the mean key of every word type."""
    blocks = ((chunk.keys_of(h), chunk.values_of_rows()) for chunk in inputs.store.chunks)
    return words_own(inputs, *word_means(blocks, len(inputs.continuation)))


def samples_of_each(inputs: Inputs, h: str) -> Made:
    """Take random keys of every word type."""
    values = inputs.store.all_values()
    ids = random_rows(values, inputs.settings["words"]["samples"], inputs.seed)
    edges = np.searchsorted(ids, [chunk.first_position for chunk in inputs.store.chunks])
    parts = zip(inputs.store.chunks, np.split(ids, edges[1:]), strict=True)
    keys = np.concatenate([chunk.keys_of(h)[part - chunk.first_position] for chunk, part in parts])
    return words_own(inputs, keys.astype(np.float32), values[ids])


def two_of_each(inputs: Inputs, h: str) -> Made:
    """Take two means of every word type."""
    return words_own(inputs, *two_means(rows_of_words(inputs, h), inputs.settings["words"]["iterations"]))


def as_many_as_asked_for(inputs: Inputs, h: str, priority: Callable[[list[Cluster]], float]) -> Made:
    """Take one mean of every word type, and further ones where the priority is highest."""
    settings, wanted = inputs.settings["words"], int(inputs.settings["ratio"] * len(inputs.continuation))
    return words_own(
        inputs,
        *allotted(rows_of_words(inputs, h), wanted, settings["points_per_centroid"], settings["iterations"], priority),
    )


def rows_of_words(inputs: Inputs, h: str) -> WordRows:
    """Hold in memory as many rows of the store as the settings allow: a uniform sample, so that all types are thinned alike."""
    keys, values = sampled_rows(inputs, h, inputs.settings["words"]["rows"])
    return sorted_by_word(keys, values)


def sampled_rows(inputs: Inputs, h: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return about `rows` keys, float32 (n, width), and their values, int32 (n,): a prefix of every chunk."""
    fraction = min(1.0, rows / inputs.store.rows)
    values = np.concatenate(
        [chunk.values_of_rows()[: prefix_rows(fraction, chunk.rows)] for chunk in inputs.store.chunks]
    )
    return inputs.store.sample(h, rows), values


def words_own(inputs: Inputs, centroids: np.ndarray, owners: np.ndarray) -> Made:
    """Let each centroid stand for one word."""
    each = np.unique(owners, return_counts=True)[1]
    several = {
        "word types with more than one centroid": float((each > 1).sum()),
        "most centroids of one word type": float(each.max()),
    }
    return one_word_each(centroids, owners, len(inputs.continuation)), several if each.max() > 2 else {}


KINDS: dict[str, Callable[[Inputs, str], Made]] = {
    "kmeans": clustered,
    "spherical": partial(clustered, spherical=True),
    "normalised": partial(clustered, spherical=True, unit=True),
    "word-means": mean_of_each,
    "word-samples": samples_of_each,
    "two-means": two_of_each,
    "variance-driven": partial(as_many_as_asked_for, priority=variance_per_row),
    "squares-driven": partial(as_many_as_asked_for, priority=widest_cluster),
}


def evaluated(inputs: Inputs, kind: str, h: str, metric: str, clusters: Clusters, facts: dict[str, float]) -> Result:
    """Return the component that clusters make, its temperature tuned on what is kept for each query."""
    scored = {split: scores(inputs, split, h, metric, clusters) for split in SPLITS}
    count, width = clusters.centroids.shape
    # P(w|c) is added too, where it is not one word
    added = count * width + (clusters.distribution.nnz if clusters.distribution.nnz > count else 0)
    kept = scored["valid"][0].shape[1]
    component = inputs.component(
        f"{h}-{metric}-{kind}", h=h, metric=metric, k=kept, rows=count, added_parameters=added, series=kind
    )
    return inputs.tuned(component, lambda split, temperature: log_p_knn(*scored[split], temperature), **facts)


def scores(inputs: Inputs, split: str, h: str, metric: str, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Return what every temperature is arithmetic on: the similarities of the nearest centroids and their P(gold|c), float32 (n, kept)."""
    similarities, ids = nearest_to_queries(inputs.queries(split, h), clusters, metric, inputs.settings["kept"])
    return similarities, gold_shares(clusters.distribution, ids, inputs.gold[split])


def trained(inputs: Inputs, h: str, metric: str, start: Clusters, temperature: float) -> Result:
    """Train k-means centroids at the temperature that was best for them; keep the pass that is best on valid and tune its temperature again."""
    settings = inputs.settings["fine_tuning"]
    keys, values = sampled_rows(inputs, h, settings["rows"])
    training = Training(settings["passes"], settings["batch"], settings["learning_rate"])
    losses = []
    for centroids in fine_tune(start, keys, values, metric, temperature, training, inputs.seed, inputs.device):
        clusters = Clusters(centroids, start.distribution)
        losses.append(inputs.loss(log_p_knn(*scores(inputs, "valid", h, metric, clusters), temperature)))
        if losses[-1] == min(losses):
            best = clusters
    return evaluated(inputs, FINE_TUNED, h, metric, best, {"best pass": float(np.argmin(losses) + 1)})


def components(inputs: Inputs) -> Iterator[Result]:
    """Make the clusters of every kind once for each representation, and a component of them for each metric that is asked for."""
    asked = inputs.settings["kinds"]
    where = f"config key hypotheses.{inputs.hypothesis}.settings.kinds"
    if without := set(asked.get(FINE_TUNED, ())) - set(asked.get("kmeans", ())):
        raise KnnlmError(
            f"{where}: {FINE_TUNED} starts from the temperature of kmeans; add {', '.join(sorted(without))} to kmeans."
        )
    for h in inputs.settings["h"]:
        for kind in [kind for kind in KINDS if asked.get(kind)]:
            clusters, facts = KINDS[kind](inputs, h)
            for metric in asked[kind]:
                result = evaluated(inputs, kind, h, metric, clusters, facts)
                yield result
                if kind == "kmeans" and metric in asked.get(FINE_TUNED, ()):
                    yield trained(inputs, h, metric, clusters, result.component.temperature)
