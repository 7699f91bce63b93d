"""Which word types can never be the argmax of the base LM's output embedding, or of the mean keys, and what that could cost (§5.14)."""

from collections.abc import Iterator

import numpy as np

from knnlm.components.argmaxable import ARGMAXABLE, find_argmaxable
from knnlm.components.catalogue import main_name
from knnlm.components.word_centroids import word_means
from knnlm.hypotheses.inputs import SPLITS, Inputs, Result

NEEDS = ("states", "datastore", "model", "components")
SETTINGS = {
    "means": "states",
    "states": "natural",
    "perceptron_steps": "natural",
    "most_linear_programs": "natural_or_null",
}
WORK = {"components": "means"}


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield `restored`: the base LM, but log p_kNN of the main exact component at every token whose type can never be the argmax (or is undecided).

    Told by the gold token, it is no distribution: with it nothing can be won but on those types, so its gain is the most that stolen probabilities explain.
    """
    never_argmax, facts = search(inputs, inputs.output_embedding, "ffn")
    for h in inputs.settings["means"]:
        means, _ = word_means(
            ((chunk.keys_of(h), chunk.values_of_rows()) for chunk in inputs.store.chunks), len(inputs.continuation)
        )
        _, facts_of_means = search(inputs, means, h)
        inputs.run_facts |= {f"mean {h} keys: {name}": value for name, value in facts_of_means.items()}
    main_h, metric = inputs.main["h"], inputs.main["metric"]
    knn = inputs.stored_component(main_name(inputs.main))
    stolen = {split: never_argmax[inputs.gold[split]] for split in SPLITS}
    log_p = {split: np.where(stolen[split], knn.log_p[split], inputs.log_p_base[split]) for split in SPLITS}
    shares = {f"share of stolen tokens in {split}": float(stolen[split].mean()) for split in SPLITS}
    yield Result(
        inputs.component("restored", h=main_h, metric=metric, score="real", mask="real"), log_p, facts | shares
    )


def search(inputs: Inputs, rows: np.ndarray, h: str) -> tuple[np.ndarray, dict[str, int]]:
    """Return which rows were not shown to be the argmax for some h, bool (rows,), and the counts of how that was found."""
    settings = inputs.settings
    states = np.concatenate([inputs.queries("valid", h), inputs.store.sample(h, settings["states"])])
    processes = inputs.job.threads
    verdict, facts = find_argmaxable(
        rows, states, settings["perceptron_steps"], processes, settings["most_linear_programs"], inputs.device
    )
    return verdict != ARGMAXABLE, facts
