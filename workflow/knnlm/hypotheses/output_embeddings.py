"""Learned output embeddings on stored states, with n rows for every word type, or more rows for some types
(docs/paper.md#softmax-capacity, docs/paper.md#adaptive-capacity).
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from knnlm.components.head_training import store_log_p
from knnlm.components.heads import OutputEmbedding, adaptive_rows, copied_weights, even_rows
from knnlm.hypotheses.inputs import Inputs, Results
from knnlm.hypotheses.trained_heads import generator, of_sizes, random_head, trained_head

NEEDS = ("states", "datastore", "model")
SETTINGS = {
    "h": "states",
    "n": "counts",
    "initial": {"properties": {"random": "own_recipe", "copies": "own_recipe"}, "required": []},
    "extra": {"type": "array", "items": {"title": "frequency or loss", "enum": ["frequency", "loss"]}},
    "total_ratio": "factor",
    "noise": "amount",
    "recipe": "shared_recipe",
}
WORK = {
    "hidden_states": "h", "components": "h, n, extra", "heads": "n, total_ratio for each extra",
    "rows": "initial.*.rows for each initial.*.learning_rates", "passes": "recipe.passes",
}  # fmt: skip


def layouts(inputs: Inputs) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield name, curve and the type of each row, int (R,), of every output matrix that the settings ask for."""
    types = len(inputs.output_embedding)
    for n in sorted({*inputs.settings["n"]}):
        yield f"{n}v", "", even_rows(types, n)
    for extra in inputs.settings["extra"]:
        rows = round(inputs.settings["total_ratio"] * types)
        yield extra, f"{extra}, ", adaptive_rows(amounts(inputs, extra), rows)


def amounts(inputs: Inputs, extra: str) -> np.ndarray:
    """Return what rows are allotted by, float (V,): each type's frequency in training, or 1 + its base-LM nats."""
    values, types = inputs.store.all_values(), len(inputs.output_embedding)
    if extra == "frequency":
        return np.bincount(values, minlength=types).astype(float)
    losses = -np.concatenate(store_log_p(inputs.store, inputs.output_embedding, None, inputs.device))
    return 1 + np.bincount(values, weights=losses, minlength=types)


def initial_head(inputs: Inputs, initial: str, row_types: np.ndarray) -> OutputEmbedding:
    """Return the head that training begins with: random, or W_sm's rows, with noise where a type has several."""
    if initial == "random":
        return random_head(inputs, row_types)
    W = inputs.output_embedding
    noise = inputs.settings["noise"] if len(row_types) > len(W) else 0.0
    return OutputEmbedding(copied_weights(W, row_types, noise, generator(inputs)).to(inputs.device), row_types, len(W))


def components(inputs: Inputs) -> Results:
    """Yield a trained head for each layout, input and way to begin; each way has its own rows and learning rates."""
    yield from of_sizes(inputs, inputs.settings["n"] or [1], heads(inputs))


def heads(inputs: Inputs) -> Results:
    """Yield the heads, smaller layouts first."""
    for layout, curve, row_types in layouts(inputs):
        x = len(row_types) / len(inputs.output_embedding)
        for h in inputs.settings["h"]:
            for initial, own in inputs.settings["initial"].items():
                head, recipe = partial(initial_head, inputs, initial, row_types), inputs.settings["recipe"] | own
                series = f"{h}, {curve}{initial}"
                yield trained_head(inputs, f"{h}-{layout}-{initial}", head, h, recipe, series=series, x=x)
