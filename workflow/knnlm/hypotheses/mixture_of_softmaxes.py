"""Mixtures of K softmaxes over the base LM's output embedding (spec §5.4)."""

from collections.abc import Iterator
from functools import partial

import torch

from knnlm.components.head_training import Rows, log_p_of, store_rows, train_head
from knnlm.components.heads import MixtureOfSoftmaxes, likelihood
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result, run_hypothesis

NEEDS = ("states", "datastore", "model")
SETTINGS = {
    "h": "list of att|ffn",
    "K": "list of count",
    "noise": "amount",
    "recipe": {
        "passes": "count",
        "rows": "count or null",
        "batch": "count",
        "learning_rate": "positive",
        "betas": "betas",
        "warmup": "share",
    },
}


def initial_head(inputs: Inputs, h: str, K: int) -> MixtureOfSoftmaxes:
    """Return K experts that begin near the base LM where they see `ffn`, which W_sm was made for, and at random where they see `att`."""
    output_embedding, generator = torch.from_numpy(inputs.output_embedding), torch.Generator().manual_seed(inputs.seed)
    width = output_embedding.shape[1]
    experts = torch.randn(K, width, width, generator=generator)
    experts = torch.eye(width) + inputs.settings["noise"] * experts if h == "ffn" else experts * width**-0.5
    prior = torch.randn(K, width, generator=generator) * inputs.settings["noise"]
    return MixtureOfSoftmaxes(
        *(part.to(inputs.device) for part in (output_embedding, prior, torch.zeros(K), experts, torch.zeros(K, width)))
    )


def trained_mixture(inputs: Inputs, h: str, K: int) -> Result:
    """Train a mixture of K softmaxes."""
    evaluated = {split: Rows(inputs.queries(split, h), inputs.gold[split]) for split in SPLITS}
    recipe, head = inputs.settings["recipe"], initial_head(inputs, h, K)
    rows = store_rows(inputs.store, h, recipe["rows"])
    trained = train_head(head, rows, evaluated["valid"], likelihood, recipe, inputs.seed, inputs.device, f"{h}-{K}")
    parameters = sum(parameter.numel() for parameter in head.parameters)
    component = inputs.component(
        f"{h}-{K}", h=h, added_parameters=parameters, rows=K * len(inputs.output_embedding), series=h, x=K
    )
    return Result(
        component, {split: log_p_of(head, evaluated[split], inputs.device) for split in SPLITS}, trained.facts()
    )


def components(inputs: Inputs) -> Iterator[Result]:
    for h in inputs.settings["h"]:
        for K in inputs.settings["K"]:
            yield inputs.kept(f"{h}-{K}", partial(trained_mixture, inputs, h, K))


if __name__ == "__main__":
    run_hypothesis(components)
