"""A linear layer on `att` whose output is added to the base LM's logits before the softmax (spec §5.2 a)."""

from collections.abc import Iterator

import torch

from knnlm.components.head_training import Rows, log_p_of, store_rows, train_head
from knnlm.components.heads import OutputEmbedding, even_rows, likelihood
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result, run_hypothesis

NEEDS = ("states", "datastore", "model")
SETTINGS = {
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


def components(inputs: Inputs) -> Iterator[Result]:
    recipe, fixed = inputs.settings["recipe"], torch.from_numpy(inputs.output_embedding).to(inputs.device)
    weights = torch.randn(fixed.shape, generator=torch.Generator().manual_seed(inputs.seed)) * inputs.settings["noise"]
    head = OutputEmbedding(weights.to(inputs.device), even_rows(len(fixed), 1), len(fixed), fixed)
    evaluated = {
        split: Rows(inputs.queries(split, "att"), inputs.gold[split], inputs.queries(split, "ffn")) for split in SPLITS
    }
    rows = store_rows(inputs.store, "att", recipe["rows"], with_ffn=True)
    trained = train_head(head, rows, evaluated["valid"], likelihood, recipe, inputs.seed, inputs.device, "att")
    component = inputs.component("att", h="att", added_parameters=weights.numel(), rows=len(weights))
    yield Result(
        component, {split: log_p_of(head, evaluated[split], inputs.device) for split in SPLITS}, trained.facts()
    )


if __name__ == "__main__":
    run_hypothesis(components)
