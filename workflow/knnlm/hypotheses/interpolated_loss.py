"""Output embeddings trained on the loss of their mixture with the base LM (docs/paper.md#interpolated-loss)."""

from functools import partial

from knnlm.components.head_training import store_log_p
from knnlm.components.heads import even_rows, interpolated_likelihood
from knnlm.hypotheses.inputs import Inputs, Results
from knnlm.hypotheses.trained_heads import of_sizes, random_head, trained_head

NEEDS = ("states", "datastore", "model")
SETTINGS = {"h": "states", "n": "counts", "lambda": "share", "recipe": "recipe"}
WORK = {
    "hidden_states": "h", "components": "h, n", "heads": "n",
    "rows": "recipe.rows for each recipe.learning_rates", "passes": "recipe.passes",
}  # fmt: skip


def components(inputs: Inputs) -> Results:
    """Yield a trained head for each input and number n of rows a word type."""
    yield from of_sizes(inputs, inputs.settings["n"], heads(inputs))


def heads(inputs: Inputs) -> Results:
    """Yield the heads of each input, n ascending."""
    recipe, types = inputs.settings["recipe"], len(inputs.output_embedding)
    objective = partial(interpolated_likelihood, inputs.settings["lambda"])
    log_p_base = store_log_p(inputs.store, inputs.output_embedding, recipe["rows"], inputs.device)
    for h in inputs.settings["h"]:
        for n in sorted({*inputs.settings["n"]}):
            head = partial(random_head, inputs, even_rows(types, n))
            place = {"store_log_p_base": log_p_base, "series": h, "x": n}
            yield trained_head(inputs, f"{h}-{n}v", head, h, recipe, objective, **place)
