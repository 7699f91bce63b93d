"""Mixtures of stored components, such as both metrics, with the best weights there are (docs/paper.md#ensembling)."""

import numpy as np

from knnlm.components.catalogue import resolved_name
from knnlm.components.mixture import mixture, simplex_weights
from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.inputs import Inputs, Result, Results

NEEDS = ("components",)
SETTINGS = {"ensembles": {"type": "object", "additionalProperties": {"$ref": "#/$defs/components"}}}


def components(inputs: Inputs) -> Results:
    """Yield for every entry of `ensembles` the mixture of its members, without the base LM.

    The members' shares are those of the joint optimum with the base LM on valid: interpolation with it gives that.
    """
    for name, members in inputs.settings["ensembles"].items():
        results = [inputs.stored_component(resolved_name(member, inputs.main)) for member in members]
        columns = {split: np.stack([result.log_p[split] for result in results]) for split in EVALUATED}
        weights = simplex_weights(np.vstack([inputs.log_p_base["valid"], columns["valid"]]))
        own = weights[1:]
        shares = own / own.sum() if own.any() else np.full(len(results), 1 / len(results))
        log_p = {split: mixture(column, shares).astype(np.float32) for split, column in columns.items()}
        names = (f"weight {result.component.component}" for result in results)
        added = sum(result.component.added_parameters for result in results)
        facts = {"weight base": weights[0], **dict(zip(names, own, strict=True))}
        yield Result(inputs.component(name, added_parameters=added), log_p, facts)
