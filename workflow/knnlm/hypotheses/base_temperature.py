"""The base LM with a softmax temperature of its own, as kNN components have one (docs/paper.md#base-temperature)."""

from knnlm.components.base_temperature import best_temperature, log_p_at
from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.inputs import Inputs, Result, Results

NEEDS = ("states", "model", "temperature")


def components(inputs: Inputs) -> Results:
    """Yield `tuned`: the base LM at the τ that is best on valid, for the LM alone."""
    W = inputs.output_embedding
    queries = {split: inputs.queries(split, "ffn") for split in EVALUATED}
    found = best_temperature(queries["valid"], W, inputs.gold["valid"], inputs.temperature, inputs.device)
    component = inputs.component("tuned", h="ffn", rows=len(W)).tuned(*found)
    at = [component.temperature]
    log_p = {split: log_p_at(queries[split], W, inputs.gold[split], at, inputs.device)[0] for split in EVALUATED}
    yield Result(component, log_p)
