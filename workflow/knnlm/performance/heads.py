"""An epoch of a V×D output embedding on stored states, against its three matrix products, and with the LM before it.

The three are logits = h Wᵀ, dW = Gᵀ h and dh = G W of a whole batch, into buffers that are there already. As states are
frozen, ours makes no dh.
"""

from functools import partial

import torch

from knnlm.components.head_training import Rows, train_head, training_precision
from knnlm.components.heads import OutputEmbedding, even_rows, likelihood, random_weights
from knnlm.corpus.windows import fixed_windows
from knnlm.language_model.transformer import LanguageModel
from knnlm.performance.bench import Bench, Measured, median, row
from knnlm.performance.language_model import bare_forward, inputs, multiplying, random_tokens
from knnlm.performance.stores import random_vectors

GOAL = 0.4
BATCH = 1024  # rows an update, as in config/hypotheses.yaml
MOST_BATCHES = 256


def epoch(rows: Rows, weights: torch.Tensor, types: int, batch: int, device: str) -> torch.Tensor:
    """Pass once over all rows: read, both products, softmax, gradient, Adam; return a trained copy of the matrix."""
    head = OutputEmbedding(weights.clone(), even_rows(types, len(weights) // types), types)
    recipe = {"passes": 1, "batch": batch, "learning_rate": 1e-3, "betas": [0.9, 0.999], "warmup": 0.1}
    one = Rows(rows.states[:1], rows.gold[:1])  # the loss on valid is no part of an epoch
    train_head(head, [rows], one, likelihood, recipe, seed=1, device=device, label="epoch")
    return head.parameters[0]


def measure(config: dict, vocabulary: int, model: LanguageModel, bench: Bench) -> Measured:
    """Measure one output embedding for every word type, on rows of the LM's width."""
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
    found = [row(f"{name} its three matrix products", "GFLOP/s", own, products, GOAL)]
    found.append(row(f"{name} with the LM's forward pass before it", "rows/s", speeds["ours"], speeds["forward"]))
    return Measured(found, {"head_flops": median(own) * 1e9})
