"""Temperatures and λ from stored neighbours, intervals, a head on stored states, each against the long way."""

from functools import partial

import numpy as np
import torch

from knnlm.analysis.intervals import Confidence, interval, log_perplexities
from knnlm.components.catalogue import knn_components, retrievals
from knnlm.components.head_training import Rows, loss_alone, train_head, training_precision
from knnlm.components.heads import OutputEmbedding, even_rows, likelihood, random_weights
from knnlm.components.interpolation import optimal_weight
from knnlm.components.knn import GoldShare
from knnlm.corpus.windows import fixed_windows
from knnlm.datastore.store import Datastore
from knnlm.language_model.transformer import LanguageModel
from knnlm.performance.bench import Bench, Measured, median, row
from knnlm.performance.language_model import bare_forward, inputs, multiplying, random_tokens
from knnlm.performance.search import QUERIES_OF_ROWS, queries_for
from knnlm.performance.stores import WHOLE, Retrieval, random_vectors

GOALS = {"temperatures": 100, "intervals": 50, "epoch": 0.4}
GOLD_SHARE = 0.1  # of the neighbours that have the gold token
UNITS = 60  # of a test split: documents of WikiText-103, or blocks of some ten documents
BATCH, MOST_BATCHES = 1024, 256  # of an epoch: rows an update, as in config/hypotheses.yaml, and updates


def measure(config: dict, retrieval: Retrieval, store: Datastore, bench: Bench) -> Measured:
    """Measure both."""
    components = 1 + sum(len(knn_components(config, *found)) for found in retrievals(config))
    tuned = temperatures(config["temperature"]["grid"], retrieval, store, bench)
    return tuned + intervals(components, config["significance"]["level"], bench)


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
    share = GoldShare(near, matches, ahead=[grid])
    return [optimal_weight(log_p_base, share(temperature)) for temperature in grid]


def intervals(components: int, level: float, bench: Bench) -> Measured:
    """Compare the intervals of all components with a loop over units, for each component and for all."""
    generator = np.random.default_rng(bench.seed)
    words = generator.integers(500, 5000, UNITS)
    sums = -6 * words * generator.uniform(0.9, 1.1, (components, UNITS))
    confidence = Confidence.of(words, level)
    speeds = bench.speeds(
        ours=(components, lambda: interval(log_perplexities(sums, words), confidence)),
        each=(components, lambda: [looped_error(one, words) for one in sums[:, None]]),
        at_once=(components, lambda: looped_error(sums, words)),
    )
    stage = f"intervals of {components} components: a loop over units for"
    each = row(f"{stage} each", "components/s", speeds["ours"], speeds["each"], GOALS["intervals"])
    return Measured([each, row(f"{stage} all at once", "components/s", speeds["ours"], speeds["at_once"])], {})


def looped_error(sums: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the standard error of each component's nats a word, (components,), with one unit left out after another.

    `sums` is (components, units) in nats, `words` (units,).
    """
    left = [-np.delete(sums, unit, axis=1).sum(axis=1) / np.delete(words, unit).sum() for unit in range(words.size)]
    return np.sqrt((words.size - 1) * np.var(left, axis=0))


def epoch(rows: Rows, weights: torch.Tensor, types: int, batch: int, device: str) -> torch.Tensor:
    """Pass once over all rows: read, both products, softmax, gradient, Adam; return a trained copy of the matrix."""
    head = OutputEmbedding(weights.clone(), even_rows(types, len(weights) // types), types)
    recipe = {"passes": 1, "patience": 1, "batch": batch, "learning_rate": 1e-3, "betas": [0.9, 0.999], "warmup": 0.1}
    one = Rows(rows.states[:1], rows.gold[:1])  # the loss on valid is no part of an epoch
    train_head(head, [rows], one, likelihood, loss_alone, recipe, seed=1, device=device, label="epoch")
    return head.parameters[0]


def output_embedding(config: dict, vocabulary: int, model: LanguageModel, bench: Bench) -> Measured:
    """Compare an epoch of an output embedding with its three matrix products, and with the LM before it.

    The three, h Wᵀ, Gᵀ h and G W of a batch, go into buffers made before. On frozen states, ours makes no G W.
    """
    window, width = config["windows"]["train"], config["lm"]["architecture"]["width"]
    batches = bench.fitting(6 * BATCH * width * vocabulary, most=MOST_BATCHES)
    tokens = random_tokens(BATCH * batches, vocabulary, bench.seed)
    rows = Rows(random_vectors(len(tokens), width, bench.seed), tokens)
    weights = random_weights(vocabulary, width, torch.Generator().manual_seed(bench.seed)).to(bench.device)
    sources = inputs(tokens, fixed_windows(len(tokens), window["context"], window["new"]))
    ours = partial(epoch, rows, weights, vocabulary, BATCH, bench.device)
    shapes = (BATCH, width, vocabulary), (vocabulary, BATCH, width), (BATCH, vocabulary, width)
    products = multiplying([(batches, 1, *shape) for shape in shapes], bench.device)
    work = {"ours": ours, "products": training_precision()(products)}
    work["forward"] = lambda: (bare_forward(model, sources), ours())
    speeds = bench.speeds(**{name: (len(tokens), job) for name, job in work.items()})
    gigaflops, name = 6e-9 * weights.numel(), "epoch of an output embedding:"
    own, products = gigaflops * speeds["ours"], gigaflops * speeds["products"]
    found = [row(f"{name} its three matrix products", "GFLOP/s", own, products, GOALS["epoch"])]
    found.append(row(f"{name} with the LM's forward pass before it", "rows/s", speeds["ours"], speeds["forward"]))
    return Measured(found, {"head_flops": median(own) * 1e9})
