"""Centroids in place of the datastore: k-means of the store, means and samples of every word type, trained centroids
(docs/paper.md#clustering).

Centroids of length 1 (`spherical`, `normalised`) give the same distribution by −‖h−c‖² as by h·c, at twice the
temperature.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from knnlm.components import centroids, word_centroids
from knnlm.components.centroids import Clusters, Sample
from knnlm.components.head_training import store_rows
from knnlm.components.interpolation import best_mixture
from knnlm.components.knn import GoldShare
from knnlm.components.recipes import Watch, best_rate, cut_off, rates_of
from knnlm.components.word_centroids import Centroids, WordRows
from knnlm.corpus.text import EVALUATED
from knnlm.errors import KnnlmError
from knnlm.hypotheses.inputs import Inputs
from knnlm.hypotheses.results import Fact, Result, Results

NEEDS = ("states", "datastore", "temperature")
SETTINGS = {
    "h": "states",
    "kinds": "clusterings",
    "ratio": "positive",
    "kept": "count",
    "k_means": "k_means",
    "words": "word_clusters",
    "fine_tuning": "fine_tuning",
}
WORK = {
    "hidden_states": "h",
    "rows": "words.rows, fine_tuning.rows for each fine_tuning.learning_rates",
    "passes": "fine_tuning.passes",
    "components": "h",
    "temperatures": "h, kinds.*",
    "k_means": "k_means",
    "centroids_a_word": "ratio",
    "held_rows": "words.rows, fine_tuning.rows",
}
FINE_TUNED = "fine-tuned"
Made = tuple[Clusters, dict[str, Fact]]  # clusters and what was measured of them


def clustered(inputs: Inputs, h: str, spherical: bool = False, unit: bool = False) -> Made:
    """Cluster a sample of the store; all of its rows tell what words a centroid stands for."""
    settings, types = inputs.settings["k_means"], len(inputs.continuation)
    wanted = int(inputs.settings["ratio"] * types)
    sample = inputs.store.sample(h, settings["rows_per_centroid"] * wanted)  # (rows, width)
    if len(sample) < wanted:
        ratio = f"hypotheses.{inputs.hypothesis}.settings.ratio"
        print(f"{ratio}: {wanted} clusters lowered to {len(sample)}, as many as the store has rows", flush=True)
        wanted = len(sample)
    search = settings["factory"], settings["nprobe"], inputs.device
    keys = centroids.unit_length(sample) if unit else sample
    points, index = centroids.k_means(keys, wanted, settings["iterations"], inputs.seed, spherical, *search)
    found = [centroids.nearest_centroids(index, chunk.keys_of(h), unit) for chunk in inputs.store.chunks]
    cells = np.concatenate(found)  # (all rows,)
    distribution = centroids.word_distribution(cells, inputs.store.all_values(), wanted, types)
    clusters = centroids.occupied(points, distribution, unit)
    return clusters, centroids.distribution_facts(clusters, cells, wanted)


def mean_of_each(inputs: Inputs, h: str) -> Centroids:
    """Return the mean key of every word type."""
    blocks = ((chunk.keys_of(h), chunk.values_of_rows()) for chunk in inputs.store.chunks)
    return word_centroids.word_means(blocks, len(inputs.continuation))


def samples_of_each(inputs: Inputs, h: str) -> Centroids:
    """Return random keys of every word type."""
    values, chunks = inputs.store.all_values(), inputs.store.chunks
    ids = word_centroids.random_rows(values, inputs.settings["words"]["samples"], inputs.seed)  # global, ascending
    parts = np.split(ids, np.searchsorted(ids, [chunk.first_position for chunk in chunks])[1:])
    keys = [chunk.keys_of(h)[part - chunk.first_position] for chunk, part in zip(chunks, parts, strict=True)]
    return np.concatenate(keys).astype(np.float32), values[ids]


def two_of_each(inputs: Inputs, h: str) -> Centroids:
    """Return two means of every word type."""
    return word_centroids.two_means(rows_of_words(inputs, h), inputs.settings["words"]["iterations"])


def by_priority(inputs: Inputs, h: str, priority: Callable) -> Centroids:
    """Return one mean of every word type, and further ones where the priority is highest."""
    settings, wanted = inputs.settings["words"], int(inputs.settings["ratio"] * len(inputs.continuation))
    limits = settings["points_per_centroid"], settings["iterations"]
    return word_centroids.allotted(rows_of_words(inputs, h), wanted, *limits, priority)


def rows_of_words(inputs: Inputs, h: str) -> WordRows:
    """Hold in memory as many rows as the settings allow: a uniform sample, so that all types are thinned alike."""
    return word_centroids.sorted_by_word(*sampled_rows(inputs, h, inputs.settings["words"]["rows"]))


def sampled_rows(inputs: Inputs, h: str, rows: int | None) -> Sample:
    """Return about `rows` keys, None for all, and their values: a prefix of every chunk."""
    found = store_rows(inputs.store, h, rows)
    return inputs.store.sample(h, rows or inputs.store.rows), np.concatenate([part.gold for part in found])


# Which clusters there are: those of all keys, and those of single words.
OF_KEYS = {"kmeans": {}, "spherical": {"spherical": True}, "normalised": {"spherical": True, "unit": True}}
OF_WORDS = {
    "word-means": mean_of_each,
    "word-samples": samples_of_each,
    "two-means": two_of_each,
    "variance-driven": partial(by_priority, priority=word_centroids.variance_per_row),
    "squares-driven": partial(by_priority, priority=word_centroids.widest_cluster),
}


def made(inputs: Inputs, kind: str, h: str) -> Made:
    """Return the clusters of a kind, and what was measured of them."""
    if kind in OF_KEYS:
        return clustered(inputs, h, **OF_KEYS[kind])
    return centroids.one_word_each(*OF_WORDS[kind](inputs, h), len(inputs.continuation))


def evaluated(inputs: Inputs, kind: str, h: str, metric: str, clusters: Clusters, facts: dict[str, Fact]) -> Result:
    """Return the component that clusters make, its temperature tuned on what is kept for each query."""
    share = {split: gold_share(inputs, split, h, metric, clusters) for split in EVALUATED}
    count, width = clusters.centroids.shape
    pairs = clusters.distribution.nnz  # of a centroid and a word that it stands for
    added = count * width + (pairs if pairs > count else 0)  # P(w|c) is added too, where it is not one word
    facts = facts | {"pairs of word and centroid": pairs, "pairs as a share of the store": pairs / inputs.store.rows}
    described = {"h": h, "metric": metric, "k": min(inputs.settings["kept"], count), "rows": count, "series": kind}
    component = inputs.component(f"{h}-{metric}-{kind}", added_parameters=added, **described)
    return inputs.tuned(component, lambda split, temperature: share[split](temperature), **facts)


def gold_share(inputs: Inputs, split: str, h: str, metric: str, clusters: Clusters) -> GoldShare:
    """Return log p of the gold at any temperature, from its nearest centroids and their P(gold|c)."""
    queries, kept = inputs.queries(split, h), inputs.settings["kept"]
    similarities, ids = centroids.nearest_to_queries(queries, clusters, metric, kept, inputs.device)
    shares = centroids.gold_shares(clusters.distribution, ids, inputs.gold[split])
    return GoldShare(similarities, shares, inputs.device)


def trained(inputs: Inputs, h: str, metric: str, start: Clusters, temperature: float) -> Result:
    """Train centroids at the temperature that was best for them; tune it again for the rate and pass best on valid."""
    recipe, found, losses, best = inputs.settings["fine_tuning"], {}, {}, start
    sample = sampled_rows(inputs, h, recipe["rows"])
    for rate in rates_of(recipe):
        given = metric, temperature, recipe | {"learning_rate": rate}, inputs.seed, inputs.device
        watch = Watch(recipe["patience"])
        for points in centroids.fine_tune(start, sample, *given):
            clusters = Clusters(points, start.distribution)
            log_p = gold_share(inputs, "valid", h, metric, clusters)(temperature)
            if watch.improves(best_mixture(inputs.log_p_base["valid"], log_p)[0]):
                best = clusters
            if watch.has_stopped:
                break
        losses[rate], found[rate] = watch.lowest, (best, watch)
    rate, end = best_rate(losses)
    clusters, watch = found[rate]
    at_last = "the last pass" if watch.is_falling else None
    facts = {"best_pass": watch.best_pass, "passes": watch.passes, "learning_rate": rate} | cut_off(at_last, end)
    return evaluated(inputs, FINE_TUNED, h, metric, clusters, facts)


def components(inputs: Inputs) -> Results:
    """Make the clusters of every kind once for each h, and a component of them for each metric asked for."""
    asked = inputs.settings["kinds"]
    if without := set(asked.get(FINE_TUNED, ())) - set(asked.get("kmeans", ())):
        where = f"config key hypotheses.{inputs.hypothesis}.settings.kinds"
        remedy = f"add {', '.join(sorted(without))} to kmeans"
        raise KnnlmError(f"{where}: {FINE_TUNED} starts from the temperature of kmeans; {remedy}.")
    for h in inputs.settings["h"]:
        for kind in [kind for kind in (*OF_KEYS, *OF_WORDS) if asked.get(kind)]:
            clusters, facts = made(inputs, kind, h)
            for metric in asked[kind]:
                result = evaluated(inputs, kind, h, metric, clusters, facts)
                yield result
                if kind == "kmeans" and metric in asked.get(FINE_TUNED, ()):
                    yield trained(inputs, h, metric, clusters, result.component.temperature)
