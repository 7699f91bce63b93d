"""From a head to a component: train the head on the stored states of the training text, evaluate it on valid and test.

A question says what differs: its head, its objective, the rows it trains on, and its name.
"""

from collections.abc import Callable

import numpy as np
import torch

from knnlm.components.head_training import Rows, log_p_of, store_rows, train_head
from knnlm.components.heads import Head, Objective, OutputEmbedding, likelihood, random_weights
from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.inputs import Inputs, Result


def generator(inputs: Inputs) -> torch.Generator:
    """Return a new generator of random numbers with the run's seed: every head begins from the same draws."""
    return torch.Generator().manual_seed(inputs.seed)


def random_head(inputs: Inputs, row_types: np.ndarray) -> OutputEmbedding:
    """Return an untrained output embedding with a row for each of `row_types`, int (R,), ascending."""
    types, width = inputs.output_embedding.shape
    weights = random_weights(len(row_types), width, generator(inputs)).to(inputs.device)
    return OutputEmbedding(weights, row_types, types)


def trained_head(
    inputs: Inputs, name: str, make_head: Callable[[], Head], h: str, recipe: dict, objective: Objective = likelihood,
    *, with_ffn: bool = False, store_log_p_base: list[np.ndarray] | None = None, **place: object,
) -> Result:  # fmt: skip
    """Return the component `name`: what `make_head` returns, trained by `recipe` (as in `train_head`) on states `h`.

    `with_ffn` gives the head the states `ffn` beside. `store_log_p_base` holds the base LM's log p for the rows of
    the store, float32 (rows,) in nats for each chunk, where the objective mixes with it. `place` are fields of
    Component (`series`, `x`). An attempt that was cut off keeps the heads that it has finished.
    """

    def evaluated_rows(split: str) -> Rows:
        ffn = inputs.queries(split, "ffn") if with_ffn else None
        return Rows(inputs.queries(split, h), inputs.gold[split], ffn, inputs.log_p_base[split])

    def make() -> Result:
        head = make_head()
        evaluated = {split: evaluated_rows(split) for split in EVALUATED}
        rows = store_rows(inputs.store, h, recipe["rows"], with_ffn, store_log_p_base)
        trained = train_head(head, rows, evaluated["valid"], objective, recipe, inputs.seed, inputs.device, name)
        added = sum(parameter.numel() for parameter in head.parameters)
        component = inputs.component(name, h=h, added_parameters=added, rows=head.rows, **place)
        log_p = {"valid": trained.log_p_valid, "test": log_p_of(head, evaluated["test"], inputs.device)}
        return Result(component, log_p, trained.facts())

    return inputs.kept(name, make)
