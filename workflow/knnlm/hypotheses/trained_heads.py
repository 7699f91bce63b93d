"""From a head to a component: train the head on the stored states of the training text, evaluate it on valid and test.

A question says what differs: its head, its objective, the rows it trains on, and its name.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from knnlm.components.head_training import Rows, log_p_of, store_rows, train_head
from knnlm.components.heads import Head, Objective, OutputEmbedding, likelihood, random_weights
from knnlm.components.interpolation import best_mixture
from knnlm.components.recipes import best_rate, cut_off, rates_of, rises_at_end
from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.inputs import Inputs, Result, Results


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

    It is trained anew for each of the recipe's `learning_rates`. Passes and rates are judged on valid by what they are
    for, the mixture with the base LM; the facts say whether passes or rates ended too early. `with_ffn` gives the head
    the states `ffn` beside. `store_log_p_base` holds the base LM's log p for the rows of the store, float32 (rows,) in
    nats for each chunk, where the objective mixes with it. `place` are fields of Component (`series`, `x`). An attempt
    that was cut off keeps the heads that it has finished, rate by rate.
    """

    def evaluated_rows(split: str) -> Rows:
        ffn = inputs.queries(split, "ffn") if with_ffn else None
        return Rows(inputs.queries(split, h), inputs.gold[split], ffn, inputs.log_p_base[split])

    def mixed_loss(log_p: np.ndarray) -> float:
        return best_mixture(inputs.log_p_base["valid"], log_p)[0]

    def at_rate(rate: float, label: str) -> Result:
        head = make_head()
        evaluated = {split: evaluated_rows(split) for split in EVALUATED}
        rows = store_rows(inputs.store, h, recipe["rows"], with_ffn, store_log_p_base)
        how = recipe | {"learning_rate": rate}, inputs.seed, inputs.device, label
        trained = train_head(head, rows, evaluated["valid"], objective, mixed_loss, *how)
        added = sum(parameter.numel() for parameter in head.parameters)
        component = inputs.component(name, h=h, added_parameters=added, rows=head.rows, **place)
        log_p = {"valid": trained.log_p_valid, "test": log_p_of(head, evaluated["test"], inputs.device)}
        print(f"{label}: {trained.valid_loss:.4f} nats a token on valid, after pass {trained.best_pass}", flush=True)
        return Result(component, log_p, trained.facts() | {"learning_rate": rate} | cut_off(trained.cut_off_at))

    labels = {rate: f"{name} at {rate:g}" for rate in rates_of(recipe)}
    tried = {rate: inputs.kept(label, partial(at_rate, rate, label)) for rate, label in labels.items()}
    rate, end = best_rate({rate: result.facts["valid_loss"] for rate, result in tried.items()})
    facts = tried[rate].facts
    return replace(tried[rate], facts=facts | cut_off(facts.get("cut_off_at"), end))


def of_sizes(inputs: Inputs, sizes: list[int], results: Results) -> Results:
    """Pass results on; those of the largest of `sizes` say so where they are the best of their curve on valid.

    `results` come with ascending sizes (`x`); the curves (`series`) may alternate. The loss is that of the mixture.
    """
    losses: dict[str | None, dict[float, float]] = {}
    for result in results:
        of_curve = losses.setdefault(result.component.series, {})
        of_curve[result.component.x] = best_mixture(inputs.log_p_base["valid"], result.log_p["valid"])[0]
        if result.component.x == max(sizes) and rises_at_end(of_curve):
            facts = result.facts | cut_off(result.facts.get("cut_off_at"), "the largest size")
            result = replace(result, facts=facts)
        yield result
