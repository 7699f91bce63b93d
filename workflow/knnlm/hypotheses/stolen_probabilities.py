"""Which types are never the argmax of W_sm or mean keys, and what that costs (docs/paper.md#stolen-probabilities)."""

import numpy as np

from knnlm.components.argmaxable import ARGMAXABLE, find_argmaxable
from knnlm.components.catalogue import main_name
from knnlm.components.word_centroids import word_means
from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.inputs import Inputs, Result, Results

NEEDS = ("states", "datastore", "model", "components")
SETTINGS = {
    "means": "states", "states": "natural",
    "perceptron_steps": "natural", "most_linear_programs": "natural_or_null",
}  # fmt: skip
WORK = {"components": "means"}


def components(inputs: Inputs) -> Results:
    """Yield `restored`: the base LM, but log p_kNN at every token whose type was not shown to be argmaxable.

    p_kNN is that of the main exact component. Since the gold token tells where it is used, `restored` is no
    distribution: it wins on those types alone, so its gain is the most that stolen probabilities explain.
    """
    never_argmax, facts = search(inputs, inputs.output_embedding, "ffn")
    for h in inputs.settings["means"]:
        blocks = ((chunk.keys_of(h), chunk.values_of_rows()) for chunk in inputs.store.chunks)
        _, facts_of_means = search(inputs, word_means(blocks, len(inputs.continuation))[0], h)
        inputs.run_facts |= {f"mean {h} keys: {name}": value for name, value in facts_of_means.items()}
    knn = inputs.stored_component(main_name(inputs.main))
    stolen = {split: never_argmax[inputs.gold[split]] for split in EVALUATED}  # bool (n,) each
    log_p = {split: np.where(stolen[split], knn.log_p[split], inputs.log_p_base[split]) for split in EVALUATED}
    facts |= {f"share of stolen tokens in {split}": float(stolen[split].mean()) for split in EVALUATED}
    yield Result(inputs.component("restored", **inputs.main, score="real", mask="real"), log_p, facts)


def search(inputs: Inputs, rows: np.ndarray, h: str) -> tuple[np.ndarray, dict[str, int]]:
    """Return which rows were not shown to be the argmax for some h, bool (rows,), and how many were by which test."""
    settings = inputs.settings
    states = np.concatenate([inputs.queries("valid", h), inputs.store.sample(h, settings["states"])])
    limits = settings["perceptron_steps"], inputs.job.threads, settings["most_linear_programs"]
    verdict, facts = find_argmaxable(rows, states, *limits, inputs.device)
    return verdict != ARGMAXABLE, facts
