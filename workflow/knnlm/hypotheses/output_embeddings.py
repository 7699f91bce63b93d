"""Learned output embeddings on stored states, with n rows for every word type or more for some (spec §5.1, §5.3)."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from knnlm.components.head_training import Rows, log_p_of, store_log_p, store_rows, train_head
from knnlm.components.heads import OutputEmbedding, adaptive_rows, copied_weights, even_rows, likelihood, random_weights
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result, run_hypothesis

NEEDS = ("states", "datastore", "model")
SETTINGS = {
    "h": "list of att|ffn",
    "n": "list of count",
    "initial": {"random|copies": {"rows": "count or null", "learning_rate": "positive"}},
    "extra": "list of frequency|loss",
    "total_ratio": "factor",
    "noise": "amount",
    "recipe": {"passes": "count", "batch": "count", "betas": "betas", "warmup": "share"},
}


def layouts(inputs: Inputs) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield name, curve and the type of each row, int (R,), of every output matrix that the settings ask for."""
    types = len(inputs.output_embedding)
    for n in inputs.settings["n"]:
        yield f"{n}v", "", even_rows(types, n)
    for extra in inputs.settings["extra"]:
        yield extra, f"{extra}, ", adaptive_rows(amounts(inputs, extra), round(inputs.settings["total_ratio"] * types))


def amounts(inputs: Inputs, extra: str) -> np.ndarray:
    """Return what rows are allotted by, float (V,): the types' frequencies in training, or 1 + their total loss under the base LM."""
    types = len(inputs.output_embedding)
    if extra == "frequency":
        return np.bincount(inputs.store.all_values(), minlength=types).astype(float)
    losses = -np.concatenate(store_log_p(inputs.store, inputs.output_embedding, None, inputs.device))
    return 1 + np.bincount(inputs.store.all_values(), weights=losses, minlength=types)


def initial_weights(inputs: Inputs, initial: str, row_types: np.ndarray) -> torch.Tensor:
    """Return the matrix that training begins with, float32 (R, width)."""
    W, generator = inputs.output_embedding, torch.Generator().manual_seed(inputs.seed)
    if initial == "random":
        return random_weights(len(row_types), W.shape[1], generator)
    return copied_weights(W, row_types, inputs.settings["noise"] if len(row_types) > len(W) else 0.0, generator)


def trained_head(inputs: Inputs, h: str, initial: str, row_types: np.ndarray, component: str, curve: str) -> Result:
    """Train one head on one input; each way to begin has its rows and learning rate."""
    types, own = len(inputs.output_embedding), inputs.settings["initial"][initial]
    evaluated = {split: Rows(inputs.queries(split, h), inputs.gold[split]) for split in SPLITS}
    weights = initial_weights(inputs, initial, row_types).to(inputs.device)
    head, rows = OutputEmbedding(weights, row_types, types), store_rows(inputs.store, h, own["rows"])
    trained = train_head(
        head,
        rows,
        evaluated["valid"],
        likelihood,
        inputs.settings["recipe"] | own,
        inputs.seed,
        inputs.device,
        component,
    )
    place = {"series": f"{h}, {curve}{initial}", "x": len(weights) / types}
    described = inputs.component(component, h=h, added_parameters=weights.numel(), rows=len(weights), **place)
    return Result(
        described, {split: log_p_of(head, evaluated[split], inputs.device) for split in SPLITS}, trained.facts()
    )


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield a trained head for each layout, input and way to begin."""
    for layout, curve, row_types in layouts(inputs):
        for h in inputs.settings["h"]:
            for initial in inputs.settings["initial"]:
                component = f"{h}-{layout}-{initial}"
                yield inputs.kept(component, partial(trained_head, inputs, h, initial, row_types, component, curve))


if __name__ == "__main__":
    run_hypothesis(components)
