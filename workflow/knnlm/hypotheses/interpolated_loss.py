"""Output embeddings trained for what they add to the base LM: the loss of the mixture (spec §5.6)."""

from collections.abc import Iterator
from functools import partial

import torch

from knnlm.components.head_training import Rows, log_p_of, store_log_p, store_rows, train_head
from knnlm.components.heads import OutputEmbedding, even_rows, interpolated_likelihood, random_weights
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result, run_hypothesis

NEEDS = ("states", "datastore", "model")
SETTINGS = {
    "h": "list of att|ffn",
    "n": "list of count",
    "lambda": "share",
    "recipe": {
        "passes": "count",
        "rows": "count or null",
        "batch": "count",
        "learning_rate": "positive",
        "betas": "betas",
        "warmup": "share",
    },
}


def trained_head(inputs: Inputs, h: str, n: int, rows: list[Rows]) -> Result:
    """Train a head with n rows for every word type, on rows that know log p of the base LM."""
    recipe, (types, width) = inputs.settings["recipe"], inputs.output_embedding.shape
    objective = interpolated_likelihood(inputs.settings["lambda"])
    evaluated = {
        split: Rows(inputs.queries(split, h), inputs.gold[split], log_p_base=inputs.log_p_base[split])
        for split in SPLITS
    }
    weights = random_weights(n * types, width, torch.Generator().manual_seed(inputs.seed)).to(inputs.device)
    head = OutputEmbedding(weights, even_rows(types, n), types)
    trained = train_head(head, rows, evaluated["valid"], objective, recipe, inputs.seed, inputs.device, f"{h}-{n}v")
    component = inputs.component(f"{h}-{n}v", h=h, added_parameters=weights.numel(), rows=len(weights), series=h, x=n)
    return Result(
        component, {split: log_p_of(head, evaluated[split], inputs.device) for split in SPLITS}, trained.facts()
    )


def components(inputs: Inputs) -> Iterator[Result]:
    recipe = inputs.settings["recipe"]
    log_p_base = store_log_p(inputs.store, inputs.output_embedding, recipe["rows"], inputs.device)
    for h in inputs.settings["h"]:
        rows = store_rows(inputs.store, h, recipe["rows"], log_p_base=log_p_base)
        for n in inputs.settings["n"]:
            yield inputs.kept(f"{h}-{n}v", partial(trained_head, inputs, h, n, rows))


if __name__ == "__main__":
    run_hypothesis(components)
