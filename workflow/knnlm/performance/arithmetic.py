"""Temperatures and λ from stored neighbours, and the bootstrap, against doing each the long way."""

from functools import partial

import numpy as np

from knnlm.analysis.significance import bootstrap
from knnlm.components.catalogue import knn_components, retrievals
from knnlm.components.interpolation import optimal_weight
from knnlm.components.knn import GoldShare
from knnlm.datastore.store import Datastore
from knnlm.performance.bench import Bench, Measured, median, row
from knnlm.performance.search import QUERIES_OF_ROWS, queries_for
from knnlm.performance.stores import WHOLE, Retrieval

GOALS = {"temperatures": 100, "bootstrap": 50}
GOLD_SHARE = 0.1  # of the neighbours that have the gold token
DOCUMENTS = 40  # about as many as the test split of config/sotu.yaml has
LOOPED_RESAMPLES = 200


def measure(config: dict, retrieval: Retrieval, store: Datastore, bench: Bench) -> Measured:
    """Measure both."""
    components = 1 + sum(len(knn_components(config, *found)) for found in retrievals(config))
    tuned = temperatures(config["temperature"]["grid"], retrieval, store, bench)
    return tuned + resampling(components, config["significance"]["resamples"], bench)


def temperatures(grid: list[float], retrieval: Retrieval, store: Datastore, bench: Bench) -> Measured:
    """Compare the best λ at every temperature, from stored neighbours, with a search for each, one of which is done."""
    queries = queries_for(retrieval, store, bench, most=QUERIES_OF_ROWS)
    searched = partial(retrieval.exact, store, queries, bench.device, WHOLE)
    similarities = searched()[1].copy()
    generator = np.random.default_rng(bench.seed)
    matches = generator.random(similarities.shape) < GOLD_SHARE
    log_p_base = np.log(generator.random(len(queries))).astype(np.float32)
    ours = partial(best_weights, similarities, matches, log_p_base, grid)
    search = (1, lambda: best_weights(searched()[1], matches, log_p_base, grid[:1]))
    speeds = bench.speeds(ours=(len(grid), ours), search=search)
    name = f"{len(grid)} temperatures with their λ: searching for each"
    found = row(name, "temperatures/s", speeds["ours"], speeds["search"], GOALS["temperatures"])
    return Measured([found], {"neighbour_terms": median(speeds["ours"]) * similarities.size})


def best_weights(near: np.ndarray, matches: np.ndarray, log_p_base: np.ndarray, grid: list[float]) -> list[float]:
    """Return the best λ at each temperature; `near` float32 (n, k), `matches` bool (n, k), `log_p_base` (n,) nats."""
    share = GoldShare(near, matches, ahead=grid)
    return [optimal_weight(log_p_base, share(temperature)) for temperature in grid]


def resampling(components: int, resamples: int, bench: Bench) -> Measured:
    """Compare the bootstrap of all components with a loop over some resamples, for each component and for all."""
    generator = np.random.default_rng(bench.seed)
    words = generator.integers(500, 5000, DOCUMENTS)
    sums = -6 * words * generator.uniform(0.9, 1.1, (components, DOCUMENTS))
    looped = min(resamples, LOOPED_RESAMPLES)
    speeds = bench.speeds(
        ours=(resamples, lambda: bootstrap(sums, words, resamples, bench.seed)),
        each=(looped, lambda: [looped_bootstrap(one, words, looped, bench.seed) for one in sums[:, None]]),
        at_once=(looped, lambda: looped_bootstrap(sums, words, looped, bench.seed)),
    )
    stage = f"bootstrap of {components} components: a loop over resamples for"
    each = row(f"{stage} each", "resamples/s", speeds["ours"], speeds["each"], GOALS["bootstrap"])
    return Measured([each, row(f"{stage} all at once", "resamples/s", speeds["ours"], speeds["at_once"])], {})


def looped_bootstrap(sums: np.ndarray, words: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Do what `significance.bootstrap` does, up to the draw, one resample after the other; shapes are those of it."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = generator.integers(len(words), size=len(words))
        found.append(np.exp(-sums[:, drawn].sum(axis=1) / words[drawn].sum()))
    return np.stack(found, axis=1)
