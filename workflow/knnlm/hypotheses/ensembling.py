"""Mixtures of stored components, such as both metrics or a second seed, with the best weights on the simplex
(docs/paper.md#ensembling).
"""

from collections.abc import Iterator

import numpy as np

from knnlm.components.catalogue import resolved_name
from knnlm.components.mixture import mixture, simplex_weights
from knnlm.corpus.text import EVALUATED
from knnlm.hypotheses.inputs import Inputs
from knnlm.hypotheses.results import Result

NEEDS = ("components",)
SETTINGS = {"ensembles": {"type": "object", "additionalProperties": {"$ref": "#/$defs/components"}}}


def components(inputs: Inputs) -> Iterator[Result]:
    """Yield for every entry of `ensembles` the mixture of its members, without the base LM.

    The members' shares are those of the joint optimum with the base LM on valid, so that interpolating the mixture with
    the base LM gives that optimum.
    """
    for name, members in inputs.settings["ensembles"].items():
        results = [inputs.stored_component(resolved_name(member, inputs.main)) for member in members]
        on_valid = [inputs.log_p_base["valid"], *(result.log_p["valid"] for result in results)]
        weights = simplex_weights(np.stack(on_valid))
        own = weights[1:]
        shares = own / own.sum() if own.any() else np.full(len(results), 1 / len(results))
        log_p = {
            split: mixture(np.stack([result.log_p[split] for result in results]), shares).astype(np.float32)
            for split in EVALUATED
        }
        names = (f"weight {result.component.component}" for result in results)
        added = sum(result.component.added_parameters for result in results)
        facts = {"weight base": weights[0], **dict(zip(names, own, strict=True))}
        yield Result(inputs.component(name, added_parameters=added), log_p, facts)
