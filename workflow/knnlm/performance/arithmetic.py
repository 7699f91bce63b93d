"""What is done with stored neighbours and stored log-probabilities: temperatures and λ, and the bootstrap, against doing it the long way."""

from collections.abc import Callable

import numpy as np

from knnlm.analysis.significance import bootstrap
from knnlm.components.catalogue import knn_components, retrievals
from knnlm.components.interpolation import optimal_weight
from knnlm.components.knn import log_p_knn
from knnlm.datastore.store import Datastore
from knnlm.performance.bench import Bench, Measured, interleaved, row
from knnlm.performance.search import QUERIES_OF_ROWS, Retrieval, query_count, random_queries

GOALS = {"temperatures": 100, "bootstrap": 50}
GOLD_SHARE = 0.1  # of the neighbours that have the gold token
DOCUMENTS = 40  # about as many as the test split of config/sotu.yaml has
LOOPED_RESAMPLES = 200


def measure(config: dict, retrieval: Retrieval, store: Datastore, bench: Bench) -> Measured:
    """Measure both."""
    tuned = temperatures(config["temperature"]["grid"], retrieval, store, bench)
    significance, components = (
        config["significance"],
        1 + sum(len(knn_components(config, *found)) for found in retrievals(config)),
    )
    return Measured([*tuned.rows, *resampling(components, significance["resamples"], bench)], tuned.rates)


def temperatures(grid: list[float], retrieval: Retrieval, store: Datastore, bench: Bench) -> Measured:
    """Compare the best λ at every temperature of the grid, from stored neighbours, with searching anew for each.

    One search and one temperature are measured: all take the same.
    """
    queries = random_queries(
        min(query_count(retrieval, store.rows, bench), QUERIES_OF_ROWS), retrieval.width, bench.seed
    )
    _, similarities = retrieval.exact(store, queries, bench.device, (1.0,))
    similarities, generator = similarities.copy(), np.random.default_rng(bench.seed)
    matches = generator.random(similarities.shape) < GOLD_SHARE
    log_p_base = np.log(generator.random(len(queries))).astype(np.float32)

    def searching() -> None:
        _, found = retrieval.exact(store, queries, bench.device, (1.0,))
        best_weights(found, matches, log_p_base, grid[:1])

    taken = interleaved(
        {"ours": lambda: best_weights(similarities, matches, log_p_base, grid), "search": searching},
        bench.pairs,
        bench.device,
    )
    ours, reference = len(grid) / taken["ours"], 1 / taken["search"]
    found = row(
        f"{len(grid)} temperatures with their λ: searching for each",
        "temperatures/s",
        ours,
        reference,
        GOALS["temperatures"],
    )
    return Measured([found], {"neighbour_terms": float(np.median(ours)) * similarities.size})


def best_weights(
    similarities: np.ndarray, matches: np.ndarray, log_p_base: np.ndarray, grid: list[float]
) -> list[float]:
    """Return the λ that is best at each temperature. similarities: float32 (n, k); matches: bool (n, k); log_p_base: float32 (n,), nats."""
    return [optimal_weight(log_p_base, log_p_knn(similarities, matches, temperature)) for temperature in grid]


def resampling(components: int, resamples: int, bench: Bench) -> list[dict]:
    """Compare the bootstrap of all kNN components and the base LM with a loop over resamples, done for one component after the other, or for all at once.

    Of the loops some resamples are measured, as all take the same.
    """
    generator = np.random.default_rng(bench.seed)
    words = generator.integers(500, 5000, DOCUMENTS)
    sums = -6 * words * generator.uniform(0.9, 1.1, (components, DOCUMENTS))
    looped = min(resamples, LOOPED_RESAMPLES)
    work: dict[str, Callable[[], object]] = {
        "ours": lambda: bootstrap(sums, words, resamples, bench.seed),
        "each": lambda: [looped_bootstrap(one, words, looped, bench.seed) for one in sums[:, None]],
        "at once": lambda: looped_bootstrap(sums, words, looped, bench.seed),
    }
    taken = interleaved(work, bench.pairs, "cpu")
    stage, ours = f"bootstrap of {components} components: a loop over resamples", resamples / taken["ours"]
    return [
        row(f"{stage} for each", "resamples/s", ours, looped / taken["each"], GOALS["bootstrap"]),
        row(f"{stage} for all at once", "resamples/s", ours, looped / taken["at once"]),
    ]


def looped_bootstrap(sums: np.ndarray, words: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return what `significance.bootstrap` does, up to the draw: perplexities, float64 (components, resamples), one resample after the other."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = generator.integers(len(words), size=len(words))
        found.append(np.exp(-sums[:, drawn].sum(axis=1) / words[drawn].sum()))
    return np.stack(found, axis=1)
