"""Mixtures of K softmaxes over the base LM's output embedding (docs/paper.md#mixture-of-softmaxes)."""

from functools import partial

import torch

from knnlm.components.heads import MixtureOfSoftmaxes
from knnlm.hypotheses.inputs import Inputs, Results
from knnlm.hypotheses.trained_heads import generator, of_sizes, trained_head

NEEDS = ("states", "datastore", "model")
SETTINGS = {"h": "states", "K": "counts", "noise": "amount", "recipe": "recipe"}
WORK = {
    "hidden_states": "h", "components": "h, K", "heads": "K",
    "rows": "recipe.rows for each recipe.learning_rates", "passes": "recipe.passes",
}  # fmt: skip


def initial_head(inputs: Inputs, h: str, K: int) -> MixtureOfSoftmaxes:
    """Return K experts that begin near the base LM on `ffn`, which W_sm was made for, and at random on `att`."""
    output_embedding, draws = torch.from_numpy(inputs.output_embedding), generator(inputs)
    width, noise = output_embedding.shape[1], inputs.settings["noise"]
    experts = torch.randn(K, width, width, generator=draws)
    experts = torch.eye(width) + noise * experts if h == "ffn" else experts * width**-0.5
    prior = torch.randn(K, width, generator=draws) * noise
    parts = output_embedding, prior, torch.zeros(K), experts, torch.zeros(K, width)
    return MixtureOfSoftmaxes(*(part.to(inputs.device) for part in parts))


def components(inputs: Inputs) -> Results:
    """Yield a trained mixture for each input and K."""
    yield from of_sizes(inputs, inputs.settings["K"], mixtures(inputs))


def mixtures(inputs: Inputs) -> Results:
    """Yield the mixtures of each input, K ascending."""
    for h in inputs.settings["h"]:
        for K in sorted({*inputs.settings["K"]}):
            head = partial(initial_head, inputs, h, K)
            yield trained_head(inputs, f"{h}-{K}", head, h, inputs.settings["recipe"], series=h, x=K)
