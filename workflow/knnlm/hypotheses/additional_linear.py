"""A linear layer on `att`, added to the base LM's logits before the softmax (docs/paper.md#additional-linear)."""

from functools import partial

import torch

from knnlm.components.heads import OutputEmbedding, even_rows
from knnlm.hypotheses.inputs import Inputs, Results
from knnlm.hypotheses.trained_heads import generator, trained_head

NEEDS = ("states", "datastore", "model")
SETTINGS = {"noise": "amount", "recipe": "recipe"}
WORK = {"rows": "recipe.rows for each recipe.learning_rates", "passes": "recipe.passes"}


def initial_head(inputs: Inputs) -> OutputEmbedding:
    """Return softmax(W att + W_sm ffn) with W near zero, of which only W, float32 (V, width), is trained."""
    fixed = torch.from_numpy(inputs.output_embedding).to(inputs.device)
    weights = torch.randn(fixed.shape, generator=generator(inputs)) * inputs.settings["noise"]
    return OutputEmbedding(weights.to(inputs.device), even_rows(len(fixed), 1), len(fixed), fixed)


def components(inputs: Inputs) -> Results:
    """Yield the trained layer, `att`."""
    yield trained_head(inputs, "att", partial(initial_head, inputs), "att", inputs.settings["recipe"], with_ffn=True)
